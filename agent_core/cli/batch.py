"""`sampan batch FILE`: many messages, one per line, and their answers in the same order."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent_core.api.batch_schemas import BatchView
from agent_core.cli import options
from agent_core.cli.progress import PlainProgress, Screen
from agent_core.cli.screen import complain, json_out, on_terminal, say
from agent_core.errors import AgentError, ConfigError, ConnectError, CutError, InputError
from agent_core.settings import Settings

LOOK_SECONDS = 0.5
PATIENCE = 60
"""How many looks in a row may find no server before we give up; the batch goes on without us."""

OVER = ("succeeded", "failed", "cancelled")


def batch(
    file: Annotated[Path, typer.Argument(help="Lines of JSON: what POST /api/v1/agent takes, or OpenAI's.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay till the end and write the results (without --url: always).")
    ] = False,
    agent: options.AgentName = "",
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="How many lines at the same time.")] = 8,
    usd: Annotated[
        float | None, typer.Option(min=0.0, help="Begin no line once they have cost this much.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the results.", show_default="FILE.results.jsonl")
    ] = None,
    deadline: Annotated[
        str, typer.Option(help="24h lets the provider's batch endpoint answer, at half price.")
    ] = "",
    name: Annotated[str, typer.Option(help="Another name makes another batch of the same file.")] = "",
    url: options.Url = "",
    data: options.Data = None,
    agents: options.Agents = None,
    json: options.Json = False,
) -> None:
    """Answer every line of a file. Stopped in the middle, the same command goes on where it was."""
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if deadline not in ("", "24h"):
        raise InputError(f"--deadline takes 24h, not {deadline!r}")
    if usd is not None and usd <= 0:
        raise InputError("--usd takes more than 0")
    settings = Settings.from_env(data=data, agents=agents)
    if not url and settings.store == "memory":
        raise ConfigError("SAMPAN_STORE=memory forgets a batch with the process: use `sqlite`, or --url")
    if not settings.wire and find_spec("aiohttp"):  # less CPU per call than the one that loads quickly
        settings = msgspec.structs.replace(settings, wire="aiohttp")
    job = Job(
        file=file,
        out=out or file.with_name(f"{file.stem}.results.jsonl"),
        agent=agent,
        concurrency=concurrency,
        usd=usd,
        deadline=deadline,
        name=name,
        size=file.stat().st_size,
        stay=watch or out is not None,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        shown = runner.run(_submitted(settings, job, url))
    if json:
        json_out(shown)
    if shown.status in ("failed", "cancelled"):
        raise AgentError(f"the batch {shown.status}: {shown.reason}")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with which file."""

    file: Path
    out: Path
    agent: str
    concurrency: int
    usd: float | None
    deadline: str
    name: str
    size: int
    stay: bool

    def key(self) -> str:
        """What names the batch: the same file, options and name are the same batch, whoever submits it when."""
        digest = hashlib.sha256()
        with self.file.open("rb") as source:
            while piece := source.read(1024 * 1024):
                digest.update(piece)
        said = [self.agent, self.concurrency, self.usd, self.deadline, self.name]
        digest.update(msgspec.json.encode(said))
        return digest.hexdigest()


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    # Only here: it is an extra of servers.
    import uvloop

    return uvloop.Loop


async def _submitted(settings: Settings, job: Job, url: str) -> BatchView:
    # Imported here, so that a wrong option is told at once.
    from agent_core.batches.service import Options
    from agent_core.cli.desk import opened, upload

    wanted = Options(agent=job.agent, concurrency=job.concurrency, usd=job.usd, deadline=job.deadline)
    async with opened(settings, url) as (desk, clock):
        shown = await desk.open(wanted, job.key())
        say(f"batch {shown.batch_id}{_known(shown)}", "dim", stderr=True)
        shown = await upload(desk, shown, job.file, job.size, clock)
        for error in shown.errors[:5]:
            complain(InputError(f"line {error.line}: {error.detail}"))
        if shown.lines.invalid > 5:
            complain(InputError(f"{shown.lines.invalid} lines in all can't be read"))
        if not (desk.waits or job.stay):
            say(
                f"{shown.lines.total} lines taken; the same command with --watch shows how far it is",
                stderr=True,
            )
            return shown
        lost = 0
        with _progress() as screen:
            while shown.status not in OVER:
                screen.show(shown, clock.monotonic())
                await clock.sleep(LOOK_SECONDS)
                try:
                    shown, lost = await desk.look(shown.batch_id), 0
                except (ConnectError, CutError):
                    lost += 1
                    if lost == PATIENCE:
                        raise
            screen.end(shown)
        part = job.out.with_name(job.out.name + ".part")
        with part.open("wb") as target:
            async for piece in desk.results(shown.batch_id):
                target.write(piece)
        part.replace(job.out)
        say(f"results in {job.out}", stderr=True)
        return shown


def _known(shown: BatchView) -> str:
    if shown.status == "uploading":
        return f" · going on at byte {shown.received:,}" if shown.received else ""
    done, total = shown.lines.done + shown.lines.skipped, shown.lines.total
    return f" · {shown.status}: {done:,} of {total:,} lines were done before"


def _progress() -> AbstractContextManager[Screen]:
    if not on_terminal():
        return PlainProgress()
    # Only where a person sees it.
    from agent_core.cli.bar import Bar

    return Bar()
