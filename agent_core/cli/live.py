"""An answer as it comes: text, tool calls and their results, then what it took."""

from __future__ import annotations

from typing import Protocol

from rich.live import Live
from rich.markdown import Markdown

from agent_core.api.views import RunView
from agent_core.cli.screen import clipped, console, money, on_terminal, say, seconds
from agent_core.cli.talk import Stopwatch, Talk, Told
from agent_core.errors import CutError


class Writer(Protocol):
    """Where the text of an answer goes."""

    def write(self, text: str) -> None:
        """The next bit."""

    def close(self) -> None:
        """What was held back; the next write begins anew."""


async def show(talk: Talk, text: str, watch: Stopwatch, writer: Writer | None) -> RunView:
    """Say the text and show the answer while it comes (without a writer, nothing). Gives the run at its end."""
    run: RunView | None = None
    shown = ""
    try:
        async for told in talk.send(text):
            watch.see(told)
            run = told.run
            if writer is not None:
                _show(told, writer)
                shown += told.data.get("text", "") if told.type == "text" else ""
        if (
            writer is not None
            and run is not None
            and run.reply is not None
            and not shown.endswith(run.reply.text)
        ):
            writer.write(run.reply.text)  # it did not come in pieces
    finally:
        if writer is not None:
            writer.close()
    if run is None:
        raise CutError("the answer broke off")
    return run


def _show(told: Told, writer: Writer) -> None:
    if told.type == "text":
        writer.write(told.data["text"])
    elif told.type == "tool_call":
        writer.close()
        say(f"→ {told.data['name']} {clipped(told.data.get('arguments', '{}'), 100)}", "magenta")
    elif told.type == "tool_result":
        writer.close()
        failed = told.data.get("error", False)
        say(f"← {clipped(told.data['content'], 100)}", "red" if failed else "dim")


def failure(run: RunView) -> str:
    """Why the run gave no answer; "" where it did."""
    if run.problem is not None:
        return run.problem.detail or run.problem.title
    return "" if run.reply is not None else f"the run ended as {run.status}, without an answer"


def figures(run: RunView, watch: Stopwatch) -> str:
    """Models, tokens, money and time of a run on a line."""
    parts = [
        *run.models,
        f"{run.usage.input} tokens in, {run.usage.output} out",
        money(run.cost),
        f"first byte {seconds(watch.first if watch.first is not None else watch.total)}",
        f"total {seconds(watch.total)}",
    ]
    return " · ".join(parts)


def writer_for_people() -> Writer:
    """Markdown on a terminal, the bare text elsewhere."""
    return MarkdownWriter() if on_terminal() else PlainWriter()


class PlainWriter:
    """The text as it comes, with one newline at its end."""

    def __init__(self) -> None:
        self._open = False

    def write(self, text: str) -> None:
        """See Writer."""
        console().out(text, end="", highlight=False)
        self._open = True

    def close(self) -> None:
        """See Writer."""
        if self._open:
            console().out("", highlight=False)
        self._open = False


class MarkdownWriter:
    """Markdown while it is written: finished blocks are printed for good, only the last one is drawn again."""

    def __init__(self) -> None:
        self._rest = ""
        self._live: Live | None = None

    def write(self, text: str) -> None:
        """See Writer."""
        if self._live is None:
            self._live = Live(console=console(), transient=True, refresh_per_second=10)
            self._live.start()
        done, self._rest = finished_blocks(self._rest + text)
        if done:
            self._live.console.print(Markdown(done))
        self._live.update(Markdown(self._rest))

    def close(self) -> None:
        """See Writer."""
        if self._live is None:
            return
        self._live.update("")
        self._live.stop()
        self._live = None
        if self._rest.strip():
            console().print(Markdown(self._rest))
        self._rest = ""


def finished_blocks(text: str) -> tuple[str, str]:
    """The text up to its last blank line outside a fenced code block, and the rest."""
    fence = ""
    place = cut = 0
    for line in text.splitlines(keepends=True):
        place += len(line)
        bare = line.strip()
        if bare[:3] in ("```", "~~~"):
            fence = "" if fence == bare[:3] else fence or bare[:3]
        elif not bare and not fence and line.endswith("\n"):
            cut = place
    return text[:cut], text[cut:]
