"""Whatever happens to a session's workers, each message is answered once, in order, and a stale one writes nothing."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from agent_core.engine import keys
from agent_core.messages import Principal
from agent_core.store.base import Key
from tests.agent_core.engine.processes import ProcessMachine, check, records, said, spoken

ME = Principal()
SESSIONS = ("s", "t")
LEASE = 30.0
INDEX = st.integers(0, 10)


class LeaseMachine(ProcessMachine):
    """Three processes at two sessions. The reference is two lists of what was accepted, in order."""

    processes = 3

    def __init__(self) -> None:
        super().__init__()
        self.accepted: dict[str, list[str]] = {name: [] for name in SESSIONS}
        self.runs: dict[str, str] = {}
        self.seen: dict[str, list[str]] = {name: [] for name in SESSIONS}
        self.holders: dict[tuple[str, int], str] = {}
        self.fences = dict.fromkeys(SESSIONS, 0)
        self.calls = 0

    @precondition(lambda self: self.awake)
    @rule(session=st.sampled_from(SESSIONS), at=INDEX, work=st.booleans())
    def send(self, session: str, at: int, work: bool) -> None:
        text = f"m{len(self.runs)}"
        process = self.awake[at % len(self.awake)]
        run = self.run(
            process.engine.submit(said(text, session_id=session, key=text), work=work or session == "s")
        )
        self.accepted[session].append(text)
        self.runs[text] = run.id

    @precondition(lambda self: self.waiting())
    @rule(at=INDEX)
    def answer(self, at: int) -> None:
        call = self.waiting()[at % len(self.waiting())]
        self.calls += 1
        self.say(call, spoken(f"{call.text}, call {self.calls}"))

    @rule(seconds=st.sampled_from([1.0, 9.0, LEASE - 0.5, LEASE + 1]))
    def pass_time(self, seconds: float) -> None:
        self.advance(seconds)

    @precondition(lambda self: len(self.awake) > 1)
    @rule(at=INDEX)
    def freeze(self, at: int) -> None:
        self.awake[at % len(self.awake)].store.awake.clear()

    @precondition(lambda self: len(self.awake) > 1 and self.waiting())
    @rule(at=INDEX, calls=st.integers(0, 3))
    def answer_and_freeze(self, at: int, calls: int) -> None:
        """The process of a model call freezes some calls to the store after its answer."""
        call = self.waiting()[at % len(self.waiting())]
        process = next(one for one in self.alive if call in one.model.calls)
        if not process.frozen:
            process.store.calls_left = calls
        self.calls += 1
        self.say(call, spoken(f"{call.text}, call {self.calls}"))
        if process.store.calls_left is not None:
            process.store.awake.clear()

    @precondition(lambda self: len(self.awake) < len(self.alive))
    @rule()
    def thaw(self) -> None:
        """Whoever was frozen goes on where it was, and knows nothing of the time that passed."""
        for process in self.alive:
            process.store.thaw()
        self.settle()

    @rule(at=INDEX)
    def crash(self, at: int) -> None:
        self.kill(self.alive[at % len(self.alive)])

    @precondition(lambda self: self.awake)
    @rule(at=INDEX)
    def sweep(self, at: int) -> None:
        self.run(self.awake[at % len(self.awake)].engine.sweep())

    @precondition(lambda self: self.awake)
    @rule(session=st.sampled_from(SESSIONS), at=INDEX)
    def take_up(self, session: str, at: int) -> None:
        self.run(self.awake[at % len(self.awake)].engine.resume(ME, session))

    @invariant()
    def the_transcript_only_grows(self) -> None:
        """What was read stays as it was read, and is the answers to what was accepted, in order."""
        for session in SESSIONS:
            found = records(self, keys.session(ME, session), keys.MESSAGE)
            head = self.read(self.store.get(Key(keys.session(ME, session), keys.STATE)))
            counted = head.fields.get("messages", 0) if head else 0
            told = [record.fields["parts"][0]["text"] for record in found][:counted]
            assert told[: len(self.seen[session])] == self.seen[session], "what was read has changed"
            self.seen[session] = told
            assert told[::2] == self.accepted[session][: len(told[::2])]
            assert [text.split(",")[0] for text in told[1::2]] == told[::2]

    @invariant()
    def nobody_takes_what_another_holds(self) -> None:
        assert self.store.broken == []

    @invariant()
    def no_wake_up_is_lost(self) -> None:
        """In "s" whoever leaves a message takes the lease or has its holder look again before it lets go."""
        head = self.read(self.store.get(Key(keys.session(ME, "s"), keys.STATE)))
        if head is not None and head.fields["lease_until"] == 0.0:
            assert not records(self, keys.session(ME, "s"), keys.PENDING)

    @invariant()
    def a_fence_has_one_holder(self) -> None:
        for session in SESSIONS:
            head = self.read(self.store.get(Key(keys.session(ME, session), keys.STATE)))
            if head is None or not head.fields.get("fence"):
                continue
            fence, owner = head.fields["fence"], head.fields["owner"]
            assert fence >= self.fences[session], "a fence went back"
            self.fences[session] = fence
            if owner:  # else it was let go
                assert self.holders.setdefault((session, fence), owner) == owner

    def finish(self) -> None:
        """All go on until nothing is left to do."""
        self.thaw()
        for _ in range(3 * len(self.runs) + 3):
            while self.waiting():
                self.answer(0)
            if not records(self, keys.DUE):
                break
            self.advance(LEASE + 1)
            self.run(self.alive[0].engine.sweep())
        self.the_transcript_only_grows()
        for session in SESSIONS:
            assert self.seen[session][::2] == self.accepted[session], "each is answered, once"
            assert not records(self, keys.session(ME, session), keys.PENDING)
        assert not records(self, keys.DUE)
        day = keys.ledger("default", self.clock.now(), "").partition
        billed = [record.key.sort.split("/")[1] for record in records(self, day)]
        assert sorted(billed) == sorted(self.runs.values()), "each is on the bill, once"
        for run_id in self.runs.values():
            assert self.run(self.alive[0].engine.run(ME, run_id)).status == "succeeded"

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            super().teardown()


def test_workers_come_and_go_and_every_message_is_answered_once() -> None:
    check(LeaseMachine, examples=200, steps=40)
