"""One worker's attempt at a run: what it works on, how far it is, and what tools and plugins may know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.pricing import Prices
from agent_core.engine import trust
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.journal import Journal
from agent_core.engine.limits import Meter
from agent_core.engine.runs import Fitted, Inbound, Question, Run, Step
from agent_core.engine.steps import MODEL, TOOL, begun
from agent_core.engine.switches import Switches
from agent_core.messages import DATA_CLASSES, DataClass, Message, Reply, Turn, Usage


class Parked(Exception):
    """The run waits for a person to answer these questions."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        super().__init__("the run waits for a person")
        self.questions = questions


class HandOver(Exception):
    """The platform will stop this worker soon: another one goes on from the journal."""


A_MILLION = Usage(input=1_000_000, output=1_000_000)
"""Tokens that cost something wherever anything does."""

Join = Callable[[Sequence[str] | None], Awaitable[tuple[tuple[str, ...], list[Message]]]]
"""Gives messages that join the run, and the names of their runs: of these runs, or of all that may join now."""


@dataclass
class Attempt:
    """One worker's attempt to answer one inbound message; `messages` grows as the work goes on.

    `number` is the number of the step under way, `stop_at` (seconds since 1970, 0 for never) when the worker must
    let go at the next step, `fence` the number of its lease.
    `summary` stands for the messages up to the seq `covered`; they are given to no model again.
    `join` gives the messages that came meanwhile and join the run.
    `chain` is the hash of all that the run has come to (see steps.py), `places` counts its steps by series.
    """

    run: Run
    inbound: Inbound
    bound: Bound
    history: Sequence[Message]
    journal: Journal
    feed: Feed
    clock: Clock
    blobs: Blobs
    prices: Prices
    meter: Meter
    switches: Switches
    stop_at: float = 0.0
    messages: list[Message] = field(default_factory=list)
    number: int = 0
    fence: int = 0
    summary: str = ""
    covered: int = 0
    summary_sources: tuple[str, ...] = ()
    join: Join | None = None
    progressed: bool = False
    chain: str = ""
    places: Counter[str] = field(default_factory=Counter)
    joined: tuple[str, ...] = ()
    _found: dict[str, None] = field(default_factory=dict)
    _looked_at: int = 0
    _under_way: tuple[str, int, str] = ("", 0, "")

    def __post_init__(self) -> None:
        self.chain = self.chain or begun(self.inbound.messages)

    @property
    def ordinal(self) -> int:
        """How many steps of the model and of tools there were, with the one under way.

        Other than its number, it is the same whenever the step is tried again.
        """
        done = self.places[MODEL] + self.places[TOOL]
        return done + self.journal.shift if done else 0

    def recall(self, series: str, input: str) -> Step | None:
        """Go on to the next step of a series; what is stored of it, if that was done upon the same input.

        What an older Sampan stored says nothing of its input.
        """
        place = self.places[series]
        self.places[series] += 1
        self._under_way = (series, place, input)
        stored = self.journal.find(series, place, input)
        if stored is None:
            self.number = self.journal.take_number(self.number, series, place)
            return None
        self.journal.use(stored)
        self.number = stored.number
        return stored

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, steps of other series may be done, while the step under way waits for them."""
        number, under_way = self.number, self._under_way
        try:
            yield
        finally:
            self.number, self._under_way = number, under_way

    def anew(self) -> None:
        """Do the step under way anew, although it is stored: it does not serve any more."""
        series, place, _ = self._under_way
        self.number = self.journal.take_number(self.number, series, place)

    def turn(self, step: int | None = None, key: str = "") -> Turn:
        """What plugins and tools may know now."""
        number = self.number if step is None else step
        return Turn(
            session_id=self.run.session_id,
            run_id=self.run.id,
            agent=self.bound.name,
            step=number,
            principal=self.run.principal,
            data_class=self.data_class,
            channel=self.run.channel,
            deadline=self.meter.deadline,
            spent=self.meter.cost,
            idempotency_key=key or f"{self.run.id}-{self.ordinal}",
            egress=self.bound.egress,
        )

    @property
    def data_class(self) -> DataClass:
        """The highest data class of the conversation."""
        seen = [message.data_class for message in (*self.history, *self.inbound.messages)]
        return max(seen, key=DATA_CLASSES.index, default="internal")

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the untrusted text came from that the model is given, each once; none where all is the user's own."""
        shown = [m for m in self.history if m.seq > self.covered and not m.hidden]
        found = (source for message in shown for source in trust.sources(message))
        # Each message is looked at once: a run may have thousands.
        for message in self.messages[self._looked_at :]:
            self._found.update(dict.fromkeys(trust.sources(message)))
        self._looked_at = len(self.messages)
        return tuple(dict.fromkeys((*self.summary_sources, *found, *self._found)))

    @property
    def holds_back(self) -> bool:
        """Whether text is shown only when it is whole, since a plugin may change it."""
        return self.bound.plugins.changes_replies

    def dated(self, message: Message) -> Message:
        """The message with what the session keeps of its making."""
        untrusted = self.sources if message.role == "assistant" else message.untrusted
        return msgspec.structs.replace(
            message,
            run_id=self.run.id,
            created_at=self.clock.now(),
            data_class=self.data_class,
            untrusted=untrusted,
        )

    def journal_reply(
        self,
        name: str,
        reply: Reply,
        started_at: float,
        *,
        refused: bool = False,
        covered: int = 0,
        fitted: Fitted | None = None,
    ) -> Step:
        """Take a model's reply into the journal and the count, with what it cost under this name."""
        series, place, input = self._under_way
        step = Step(
            number=self.number,
            kind="model",
            name=name,
            reply=reply,
            usage=reply.usage,
            cost=self._cost(name, reply, started_at),
            started_at=started_at,
            finished_at=self.clock.now(),
            fence=self.fence,
            elapsed=self.meter.elapsed,
            series=series,
            place=place,
            input=input,
            joined=self.joined if series == MODEL else (),
            covered=covered,
            refused=refused,
            withheld=self.holds_back,
            fitted=fitted,
        )
        self.journal.unsaved.append(step)
        self.meter.count(step)
        return step

    def _cost(self, name: str, reply: Reply, at: float) -> int | None:
        """Nano-dollars; None where no price is known, or where a provider that charges says nothing of its tokens."""
        if reply.usage.total or self.prices.cost(name, A_MILLION, at) == 0:
            return self.prices.cost(name, reply.usage, at, batch=reply.batch)
        return None

    def check_time(self) -> None:
        """Raise HandOver where the platform's deadline is near.

        Each attempt does at least one step, so that many short ones come to an end.
        """
        if self.stop_at and self.progressed and self.clock.now() >= self.stop_at:
            raise HandOver
        self.progressed = True

    def remains(self) -> list[Message]:
        """The messages of a failed run, hidden from later prompts: the transcript keeps them, a model is spared.

        Nothing where the run failed before and was tried again: they stand there already.
        """
        if self.run.retries:
            return []
        return [msgspec.structs.replace(message, hidden=True) for message in self.so_far()]

    def so_far(self) -> list[Message]:
        """The messages up to where the work stopped, without a call that has no result."""
        messages = self.messages or list(self.inbound.messages)
        return messages[:-1] if messages[-1].tool_calls else messages
