"""What a world holds once nothing is left to do: what was answered, done, paid and pushed, and what was left lying."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from agent_core.costs.ledger import Ledger
from agent_core.engine import keys
from agent_core.engine.calls import UNCERTAIN
from agent_core.engine.runs import Head, Run, Step
from agent_core.messages import Message, Principal, from_record
from agent_core.queues.base import Counts
from agent_core.queues.sqlite import SqliteQueue
from agent_core.store.base import Key, Record, Store
from tests.durability.scenarios import QUEUE, Scenario
from tests.durability.stores import open_store
from tests.durability.world import World, WorldClock

ME = Principal()
Problem = tuple[str, str]


@dataclass(frozen=True)
class Evidence:
    """`answers` by idempotency key, `transcripts` by session; `effects` are those that were wanted, each with the keys
    it was done under and how often; `calls` to the model by the words asked about and the round; `asked` is what a
    person was asked, by reason; `left` is what still lies about.
    """

    answers: dict[str, tuple[str, str]]
    told: dict[str, set[tuple[str, str]]]
    transcripts: dict[str, list[Any]]
    effects: dict[str, Counter[str]]
    calls: dict[str, Counter[int]]
    asked: Counter[str]
    pushes: dict[str, set[str]]
    billed: Counter[str]
    left: list[str]

    def compared_with(self, normal: Evidence, crashes: int) -> list[Problem]:
        """What differs from a life without a crash and must not."""
        return [
            *self._answers(normal),
            *self._effects(normal),
            *self._money(normal, crashes),
            *(("stuck", words) for words in self.left),
        ]

    def _answers(self, normal: Evidence) -> list[Problem]:
        found: list[Problem] = []
        for key, answer in normal.answers.items():
            if self.answers.get(key) != answer:
                found.append(("lost", f"{key} was answered {self.answers.get(key)}, not {answer}"))
            if any(told != answer for told in self.told.get(key, ())):
                found.append(("double", f"{key} was told {self.told[key]}, not {answer}"))
        for session, transcript in normal.transcripts.items():
            if self.transcripts[session] != transcript:
                kind = "double" if len(self.transcripts[session]) > len(transcript) else "lost"
                found.append((kind, f"{session} reads {self.transcripts[session]}, not {transcript}"))
        if self.pushes.keys() != normal.pushes.keys() or any(len(ids) != 1 for ids in self.pushes.values()):
            found.append(("lost", f"pushed {self.pushes}, not {normal.pushes}"))
        return found

    def _effects(self, normal: Evidence) -> list[Problem]:
        found: list[Problem] = []
        if normal.asked["uncertain"]:
            found.append(("error", "without a crash, nothing is uncertain and no person needs to be asked"))
        for wanted in normal.effects.keys() - self.effects.keys():
            found.append(("lost", f"{wanted} was not done"))
        for done in self.effects.keys() - normal.effects.keys():
            found.append(("double", f"{done} was done, and nobody wanted it"))
        for name, by_key in self.effects.items():
            if name.startswith("look "):
                continue  # may be done again
            if len(by_key) > 1 or sum(by_key.values()) > 1:
                found.append(("double", f"{name} was done {dict(by_key)}"))
        return found

    def _money(self, normal: Evidence, crashes: int) -> list[Problem]:
        found: list[Problem] = []
        for words in normal.calls:  # a process that works on several messages has a call of each under way
            more = self.calls[words].total() - normal.calls[words].total()
            if more > crashes:
                found.append(
                    ("double", f"{more} more model calls after {crashes} crashes: {self.calls[words]}")
                )
            elif more > 0:
                found.append(("paid again", f"{more} model calls for {words}"))
            if self.calls[words].keys() != normal.calls[words].keys():
                found.append(("lost", f"model calls {self.calls[words]}, not {normal.calls[words]}"))
        if self.billed != normal.billed:
            found.append(("double", f"the ledger has {self.billed}, not {normal.billed}"))
        return found


async def gather(world: World, scenario: Scenario) -> Evidence:
    """Read it all from the store and the logs, past the engine."""
    clock = WorldClock(world)
    store = open_store(world, clock)
    try:
        sessions = sorted({session for session, _ in scenario.says.values()})
        return Evidence(
            answers={key: await _answer(store, scenario.key(key)) for key in scenario.says},
            told=_told(world),
            transcripts={session: await _transcript(store, session) for session in sessions},
            effects=_effects(world),
            calls=_calls(world),
            asked=Counter(entry["reason"] for entry in world.read("asked")),
            pushes=_pushes(world),
            billed=await _billed(store, clock),
            left=[words for session in sessions for words in await _left_in(store, clock, session)]
            + [f"due: {record.fields}" for record in await _all(store, keys.DUE)]
            + [f"dead: {record.fields}" for record in await _all(store, keys.dead(ME.tenant, "").partition)]
            + await _left_in_queue(world, clock),
        )
    finally:
        await store.close()


async def _all(store: Store, partition: str, prefix: str = "") -> list[Record]:
    records: list[Record] = []
    after = ""
    while True:
        page = await store.query(partition, prefix, after=after, limit=1000)
        records += page.records
        after = page.after
        if not after:
            return records


async def _answer(store: Store, key: str) -> tuple[str, str]:
    record = await store.get(Key(keys.run(ME.tenant, keys.run_id(ME, key)), keys.RUN))
    if record is None:
        return ("absent", "")
    run = from_record(Run, record.fields)
    return (run.status, run.reply.text if run.reply else "")


async def _transcript(store: Store, session: str) -> list[Any]:
    """The messages as a reader sees them. What a person settled reads differently than a result, on purpose."""
    partition = keys.session(ME, session)
    head = await _head(store, session)
    told = [from_record(Message, record.fields) for record in await _all(store, partition, keys.MESSAGE)]
    return [
        (
            message.seq,
            message.role,
            message.text,
            tuple(made.id for made in message.tool_calls),
            tuple(
                (result.call_id, result.error and result.content != UNCERTAIN)
                for result in message.tool_results
            ),
            message.hidden,
        )
        for message in told
        if message.seq <= head.messages
    ]


async def _head(store: Store, session: str) -> Head:
    record = await store.get(Key(keys.session(ME, session), keys.STATE))
    return from_record(Head, record.fields) if record else Head()


async def _left_in(store: Store, clock: WorldClock, session: str) -> list[str]:
    head = await _head(store, session)
    inbox = await _all(store, keys.session(ME, session), keys.PENDING)
    left = [f"{session} still has {record.fields}" for record in inbox]
    if head.held:
        left.append(f"{session} is held by {head.owner}")
    return left


async def _left_in_queue(world: World, clock: WorldClock) -> list[str]:
    if not world.queue.exists():
        return []
    queue = SqliteQueue(world.queue, clock, QUEUE)
    try:
        counts = await queue.counts()
        dead = await queue.dead.counts() if queue.dead else Counts()
        return [f"the queue still has {one}" for one in (counts, dead) if one != Counts()]
    finally:
        await queue.close()


async def _billed(store: Store, clock: WorldClock) -> Counter[str]:
    """Model calls by run, as the ledger has them; a run that is in it twice was billed twice."""
    billed: Counter[str] = Counter()
    now = clock.now() - clock.ahead
    for day in sorted({keys.day(now + hours * 3600) for hours in (-2, 0, 2)}):  # it may be about midnight
        for record in await _all(store, f"{ME.tenant}/ledger/{day}"):
            entry = from_record(Ledger, record.fields)
            billed[entry.run_id] += len(entry.entries)
            steps = await _all(store, keys.run(ME.tenant, entry.run_id), keys.STEP)
            made = [step for record in steps if (step := from_record(Step, record.fields)).kind == "model"]
            if len(made) != len(entry.entries):
                billed["not as journaled"] += 1
    return billed


def _told(world: World) -> dict[str, set[tuple[str, str]]]:
    told: dict[str, set[tuple[str, str]]] = {}
    for entry in world.read("told"):
        told.setdefault(entry["key"], set()).add((entry["status"], entry["text"]))
    return told


def _calls(world: World) -> dict[str, Counter[int]]:
    calls: dict[str, Counter[int]] = {}
    for entry in world.read("calls"):
        calls.setdefault(entry["words"], Counter())[entry["round"]] += 1
    return calls


def _effects(world: World) -> dict[str, Counter[str]]:
    """What was done: by what it was, then by key; what a backend knew already by its key is no further effect."""
    effects: dict[str, Counter[str]] = {}
    for entry in world.read("effects"):
        by_key = effects.setdefault(f"{entry['tool']} {entry['what']}", Counter())
        by_key[entry["key"]] += not entry["repeat"]
    return effects


def _pushes(world: World) -> dict[str, set[str]]:
    """What was pushed: texts by address and run, with the ids they came under. One id: the receiver can tell."""
    pushes: dict[str, set[str]] = {}
    for entry in world.read("pushes"):
        pushes.setdefault(f"{entry['address']}/{entry['run']}: {entry['text']}", set()).add(entry["id"])
    return pushes
