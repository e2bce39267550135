"""Approvals and budgets through any sequence of requests, deaths, waits and answers: state machines of hypothesis.

Leases and keys have machines of their own, in tests/agent_core/engine.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent_core import Agent, Limits, Turn, tool
from agent_core.engine import keys
from agent_core.engine.runs import Inbound, Question, Run
from agent_core.errors import (
    ConflictError,
    KeyReusedError,
    ModelBusyError,
    NotFoundError,
)
from agent_core.messages import Chunk, Message, Principal, Prompt, Reply, ToolCall, Usage, from_record
from agent_core.store.base import Key
from tests.durability.life import DiedError, Life

QUICK = settings(max_examples=60, stateful_step_count=30, deadline=None)


class Prompted:
    """Does what the last user's words say, whoever asks and however often."""

    name = "openai:gpt-5-mini"
    tools = True
    context_window = 128_000

    def __init__(self) -> None:
        self.calls = Counter[str]()

    async def reply(self, prompt: Prompt) -> Reply:
        asked = max(place for place, message in enumerate(prompt.messages) if message.role == "user")
        words = prompt.messages[asked].text
        rounds = sum(bool(message.tool_calls) for message in prompt.messages[asked:])
        self.calls[words] += 1
        if words.startswith("busy") and self.calls[words] < 2:
            raise ModelBusyError("not now")
        usage = Usage(input=100, output=10)
        name, _, count = words.partition(" ")
        if name in ("pay", "refund") and rounds < int(count or 1):
            call = ToolCall(f"c{rounds}", name, json.dumps({"cents": rounds}))
            message = Message(role="assistant", tool_calls=(call,))
            return Reply(message=message, usage=usage, finish="tool_calls", model=self.name)
        return Reply(message=Message.of("assistant", f"Answer to {words}"), usage=usage, model=self.name)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        """Nothing to let go of."""


class Bank:
    """Counts what its tools did, by idempotency key."""

    def __init__(self) -> None:
        self.done = Counter[str]()

    @tool(effects="repeatable")
    async def pay(self, cents: int, turn: Turn) -> str:
        """Pay."""
        self.done[turn.idempotency_key] += 1
        return "paid"

    @tool(effects="once", approval=True)
    async def refund(self, cents: int, turn: Turn) -> str:
        """Pay back."""
        self.done[turn.idempotency_key] += 1
        return "paid back"


KEYS = st.sampled_from(["k1", "k2", "k3"])
USERS = st.sampled_from(["ann", "bob"])
TENANTS = st.sampled_from(["shop", "bank"])
WORDS = st.sampled_from(["hello", "pay", "pay 3", "refund", "busy", "refund 2"])
Caller = tuple[str, str, str]


