"""An idempotency key is one run, whatever is sent under it, however often, at the same time, and through crashes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from agent_core.engine.runs import Run
from agent_core.errors import KeyReusedError, ModelBusyError, ModelRefusedError, RunningError
from agent_core.messages import Principal
from tests.agent_core.engine.processes import ProcessMachine, check, said, spoken

LEASE = 30.0
EXPIRY = 90 * 86_400.0
ENDINGS = ("answered", "failed for now", "failed for good")


@dataclass
class Known:
    """A key as the reference knows it."""

    text: str
    run_id: str
    state: str = "running"
    reply: str = ""
    retries: int = 0
    dead: bool = False


class IdempotencyMachine(ProcessMachine):
    """Two processes; callers of two tenants send two bodies under two keys, each in a session named after them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[tuple[str, str], Known] = {}
        self.replies = 0

    async def ask(self, at: int, who: tuple[str, str], text: str) -> Run | Exception:
        """What a caller gets who sends this and does not wait for the end."""
        tenant, key = who
        inbound = said(
            text, principal=Principal(tenant=tenant), key=key, fingerprint=text, session_id=f"of {key}"
        )
        engine = self.alive[at % len(self.alive)].engine
        try:
            events = engine.stream(inbound)
            begun = (await anext(events)).data
            run = await engine.run(inbound.principal, begun["run_id"])
            return msgspec.structs.replace(run, replayed=begun["replayed"])
        except (KeyReusedError, RunningError) as error:
            return error

    @rule(
        at=st.integers(0, 1),
        tenant=st.sampled_from("tu"),
        key=st.sampled_from("ab"),
        text=st.sampled_from("xy"),
        times=st.sampled_from([1, 1, 1, 2, 5]),
    )
    def send(self, at: int, tenant: str, key: str, text: str, times: int) -> None:
        """Once, or several times at the same moment at both processes."""
        who, text = (tenant, key), tenant + key + text

        async def together() -> list[Run | Exception]:
            return await asyncio.gather(*(self.ask(at + number, who, text) for number in range(times)))

        # Which of them is first is nobody's to say: one that was let in, where there is one.
        first, *rest = sorted(self.run(together()), key=lambda result: isinstance(result, Exception))
        self.expect(who, text, first)
        for result in rest:
            self.expect(who, text, result)

    def expect(self, who: tuple[str, str], text: str, got: Any) -> None:
        known = self.known.get(who)
        if known is None:
            assert isinstance(got, Run)
            assert (got.done, got.replayed) == (False, False)
            self.known[who] = Known(text, got.id)
        elif known.text != text:
            assert isinstance(got, KeyReusedError)
        elif known.state == "running" and not known.dead:
            assert isinstance(got, RunningError)
            assert got.run_id == known.run_id
        elif known.state == "running":
            assert (got.id, got.replayed) == (known.run_id, False)
            known.dead = False
        elif known.state == "failed for now":
            assert (got.id, got.done) == (known.run_id, False)
            known.state, known.retries = "running", known.retries + 1
        else:
            assert (got.id, got.replayed, got.status) == (
                known.run_id,
                True,
                "succeeded" if known.state == "answered" else "failed",
            )
            assert (got.reply.text if got.reply else "") == known.reply

    @precondition(lambda self: self.waiting())
    @rule(at=st.integers(0, 5), ending=st.sampled_from(ENDINGS))
    def end(self, at: int, ending: str) -> None:
        call = self.waiting()[at % len(self.waiting())]
        who = (call.text[0], call.text[1])
        known = self.known[who]
        known.state = ending
        self.replies += 1
        known.reply = f"reply {self.replies}" if ending == "answered" else ""
        errors = {"failed for now": ModelBusyError("busy"), "failed for good": ModelRefusedError("no")}
        self.say(call, errors.get(ending) or spoken(known.reply))

    @rule()
    def crash(self) -> None:
        """All processes die; when their leases are over, whoever sends again has the work gone on with."""
        for known in self.known.values():
            known.dead = known.state == "running"
        for process in list(self.alive):
            self.kill(process)
        self.advance(LEASE + 1)

    @precondition(lambda self: self.known and all(known.state != "running" for known in self.known.values()))
    @rule()
    def expire(self) -> None:
        self.advance(EXPIRY + 1)
        self.known.clear()

    @invariant()
    def each_run_is_as_it_should_be(self) -> None:
        assert len({known.run_id for known in self.known.values()}) == len(self.known)
        for (tenant, _), known in self.known.items():
            run = self.read(self.alive[0].engine.run(Principal(tenant=tenant), known.run_id))
            expected = {"running": "running", "answered": "succeeded"}.get(known.state, "failed")
            assert (run.status, run.retries) == (expected, known.retries)
            assert (run.reply.text if run.reply else "") == known.reply
        calls = sum(not known.dead and known.state == "running" for known in self.known.values())
        assert len(self.waiting()) == calls, "one call for each that is under way"


def test_a_key_is_one_run() -> None:
    check(IdempotencyMachine, examples=150, steps=30)
