"""The scenarios: what is said to the agent, what it does, and under which circumstances."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent_core.agent import Compaction
from agent_core.engine.runs import Delivery, Inbound
from agent_core.messages import Message
from agent_core.queues.base import Entry, Rules
from tests.durability.cast import Plan, Rounds, call

QUEUE = Rules(name="inbound", fifo=True)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`says` are the messages by idempotency key, with the session of each; `plan` is what the model does about them.

    `way`: the messages come all at once, one behind the other, each after the answer to the one before, or in a queue.
    `one_step`: each attempt is told that its
    time is up, so it does one step and hands over. `pushed`: replies are pushed to a channel.
    """

    name: str
    about: str
    says: Mapping[str, tuple[str, str]]
    plan: Plan
    way: Literal["at once", "behind each other", "in turn", "queue"] = "at once"
    one_step: bool = False
    pushed: bool = False
    agent: Mapping[str, Any] = field(default_factory=dict)

    def key(self, key: str) -> str:
        """The idempotency key as the engine knows it."""
        return f"queue/{key}" if self.way == "queue" else key

    def inbound(self, key: str) -> Inbound:
        """The message of this key."""
        session, words = self.says[key]
        return Inbound(
            messages=(Message.of("user", words),),
            key=key,
            fingerprint=words,
            session_id=session,
            delivery=Delivery(kind="postbox", address=session) if self.pushed else None,
        )

    def entry(self, key: str) -> Entry:
        """The message of this key as a producer puts it into a queue."""
        session, words = self.says[key]
        return Entry(body=json.dumps({"message": words, "session_id": session}), group=session, dedupe=key)


def nothing(words: str) -> Rounds:
    return []


def one_tool(words: str) -> Rounds:
    return [[call("pay", order=words)]]


def three_tools(words: str) -> Rounds:
    return [[call("look", order=words), call("pay", order=words), call("refund", order=words)]]


def side_by_side(words: str) -> Rounds:
    return [[call("look", order=f"{words} {place}") for place in "abc"], [call("send", order=words)]]


def asked_first(words: str) -> Rounds:
    return [[call("look", order=words), call("transfer", order=words)]]


def many_rounds(words: str) -> Rounds:
    return [[call(name, order=f"{words} {place}")] for place in range(2) for name in ("pay", "refund")]


ONE = {"k1": ("s1", "hello")}
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="plain", about="one message, one model call", says=ONE, plan=nothing),
        Scenario(
            name="three tools",
            about="one round: effects none, repeatable and once",
            says=ONE,
            plan=three_tools,
        ),
        Scenario(
            name="parallel",
            about="three calls side by side, then one that is made once and can be looked up",
            says=ONE,
            plan=side_by_side,
        ),
        Scenario(
            name="approval", about="a person must agree to a call made once", says=ONE, plan=asked_first
        ),
        Scenario(
            name="continuation",
            about="four rounds of tools, one step per attempt, handed over in between",
            says=ONE,
            plan=many_rounds,
            one_step=True,
        ),
        Scenario(
            name="batch of 10",
            about="ten messages to ten sessions in one worker",
            says={f"k{n}": (f"s{n}", f"hello {n}") for n in range(10)},
            plan=nothing,
        ),
        Scenario(
            name="queue of 10",
            about="ten messages in a queue, taken by one worker that acknowledges each when it is done",
            says={f"k{n}": (f"s{n}", f"hello {n}") for n in range(10)},
            plan=nothing,
            way="queue",
        ),
        Scenario(
            name="inbox",
            about="three messages to one session, one behind the other",
            says={f"k{n}": ("s1", f"hello {n}") for n in range(3)},
            plan=one_tool,
            way="behind each other",
        ),
        Scenario(
            name="compaction",
            about="three messages, of which the third has the first summarised",
            says={f"k{n}": ("s1", f"hello {n}") for n in range(3)},
            plan=nothing,
            way="in turn",
            agent={"compaction": Compaction(at_tokens=40, keep=2)},
        ),
        Scenario(name="push", about="the reply is pushed to a channel", says=ONE, plan=nothing, pushed=True),
    )
}
