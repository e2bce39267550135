"""What a person is asked, and that each answer counts for one question, once."""

from __future__ import annotations

import pytest

from agent_core import Limits
from agent_core.engine import keys
from agent_core.errors import ConflictError
from tests.durability.stage import ME, Bank, Stage, calls, said

RUN = keys.run_id(ME, "k")


def asked(key: str = "k") -> object:
    return said(key=key, session_id="s")


async def test_equal_calls_are_asked_about_one_by_one() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay", "pay"), "Done.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(asked())
    first, second = run.questions
    assert first.hash != second.hash
    await app.engine.approve(ME, run.id, first.hash)
    with pytest.raises(ConflictError):
        await app.engine.approve(ME, run.id, first.hash)  # a click that came twice
    await app.engine.deny(ME, run.id, second.hash)
    await app.engine.drain()
    assert ((await stage.run(run.id)).status, bank.paid.total()) == ("succeeded", 1)


async def test_the_same_call_in_a_later_round_is_a_question_of_its_own() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), calls("pay"), "Done.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(asked())
    for paid in (1, 2):
        await app.engine.approve(ME, run.id, run.questions[-1].hash)
        await app.engine.drain()
        assert bank.paid.total() == paid
        run = await stage.run(run.id)
    assert (run.status, len(run.questions)) == ("succeeded", 2)


async def test_an_approved_call_that_a_crash_left_uncertain_can_be_answered_again() -> None:
    stage, bank = Stage(), Bank()
    paying = [bank.pay("once", approval=True)]
    app = stage.start(calls("pay"), tools=paying)
    run = await app.engine.answer(asked())
    await app.engine.approve(ME, run.id, run.questions[0].hash)
    await stage.dies_at("after tool")
    app = stage.start("Done.", tools=paying)
    await stage.swept()
    run = await stage.run(run.id)
    assert [(question.reason, question.status) for question in run.questions] == [
        ("approval", "approved"),
        ("uncertain", "asked"),
    ]
    await app.engine.deny(ME, run.id, run.questions[1].hash)
    await app.engine.drain()
    assert ((await stage.run(run.id)).status, bank.paid.total()) == ("succeeded", 1)


async def test_a_yes_to_an_uncertain_call_is_good_for_one_try() -> None:
    """Crashed before the tool, a person has it tried again; crashed behind it then: only a person knows that."""
    stage, bank = Stage(), Bank()
    paying = [bank.pay("once")]
    stage.start(calls("pay"), tools=paying)
    await stage.dies_at("before tool", asked())
    app = stage.start(tools=paying)
    await stage.swept()
    run = await stage.run(RUN)
    await app.engine.approve(ME, run.id, run.questions[0].hash)
    await stage.dies_at("after tool")
    assert bank.paid.total() == 1
    app = stage.start("Done.", tools=paying)
    await stage.swept()
    run = await stage.run(RUN)
    assert run.status == "waiting"
    await app.engine.deny(ME, run.id, run.questions[-1].hash)
    await app.engine.drain()
    assert ((await stage.run(RUN)).status, bank.paid.total()) == ("succeeded", 1)


async def test_a_call_that_is_handed_over_was_not_begun() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(*[calls("pay")] * 3, "Done.", tools=[bank.pay("once")], limits=Limits(steps=20))

    async def wake(principal: object, session_id: str) -> None:
        await app.engine.resume(ME, session_id, stop_at=1.0)

    app.engine._wake = wake
    run = await app.engine.answer(asked(), stop_at=1.0)
    assert (run.status, run.questions, bank.paid.total()) == ("succeeded", (), 3)
