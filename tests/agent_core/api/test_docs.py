"""docs/api.md tells the truth: its curl lines work, and it leaves out no route, error or event."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx

from agent_core import errors
from agent_core.api import chat  # noqa: F401 - its error counts among the AgentErrors
from agent_core.api.routes import OPERATIONS
from agent_core.engine.runs import EventType

House = Callable[..., Any]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def descendants(kind: type[errors.AgentError]) -> Iterator[type[errors.AgentError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_curl_line_works(house: House, root: Path, tmp_path: Path) -> None:
    examples = blocks((root / "docs" / "api.md").read_text())
    assert len(examples) >= 20
    (tmp_path / ".curlrc").write_text('silent\nshow-error\nmax-time = 20\nwrite-out = "\\n%{http_code}"\n')
    with house(*["Fine."] * 50).served() as url:
        first = httpx.post(f"{url}/api/v1/agent", json={"message": "Hi"}).json()
        line = {"Content-Type": "application/jsonl"}
        batch = httpx.post(f"{url}/api/v1/batches", content=b'{"message": "Hi"}', headers=line).json()
        environment = {
            "PATH": os.environ["PATH"],
            "CURL_HOME": str(tmp_path),
            "RUN": first["run_id"],
            "SESSION": first["session_id"],
            "BATCH": batch["batch_id"],
        }
        for example in examples:
            expected = re.match(r"# (\d+)", example)
            done = subprocess.run(
                ["bash", "-euc", example.replace("http://127.0.0.1:8000", url)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            status = done.stdout.rsplit("\n", 1)[1]
            wanted = expected[1] if expected else r"20\d"
            assert re.fullmatch(wanted, status), f"{example}\n-> {done.stdout}"


def test_no_route_is_left_out(root: Path) -> None:
    page = (root / "docs" / "api.md").read_text()
    examples = (
        "\n".join(blocks(page))
        .replace("$RUN", "{run_id}")
        .replace("$SESSION", "{session_id}")
        .replace("$BATCH", "{batch_id}")
        .replace("/webhooks/slack", "/webhooks/{channel}")
    )
    examples = examples.replace("/v1/models/assistant", "/v1/models/{model}")
    missing = [
        operation.path
        for operation in OPERATIONS
        if not re.search(re.escape(f"127.0.0.1:8000{operation.path}") + r"""(?=[?\s'"]|$)""", examples)
    ]
    assert not missing


def test_no_error_and_no_event_is_left_out(root: Path) -> None:
    page = (root / "docs" / "api.md").read_text()
    table = page[page.index("## Errors") :]
    for kind in descendants(errors.AgentError):
        if not kind.__module__.startswith(("agent_core.errors", "agent_core.api")):
            continue  # of a queue's worker or a callback: no caller of the API meets it
        assert f"`{kind.slug}`" in table, f"{kind.__name__} ({kind.status})"
    for event in get_args(EventType):
        assert f"`{event}`" in page
