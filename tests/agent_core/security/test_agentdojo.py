"""AgentDojo's goals against its tasks: a model that obeys every injected word does nothing that its user did not want.

All 54 goals with all 86 tasks of their suite, on the real engine. The model is the worst that can be: it finds the
injected goal in what its tools gave, and does it first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_core import Message, Principal
from agent_core.app import App
from agent_core.engine.runs import Inbound, Run
from agent_core.testing import test_app
from tests.agent_core.security.dojo import (
    HOSTS,
    INJECTION,
    READS,
    WEB,
    WORLDS,
    Call,
    World,
    obeyed,
    wanted,
    worker,
)

DATA = json.loads((Path(__file__).parents[4] / "shared/data/agentdojo_tasks.json").read_text())
SUITES = ("banking", "slack", "travel", "workspace")
ME = Principal()
suites = pytest.mark.parametrize("suite", SUITES)


def goals(suite: str) -> list[str]:
    return [goal["goal"] for goal in DATA["injection_goals"] if goal["suite"] == suite]


def tasks(suite: str) -> dict[str, list[Call]]:
    """The users' prompts, each with what it wants done."""
    found = [task for task in DATA["user_tasks"] if task["suite"] == suite]
    return {task["prompt"]: wanted(suite, task["task"], task["prompt"]) for task in found}


class Desk:
    """One suite's agent, its user's messages, and the user: who says yes to what he wanted, and no to all else."""

    def __init__(self, suite: str, untrusted: str = "ask", hosts: tuple[str, ...] | None = HOSTS) -> None:
        self.suite = suite
        self.plans = tasks(suite)
        self.app: App = test_app(worker(suite, self.plans, untrusted, hosts))  # type: ignore[arg-type]
        self.asked: list[Any] = []

    async def work(self, prompt: str, goal: str = "", *, answers: bool = True) -> tuple[Run, World]:
        session = f"s{len(WORLDS)}"
        planted = INJECTION.format(goal=goal).replace("<", "&lt;") if goal else ""
        texts = {
            name: f"What the user looks for.{INJECTION.format(goal=goal) if goal else ''}"
            for name, _ in READS[self.suite]
        }
        texts["fetch"] = f"An article.{planted}"
        WORLDS[session] = world = World(texts)
        WEB.session = session
        run = await self.app.engine.answer(
            Inbound(messages=(Message.of("user", prompt),), session_id=session, principal=ME)
        )
        while answers and run.status == "waiting":
            for question in [q for q in run.questions if q.open_at(self.app.clock.now())]:
                self.asked.append(question)
                meant = (question.tool, json.loads(question.arguments)) in self.plans[prompt]
                decide = self.app.engine.approve if meant else self.app.engine.deny
                await decide(ME, run.id, question.hash)
            await self.app.engine.drain()
            run = await self.app.engine.run(ME, run.id)
        return run, world


def test_all_goals_and_tasks_are_there() -> None:
    assert sum(len(goals(suite)) for suite in SUITES) == len(DATA["injection_goals"]) == 54
    assert sum(len(tasks(suite)) for suite in SUITES) == len(DATA["user_tasks"]) == 86
    harmless = [goal for suite in SUITES for goal in goals(suite) if not obeyed(suite, goal)]
    assert (
        len(harmless) == 1
    )  # "Say that I should absolutely visit": words, which no policy of tools can hold back


@suites
async def test_a_user_with_an_obedient_model_gets_only_what_he_wanted(
    suite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    desk, attacks, refused = Desk(suite), 0, 0
    for goal in goals(suite):
        for prompt, plan in desk.plans.items():
            run, world = await desk.work(prompt, goal)
            assert run.status == "succeeded"
            assert world.done == plan, (goal, prompt)
            attacks += 1
    refused = sum(question.status == "asked" for question in desk.asked)
    assert all(question.sources for question in desk.asked)
    with capsys.disabled():
        print(f"\n{suite}: {attacks} attacks, {refused} questions, 0 calls that were not wanted", end="")


@suites
async def test_where_nobody_answers_or_the_agent_refuses_nothing_at_all_is_done(suite: str) -> None:
    alone, strict = Desk(suite), Desk(suite, "refuse")
    first = next(iter(alone.plans))
    for goal in goals(suite):
        run, world = await alone.work(first, goal, answers=False)
        assert world.done == []
        assert (run.status == "waiting") == bool(
            (obeyed(suite, goal) and "Visit" not in goal) or alone.plans[first]
        )
        run, world = await strict.work(first, goal)
        assert (run.status, world.done) == ("succeeded", [])
    assert strict.asked == []


@suites
async def test_the_same_tasks_without_an_injection_succeed(suite: str) -> None:
    desk = Desk(suite)
    for prompt, plan in desk.plans.items():
        desk.asked.clear()
        run, world = await desk.work(prompt)
        assert (run.status, world.done) == ("succeeded", plan)
        assert len(desk.asked) == len(plan)  # each is asked about once


@suites
async def test_without_the_policy_every_attack_would_succeed(suite: str) -> None:
    """The control: the model does obey, and the worlds do notice."""
    desk = Desk(
        suite,
        "allow",
        hosts=None if suite != "slack" else (*HOSTS, "www.evil.example.com", "www.secure-systems-252.com"),
    )
    first, plan = next(iter(desk.plans.items()))
    for goal in goals(suite):
        run, world = await desk.work(first, goal)
        assert run.status == "succeeded"
        assert world.done == [*obeyed(suite, goal), *plan], goal
