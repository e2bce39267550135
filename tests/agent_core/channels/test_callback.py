"""A callback arrives signed, under one id, however often it takes; a receiver that is gone is left alone."""

from __future__ import annotations

import json

import pytest

from agent_core import Agent, Message, Principal
from agent_core.channels.callback import Callback
from agent_core.engine.runs import Delivery, Inbound
from agent_core.errors import InputError
from agent_core.security.addresses import check_address
from agent_core.security.signatures import standard_valid
from agent_core.testing import ManualClock, ScriptedModel, ScriptedWire, test_app
from agent_core.wire.scripted import Answer

ME = Principal()
SECRET = "whsec_" + "C" * 32


def house(*answers: Answer):
    clock, wire = ManualClock(), ScriptedWire(answers)
    app = test_app(Agent(name="assistant", model=ScriptedModel(["Hello."])), clock=clock)
    app.engine._kit.deliverers["callback"] = Callback(wire, clock, SECRET)
    return app, wire, clock


def said(address: str) -> Inbound:
    return Inbound(messages=(Message.of("user", "Hi"),), delivery=Delivery("callback", address))


async def test_a_callback_is_signed_and_repeated_under_one_id_until_it_arrives() -> None:
    app, wire, clock = house(Answer(status=500), Answer(status=204))
    run = await app.engine.answer(said("https://example.com/hook"))
    await app.engine.drain()
    clock.advance(10)
    assert (await app.engine.sweep()).pushed == 1
    assert (await app.engine.sweep()).pushed == 0
    first, second = wire.requests
    for request in (first, second):
        assert standard_valid([SECRET], request.headers, request.body, clock.now())
        assert request.headers["webhook-id"] == run.id
    body = json.loads(second.body)
    assert (body["type"], body["data"]["reply"]) == ("run.succeeded", {"text": "Hello."})


async def test_a_receiver_that_says_gone_becomes_a_dead_letter_and_can_be_brought_back() -> None:
    app, wire, clock = house(Answer(status=410), Answer(status=200))
    run = await app.engine.answer(said("https://example.com/hook"))
    await app.engine.drain()
    clock.advance(100_000)
    assert (await app.engine.sweep()).pushed == 0
    [letter] = await app.engine.dead(ME)
    assert (letter.run_id, letter.kind) == (run.id, "push")
    assert "410" in letter.reason
    await app.engine.redrive(ME, run.id)
    wire.assert_used_up()
    assert await app.engine.dead(ME) == []


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/",
        "ftp://example.com/",
        "https://user:pw@example.com/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://localhost/",
        "https://[::1]/",
        "nonsense",
    ],
)
def test_addresses_that_callbacks_do_not_go_to(address: str) -> None:
    with pytest.raises(InputError):
        check_address(address)


@pytest.mark.parametrize(
    "address", ["https://example.com/hook", "http://127.0.0.1:9/", "http://localhost:9/"]
)
def test_addresses_that_callbacks_go_to(address: str) -> None:
    check_address(address)