class EngineMachine(RuleBasedStateMachine):
    """Keys, bodies, tenants and users, deaths at any boundary, approvals right and wrong, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.bank = Prompted(), Bank()
        tools = [self.bank.pay, self.bank.refund]
        self.life = Life(Agent(name="assistant", model=self.model, tools=tools, untrusted="allow"))
        self.accepted: dict[Caller, tuple[str, str]] = {}
        """Session and words, by tenant, user and key."""
        self.approved: set[str] = set()
        self.made_anew: Counter[str] = Counter()
        """Hashes of the questions that a person said yes to, or tried to when the process died."""
        self.cancelled: set[str] = set()

    # Helpers

    def stored(self, caller: Caller) -> Run | None:
        tenant, user, key = caller
        run_id = keys.run_id(Principal(tenant=tenant, user=user), key)
        record = self.life.look(self.life.store.get(Key(keys.run(tenant, run_id), keys.RUN)))
        return from_record(Run, record.fields) if record else None

    def runs(self) -> dict[Caller, Run]:
        return {caller: run for caller in self.accepted if (run := self.stored(caller))}

    def question(self) -> tuple[Caller, Run] | None:
        asking = [
            (caller, run)
            for caller, run in self.runs().items()
            if run.status == "waiting" and any(question.status == "asked" for question in run.questions)
        ]
        return asking[0] if asking else None

    # Rules

    @rule(tenant=TENANTS, user=USERS, key=KEYS, session=st.sampled_from(["s", "t"]), words=WORDS)
    def submits(self, tenant: str, user: str, key: str, session: str, words: str) -> None:
        self.sends(tenant, user, key, session, words)

    def sends(self, tenant: str, user: str, key: str, session: str, words: str) -> None:
        caller = (tenant, user, key)
        inbound = Inbound(
            messages=(Message.of("user", words),),
            principal=Principal(tenant=tenant, user=user),
            key=key,
            fingerprint=f"{session}: {words}",
            session_id=session,
        )
        known = self.accepted.get(caller)
        try:
            run = self.life.do(self.life.app.engine.submit(inbound))
        except KeyReusedError:
            assert known not in (None, (session, words))
        except DiedError:
            if self.stored(caller) is not None:  # accepted, though nobody was told
                self.accepted.setdefault(caller, (session, words))
        else:
            assert known in (None, (session, words))
            assert run.id == keys.run_id(inbound.principal, key)
            self.accepted[caller] = (session, words)
            assert self.stored(caller) is not None

    @rule(boundaries=st.integers(1, 25))
    def will_die(self, boundaries: int) -> None:
        self.life.dies_after = boundaries

    @rule(seconds=st.sampled_from([1.0, 31.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.life.clock.advance(seconds)

    @rule()
    def sweeps(self) -> None:
        try:
            self.life.do(self.life.app.engine.sweep())
        except DiedError:
            pass

    @precondition(lambda self: self.question())
    @rule(
        who=st.sampled_from(["the right one"] * 3 + ["another user", "another tenant"]),
        right=st.sampled_from([True, True, False]),
        yes=st.booleans(),
        boundaries=st.integers(0, 15),
    )
    def answers(self, who: str, right: bool, yes: bool, boundaries: int) -> None:
        """To the first open question; the process may die of it, wherever."""
        self.life.dies_after = self.life.dies_after or boundaries
        (tenant, user, _), run = self.question()
        by = {
            "the right one": Principal(tenant=tenant, user=user),
            "another user": Principal(tenant=tenant, user="eve"),
            "another tenant": Principal(tenant="eve", user=user),
        }[who]
        asked = next(question for question in run.questions if question.status == "asked")
        digest = asked.hash if right else asked.hash[::-1]
        allowed = right and who == "the right one"
        engine = self.life.app.engine
        try:
            self.life.do((engine.approve if yes else engine.deny)(by, run.id, digest))
        except NotFoundError:
            assert not allowed
        except ConflictError:
            assert allowed
            assert not asked.open_at(self.life.clock.now())
        except DiedError:
            if allowed and yes:
                self.says_yes(run, asked)
        else:
            assert allowed
            assert asked.open_at(self.life.clock.now())
            if yes:
                self.says_yes(run, asked)

    def says_yes(self, run: Run, asked: Question) -> None:
        """To a call; or, where a crash left open whether it was made, to making it now, though it may have been."""
        key = f"{run.id}-{asked.step}"
        self.approved.add(key)
        if asked.reason == "uncertain":
            self.made_anew[key] += 1

    @rule(yes=st.booleans())
    def answers_again(self, yes: bool) -> None:
        """What was answered stays as it was."""
        engine = self.life.app.engine
        for run in self.runs().values():
            for question in run.questions:
                if question.status == "asked":
                    continue
                try:
                    self.life.do(
                        (engine.approve if yes else engine.deny)(run.principal, run.id, question.hash)
                    )
                except ConflictError:
                    pass
                except DiedError:
                    return
                else:
                    raise AssertionError(f"answered twice: {question}")

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancels(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(sorted(self.accepted)))
        run = self.stored(caller)
        try:
            self.life.do(self.life.app.engine.cancel(run.principal, run.id))
        except DiedError:
            pass
        self.cancelled.add(run.id)

    # What always holds

    @invariant()
    def nothing_is_done_twice_or_unasked(self) -> None:
        for key, times in self.bank.done.items():
            run = next(run for run in self.runs().values() if key.startswith(run.id))
            words = self.accepted[run.principal.tenant, run.principal.user, self.key_of(run)][1]
            if words.startswith("refund"):
                assert 1 <= times <= 1 + self.made_anew[key]
                assert key in self.approved

    def key_of(self, run: Run) -> str:
        return next(key for (_, _, key), other in self.runs().items() if other.id == run.id)

    @invariant()
    def transcripts_are_whole(self) -> None:
        by_session = defaultdict(list)
        for (tenant, user, _), (session, _) in self.accepted.items():
            by_session[tenant, user, session] = []
        for tenant, user, session in by_session:
            partition = keys.session(Principal(tenant=tenant, user=user), session)
            head = self.life.look(self.life.store.get(Key(partition, keys.STATE)))
            counted = head.fields.get("messages", 0) if head else 0
            page = self.life.look(self.life.store.query(partition, keys.MESSAGE, limit=1000))
            messages = [from_record(Message, record.fields) for record in page.records][:counted]
            assert [message.seq for message in messages] == list(range(1, counted + 1))
            ends = Counter(m.run_id for m in messages if m.text.startswith("Answer to "))
            asked = Counter(m.run_id for m in messages if m.role == "user" and not m.hidden)
            assert all(times == 1 for times in (*ends.values(), *asked.values()))

    def teardown(self) -> None:
        """Let it come to an end: then nothing is left lying, and every accepted message has an end."""
        self.life.dies_after = 0
        for _ in range(40):
            self.life.clock.advance(301.0)
            self.sweeps()
            if all(run.done for run in self.runs().values()):
                break
        for caller, run in self.runs().items():
            assert run.done, f"{caller} is {run.status}"
            if run.status == "failed":
                assert self.accepted[caller][1] == "busy"
            elif run.status == "cancelled":
                assert run.id in self.cancelled
            else:
                assert run.reply.text == f"Answer to {self.accepted[caller][1]}"
        self.sweeps()  # what the last acts left for the audit log
        due = self.life.look(self.life.store.query(keys.DUE, limit=100))
        assert not due.records
        self.nothing_is_done_twice_or_unasked()
        self.transcripts_are_whole()
        self.life.close()


LIMITS = st.builds(
    Limits,
    steps=st.integers(1, 12),
    tool_calls=st.integers(1, 8),
    tokens=st.sampled_from([100, 110, 111, 500, 100_000]),
    usd=st.none() | st.sampled_from([0.00001, 0.00005, 0.0001, 0.0002]),
)


class BudgetMachine(RuleBasedStateMachine):
    """A run with a budget, killed and gone on with: it never begins a step that it has no budget for."""

    def __init__(self) -> None:
        super().__init__()
        self.lives: list[tuple[Life, Limits]] = []

    @rule(limits=LIMITS, rounds=st.integers(0, 6), deaths=st.lists(st.integers(1, 30), max_size=4))
    def runs(self, limits: Limits, rounds: int, deaths: list[int]) -> None:
        bank = Bank()
        life = Life(Agent(name="assistant", model=Prompted(), tools=[bank.pay], limits=limits))
        inbound = Inbound(messages=(Message.of("user", f"pay {rounds}"),), key="k", session_id="s")
        for boundaries in [*deaths, 0]:
            life.dies_after = boundaries
            try:
                life.do(life.app.engine.submit(inbound))
                life.do(life.app.engine.sweep())
            except DiedError:
                life.clock.advance(31.0)
        run_id = keys.run_id(Principal(), "k")
        life.dies_after = 0
        life.do(life.app.engine.sweep())
        run = life.look(life.app.engine.run(Principal(), run_id))
        steps = life.look(life.app.engine.steps(Principal(), run_id))
        self.check(run, steps, limits, rounds)
        page = life.look(life.store.query(f"default/ledger/{keys.day(run.created_at)}", limit=10))
        [bill] = [record.fields for record in page.records]
        assert sum(entry["cost"] for entry in bill["entries"]) == run.cost
        assert len(bill["entries"]) == sum(step.kind == "model" for step in steps)
        life.close()

    def check(self, run: Run, steps: tuple, limits: Limits, rounds: int) -> None:
        models = [step for step in steps if step.kind == "model"]
        calls = [step for step in steps if step.kind == "tool"]
        assert run.done
        assert run.cost == sum(step.cost for step in models)
        assert run.usage == sum((step.usage for step in models), Usage())
        assert len(calls) <= limits.tool_calls
        before = models[:-1]  # when the last one was begun, this was spent
        assert sum(step.usage.total for step in before) < limits.tokens
        assert limits.usd is None or sum(step.cost for step in before) < limits.usd * 1e9
        assert len(before) + len(calls) <= limits.steps
        assert run.status == ("succeeded" if len(models) == rounds + 1 else "failed")
        if run.status == "failed":
            assert run.failure.extras["limit"] in ("steps", "tool_calls", "tokens", "usd")


class ApprovalMachine(EngineMachine):
    """The same with tools that ask, and little else: answers meet deaths and the end of their time more often."""

    cancels = None

    @rule(
        tenant=TENANTS,
        user=USERS,
        key=KEYS,
        session=st.just("s"),
        words=st.sampled_from(["refund", "refund 2"]),
    )
    def submits(self, tenant: str, user: str, key: str, session: str, words: str) -> None:
        self.sends(tenant, user, key, session, words)


TestEngine = EngineMachine.TestCase
TestEngine.settings = QUICK
TestApprovals = ApprovalMachine.TestCase
TestApprovals.settings = settings(QUICK, max_examples=150)
TestBudget = BudgetMachine.TestCase
TestBudget.settings = settings(QUICK, stateful_step_count=6)
