"""The event-stream parser against the shared cases, however the bytes are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent_core.wire.sse import Event, EventParser


def parse(*pieces: bytes) -> tuple[list[Event], EventParser]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)], parser


def cases(folder: Path) -> list[tuple[bytes, list[Event], int | None]]:
    found = []
    for case in json.loads((folder / "sse_cases.json").read_text())["cases"]:
        pieces = [*map(bytes.fromhex, case.get("chunks_hex", ())), *map(str.encode, case.get("chunks", ()))]
        raw = b"".join(pieces)
        found.append((raw, [Event(**event) for event in case["events"]], case["retry"]))
    return found


def test_shared_cases(shared_data: Path) -> None:
    """Whole, byte by byte, and at every split in two."""
    every = cases(shared_data)
    assert len(every) >= 24
    for raw, events, retry in every:
        splits: list[list[bytes]] = [[raw], [raw[at : at + 1] for at in range(len(raw))]]
        splits += [[raw[:at], raw[at:]] for at in range(len(raw) + 1)]
        for pieces in splits:
            got, parser = parse(*pieces)
            assert (got, parser.retry) == (events, retry), pieces


STREAM = st.text("data: evntid\r\n:\ufeffx1", max_size=60).map(str.encode)


@given(STREAM, st.lists(st.integers(0, 60), max_size=5))
def test_cuts_make_no_difference(raw: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    whole, one = parse(raw)
    pieces, other = parse(*(raw[a:b] for a, b in pairwise(edges)))
    assert pieces == whole
    assert (other.retry, other.last_id) == (one.retry, one.last_id)


@given(st.binary(max_size=80))
def test_any_bytes_are_taken(raw: bytes) -> None:
    parse(raw)


def test_the_id_stays_until_another_comes() -> None:
    events, parser = parse(b"id: 7\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: 9\x00\ndata: d\n\nid: 8\n\n")
    assert [event.id for event in events] == ["7", "7", "", ""]
    assert parser.last_id == "8"


def test_a_retry_of_absurd_length_is_ignored() -> None:
    """Python refuses to read integers of that many digits; the parser must not fall over it."""
    assert parse(b"retry: " + b"9" * 5000 + b"\ndata: x\n\n")[1].retry is None


def test_a_long_line_in_many_pieces() -> None:
    """A picture in one event; the pieces are joined once."""
    events, _ = parse(b"data: ", *([b"x" * 1000] * 5000), b"\n\n")
    assert len(events[0].data) == 5_000_000
