"""What happened to many messages in disorder, and the checker that reads it: is there a promise that was broken?

Pure: it knows no store and no process. `recorder.py` has the database itself write the history down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

Problem = tuple[str, str]
"""lost, double, order, prefix, fence, money or stuck; and the words."""

Way = Literal["fifo", "standard", "http"]


class Sent(NamedTuple):
    """A message that was sent, however often. Its words are like no other's and tell which tool they lead to."""

    words: str
    session: str
    way: Way


class Arrival(NamedTuple):
    """An acceptance: the message got into the inbox. `at` counts the writes of the database."""

    at: int
    session: str
    run: str
    words: str


class Hold(NamedTuple):
    """The head of a session after a write: who holds it, under which fence, until when."""

    at: int
    session: str
    fence: int
    owner: str
    until: float
    process: str = ""


class Entry(NamedTuple):
    """A message of a transcript, as a reader sees it."""

    seq: int
    run: str
    role: str
    text: str
    hidden: bool


class Outcome(NamedTuple):
    """A run as it is stored; `endings` is how often it came to an answer."""

    status: str
    text: str
    endings: int


class Bill(NamedTuple):
    """A run's entries in the ledger, the model calls they list, and those in its journal."""

    entries: int
    calls: int
    journaled: int


class Effect(NamedTuple):
    """What a tool did; `repeat`: its backend knew it already by its key."""

    tool: str
    words: str
    key: str
    repeat: bool


@dataclass
class History:
    """All that is known. `answered` counts whole answers that the model's server gave, by words; `told` is what senders
    were told; `reads` were taken meanwhile. `kills` is how many processes were killed, each with `inflight` messages
    in hand at the most.
    """

    sent: Sequence[Sent]
    lease_seconds: float
    arrivals: list[Arrival] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    transcripts: dict[str, list[Entry]] = field(default_factory=dict)
    reads: list[tuple[str, list[Entry]]] = field(default_factory=list)
    runs: dict[str, Outcome] = field(default_factory=dict)
    bills: dict[str, Bill] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    answered: Mapping[str, int] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    kills: int = 0
    inflight: int = 0


def tool_of(words: str) -> str:
    """The tool that a message's words lead to, "" for none: their last word."""
    last = words.rpartition(" ")[2]
    return last if last in ("pay", "send") else ""


def answer_to(words: str) -> str:
    """What the model says in the end."""
    return f"You said: {words}"


def problems(history: History) -> list[Problem]:
    """Every promise that was broken; none is what we want."""
    return [
        *_acceptance(history),
        *_answers(history),
        *_order(history),
        *_reads(history),
        *_fences(history),
        *_effects(history),
        *_money(history),
        *(("stuck", words) for words in history.left),
    ]


def _acceptance(history: History) -> Iterator[Problem]:
    """Each message was accepted, in its own session, and under one run however often it came."""
    arrived = defaultdict(set)
    for arrival in history.arrivals:
        arrived[arrival.words].add((arrival.session, arrival.run))
    for sent in history.sent:
        found = arrived.pop(sent.words, set())
        if not found:
            yield "lost", f"{sent.words!r} was never accepted"
        elif len(found) > 1:
            yield "double", f"{sent.words!r} became {len(found)} runs: {sorted(found)}"
        elif next(iter(found))[0] != sent.session:
            yield "order", f"{sent.words!r} was sent to {sent.session} and is in {next(iter(found))[0]}"
    for words in arrived:
        yield "double", f"{words!r} was accepted, and nobody sent it"


def _answers(history: History) -> Iterator[Problem]:
    """Each message is answered once: in its run, in the transcript, and to whoever asked."""
    runs = {arrival.words: arrival.run for arrival in history.arrivals}
    asked, answered = Counter[str](), Counter[str]()
    for entry in (entry for entries in history.transcripts.values() for entry in entries if not entry.hidden):
        if entry.role == "user":
            asked[entry.text] += 1
        elif entry.role == "assistant" and entry.text:
            answered[entry.text] += 1
    for words, _, _ in history.sent:
        outcome = history.runs.get(runs.get(words, ""), Outcome("absent", "", 0))
        if outcome[:2] != ("succeeded", answer_to(words)):
            yield "lost", f"{words!r}: its run {outcome.status}, with {outcome.text!r}"
        elif outcome.endings != 1:
            yield "double", f"{words!r}: its run came to its end {outcome.endings} times"
        for name, count in (("stands", asked[words]), ("is answered", answered[answer_to(words)])):
            if count != 1:
                yield "double" if count else "lost", f"{words!r} {name} {count} times in the transcript"
    for words, text in history.told:
        if text != answer_to(words):
            yield "double", f"the sender of {words!r} was told {text!r}"


