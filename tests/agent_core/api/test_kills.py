"""`/api/v1/kills`: stopped and let go over HTTP, each tenant for itself, and messages are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from agent_core.engine.switches import Switch, Switches
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock


async def test_a_stopped_agent_answers_503_until_it_is_lifted(house: Callable[..., Any]) -> None:
    app = house("Hello.")
    async with app.client() as client:
        made = await client.post(
            "/api/v1/kills", json={"kind": "agent", "name": "assistant", "reason": "odd"}
        )
        assert (made.status_code, made.json()["told"], made.json()["everywhere"]) == (200, 0, False)
        [listed] = (await client.get("/api/v1/kills")).json()["kills"]
        assert (listed["kind"], listed["name"], listed["reason"]) == ("agent", "assistant", "odd")
        refused = await app.say("Hi.")
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:sampan:problem:killed"
        assert refused.json()["detail"] == "the agent 'assistant' is stopped by an operator: odd"
        what = {"kind": "agent", "name": "assistant"}
        for _ in range(2):  # once more does no harm
            left = await client.post("/api/v1/kills/lift", json=what)
            assert (left.status_code, left.json()) == (200, {"kills": []})
        assert (await app.say("Hi.")).status_code == 200


async def test_a_fresh_process_knows_of_a_switch_with_its_first_message(house: Callable[..., Any]) -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    await Switches(store, clock).throw(Switch(kind="tenant", tenant="default", by="ada", at=1.0))
    app = house(store=store, clock=clock)
    assert (await app.say("Hi.")).status_code == 503
    chat = {"model": "assistant", "messages": [{"role": "user", "content": "Hi."}]}
    async with app.client() as client:
        answer: httpx.Response = await client.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 503


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "model", "name": "x"}, 422),
        ({"name": "x"}, 422),
        ({"kind": "agent"}, 404),
        ({"kind": "tenant", "name": "x"}, 404),
    ],
)
async def test_what_can_not_be_stopped_is_said(
    house: Callable[..., Any], body: dict[str, str], status: int
) -> None:
    async with house().client() as client:
        answer = await client.post("/api/v1/kills", json=body)
    assert answer.status_code == status
