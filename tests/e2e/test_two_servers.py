"""Two servers on one store: a stream that was cut goes on at the other, also when its server was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

STORY = "".join(f"sentence {number} of the story. " for number in range(120))
Event = tuple[str, str, Any]


def events(lines: Iterator[str]) -> Iterator[Event]:
    """(id, type, data) of each event of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def begin(url: str, letters: int) -> tuple[str, list[Event]]:
    """Start the story and leave after some letters."""
    seen: list[Event] = []
    asked = {"message": "Tell me a story.", "stream": True}
    with httpx.stream("POST", f"{url}/api/v1/agent", json=asked, timeout=60) as answer:
        for event in events(answer.iter_lines()):
            seen.append(event)
            if len(told(seen)) >= letters:
                break
    return seen[0][2]["run_id"], seen


def go_on(url: str, run_id: str, last: str) -> list[Event]:
    """The rest of the story, after the event that was seen last."""
    with httpx.stream(
        "GET", f"{url}/api/v1/runs/{run_id}/events", headers={"Last-Event-ID": last}, timeout=60
    ) as answer:
        assert answer.status_code == 200
        return list(events(answer.iter_lines()))


def told(seen: list[Event]) -> str:
    """The text that a client has which does as it is told."""
    text = ""
    for _, kind, data in seen:
        if kind == "text":
            text += data["text"]
        elif kind == "restart":
            text = ""
    return text


def two(serve: Callable[..., Any], root: Path, tmp_path: Path) -> tuple[Any, Any]:
    project = root / "tests" / "projects" / "storyteller"
    options = {
        "BEGUN": str(tmp_path / "begun"),
        "SAMPAN_LEASE_SECONDS": "1.5",
        "SAMPAN_SWEEP_SECONDS": "0.3",
    }
    data = ("--data", str(tmp_path / "data"))
    return serve(project, *data, **options), serve(project, *data, **options)


def test_a_stream_that_was_cut_goes_on_at_another_server_to_the_letter(
    serve: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    first, second = two(serve, root, tmp_path)
    run_id, seen = begin(first.url, letters=700)
    assert 0 < len(told(seen)) < len(STORY)
    rest = go_on(second.url, run_id, seen[-1][0])
    assert told(seen) + told(rest) == STORY
    assert rest[-1][1] == "reply"
    assert len((tmp_path / "begun").read_text().splitlines()) == 1
    print(
        f"cut after {len(told(seen))} letters, {len(told(rest))} from the other server, none lost, none twice"
    )


def test_a_stream_whose_server_was_killed_is_told_anew_by_the_other(
    serve: Callable[..., Any], root: Path, tmp_path: Path
) -> None:
    first, second = two(serve, root, tmp_path)
    run_id, seen = begin(first.url, letters=900)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    rest = go_on(second.url, run_id, seen[-1][0])
    assert told([*seen, *rest]) == STORY
    assert rest[-1][1] == "reply"
    run = httpx.get(f"{second.url}/api/v1/runs/{run_id}").json()
    assert (run["status"], run["reply"]["text"]) == ("succeeded", STORY)
    assert len((tmp_path / "begun").read_text().splitlines()) == 2  # once more than without the kill, no more