def _order(history: History) -> Iterator[Problem]:
    """The messages of a run stand together, and the runs in the order in which they were accepted.

    A run that failed for a passing reason is accepted once more when it is tried again: that counts. What went through
    a FIFO queue, from one producer, also stands in the order in which it was sent.
    """
    accepted: dict[str, dict[str, int]] = defaultdict(dict)
    for arrival in history.arrivals:
        accepted[arrival.session][arrival.run] = arrival.at
    words_of = {arrival.run: arrival.words for arrival in history.arrivals}
    fifo: dict[str, list[str]] = defaultdict(list)
    for sent in history.sent:
        if sent.way == "fifo":
            fifo[sent.session].append(sent.words)
    for session, entries in history.transcripts.items():
        if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
            yield "order", f"{session}: its messages are numbered {[entry.seq for entry in entries]}"
        blocks = [run for run, _ in groupby(entries, key=lambda entry: (entry.run, entry.hidden))]
        shown = [run for run, hidden in blocks if not hidden]
        by_acceptance = sorted(shown, key=lambda run: accepted[session].get(run, -1))
        if shown != by_acceptance:
            yield "order", f"{session}: the transcript has {shown}, accepted were {by_acceptance}"
        if session in fifo and [words_of.get(run) for run in shown] != fifo[session]:
            yield "order", f"{session}: sent in order, but the transcript has {shown}"


def _reads(history: History) -> Iterator[Problem]:
    """Whatever was read meanwhile is how the transcript begins."""
    for session, seen in history.reads:
        final = history.transcripts.get(session, [])
        if seen != final[: len(seen)]:
            wrong = next(place for place, entry in enumerate(seen) if [entry] != final[place : place + 1])
            yield "prefix", f"{session}: a reader saw {seen[wrong]} where now {final[wrong : wrong + 1]} is"


def _fences(history: History) -> Iterator[Problem]:
    """Fences only grow, each has one holder, and none was taken before the one before had run out or was released."""
    by_session: dict[str, list[Hold]] = defaultdict(list)
    for hold in sorted(history.holds):
        by_session[hold.session].append(hold)
    for session, holds in by_session.items():
        for before, after in pairwise(holds):
            if after.fence < before.fence:
                yield "fence", f"{session}: fence {after.fence} wrote after {before.fence}"
            elif after.fence == before.fence and after.owner not in (before.owner, ""):
                yield "fence", f"{session}: fence {after.fence} has two holders"
            elif after.fence > before.fence:
                # From a process that has ended it is taken over at once.
                early = after.until - history.lease_seconds < before.until - 0.001
                early = early and before.process == after.process and bool(after.owner)
                if after.fence != before.fence + 1 or early:
                    yield "fence", f"{session}: {after} took over from {before} too early"


def _effects(history: History) -> Iterator[Problem]:
    """What a message wanted to be done was done once."""
    done = Counter((effect.tool, effect.words) for effect in history.effects if not effect.repeat)
    for words, _, _ in history.sent:
        tool = tool_of(words)
        count = done.pop((tool, words), 0)
        if tool and count != 1:
            yield "double" if count else "lost", f"{tool} for {words!r} was done {count} times"
    for (tool, words), count in done.items():
        yield "double", f"{tool} for {words!r} was done {count} times, and nobody wanted it"


def _money(history: History) -> Iterator[Problem]:
    """Each model call is on one bill, once; and paid for without use only where a process was killed meanwhile."""
    runs = {arrival.words: arrival.run for arrival in history.arrivals}
    unused = 0
    for words, _, _ in history.sent:
        bill = history.bills.get(runs.get(words, ""), Bill(0, 0, 0))
        if bill.entries != 1 or bill.calls != bill.journaled:
            yield "money", f"{words!r}: {bill}"
        needed = 2 if tool_of(words) else 1
        if bill.journaled != needed:
            yield "money", f"{words!r}: {bill.journaled} model calls in its journal, not {needed}"
        more = history.answered.get(words, 0) - bill.journaled
        unused += max(more, 0)
        if more < 0 or more > history.kills:
            yield "money", f"{words!r}: the model answered {history.answered.get(words, 0)} times; {bill}"
    if unused > history.kills * history.inflight:
        yield "money", f"{unused} answers of the model were used by nobody, after {history.kills} kills"
