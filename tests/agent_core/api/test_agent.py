"""POST /api/v1/agent and what can be read of it afterwards."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest

from agent_core import tool
from agent_core.errors import ModelBusyError, ModelRefusedError
from agent_core.messages import Image, Text, ToolCall

House = Callable[..., Any]


async def test_a_message_is_answered(house: House) -> None:
    home = house("Paris.")
    answer = await home.say("What is the capital of France?", metadata={"from": "test"})
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"/api/v1/runs/{body['run_id']}"
    assert body["reply"] == {"text": "Paris.", "parts": [{"type": "text", "text": "Paris."}]}
    assert (body["status"], body["agent"], body["finish"], body["steps"]) == (
        "succeeded",
        "assistant",
        "stop",
        1,
    )
    assert body["metadata"] == {"from": "test"}
    assert body["usage"]["input"] > 0
    assert body["cost"] == {"usd": "0", "known": True, "unpriced": []} or not body["cost"]["known"]
    assert body["problem"] is None
    assert body["created_at"].endswith("Z")


async def test_a_message_may_have_parts(house: House) -> None:
    home = house("A cat.")
    picture = base64.b64encode(b"\x89PNG not really").decode()
    message = {
        "parts": [
            {"type": "text", "text": "What is this?"},
            {"type": "image", "media_type": "image/png", "data": picture},
        ]
    }
    assert (await home.say(message, data_class="restricted")).status_code == 200
    [prompted] = home.model.prompts[0].messages
    assert prompted.parts == (
        Text("What is this?"),
        Image(media_type="image/png", data=b"\x89PNG not really"),
    )
    assert prompted.data_class == "restricted"


async def test_a_whole_conversation_may_be_sent(house: House) -> None:
    home = house("Ada.")
    said = [("user", "I am Ada."), ("assistant", "Hello."), ("user", "Who am I?")]
    messages = [{"role": role, "parts": [{"type": "text", "text": text}]} for role, text in said]
    async with home.client() as client:
        answer = await client.post("/api/v1/agent", json={"messages": messages})
    assert answer.json()["reply"]["text"] == "Ada."
    assert [(message.role, message.text) for message in home.model.prompts[0].messages] == said


async def test_the_second_message_of_a_session_remembers_the_first(house: House) -> None:
    home = house("Hello Ada.", "You are Ada.")
    await home.say("I am Ada.", session_id="s")
    await home.say("Who am I?", session_id="s")
    assert [message.text for message in home.model.prompts[1].messages] == [
        "I am Ada.",
        "Hello Ada.",
        "Who am I?",
    ]


async def test_sessions_are_listed_paged_and_erased(house: House) -> None:
    home = house(*(f"answer {n}" for n in range(4)))
    for session in ("a", "b"):
        await home.say("one", session_id=session)
        await home.say("two", session_id=session)
    listed = (await home.get("/api/v1/sessions?limit=1")).json()
    assert [session["session_id"] for session in listed["sessions"]] == ["b"]
    listed = (await home.get(f"/api/v1/sessions?limit=9&before={listed['next']}")).json()
    assert [session["session_id"] for session in listed["sessions"]] == ["a"]
    assert listed["next"] is None
    page = (await home.get("/api/v1/sessions/a?limit=3")).json()
    assert page["session"]["messages"] == 4
    assert [(m["seq"], m["role"], m["text"]) for m in page["messages"]] == [
        (1, "user", "one"),
        (2, "assistant", "answer 0"),
        (3, "user", "two"),
    ]
    rest = (await home.get(f"/api/v1/sessions/a?after={page['next']}")).json()
    assert [m["text"] for m in rest["messages"]] == ["answer 1"]
    assert rest["next"] is None
    async with home.client() as client:
        assert (await client.delete("/api/v1/sessions/a")).status_code == 204
        assert (await client.delete("/api/v1/sessions/a")).status_code == 404
    assert (await home.get("/api/v1/sessions/a")).status_code == 404


async def test_a_run_shows_its_journal(house: House) -> None:
    @tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    home = house(ToolCall("c1", "weather", '{"city": "Oslo"}'), "It is sunny.", tools=[weather])
    run_id = (await home.say("Weather?")).json()["run_id"]
    run = (await home.get(f"/api/v1/runs/{run_id}")).json()
    assert [(step["number"], step["kind"], step["name"]) for step in run["journal"]] == [
        (1, "model", "scripted:test"),
        (2, "tool", "weather"),
        (3, "model", "scripted:test"),
    ]
    assert run["journal"][1]["result"]["content"] == "sunny in Oslo"
    assert run["journal"][2]["text"] == "It is sunny."
    listed = (await home.get("/api/v1/runs")).json()
    assert [found["run_id"] for found in listed["runs"]] == [run_id]


async def test_a_run_that_failed_answers_with_its_problem(house: House) -> None:
    home = house(ModelRefusedError("no such model"))
    answer = await home.say("Hi")
    problem = answer.json()
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "urn:sampan:problem:model-refused"
    assert problem["instance"] == f"/api/v1/runs/{problem['run_id']}" == answer.headers["location"]
    assert "no such model" in problem["detail"]
    run = (await home.get(problem["instance"])).json()
    assert (run["status"], run["problem"]) == ("failed", problem)


async def test_a_key_answers_once_and_replays(house: House) -> None:
    home = house("Once.")
    first = await home.say("Hi", {"Idempotency-Key": '"k-1"'})
    again = await home.say("Hi", {"Idempotency-Key": "k-1"})
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    other = await home.say("Ho", {"Idempotency-Key": "k-1"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:sampan:problem:idempotency-key-reused")


async def test_the_order_of_a_body_does_not_matter_to_its_key(house: House) -> None:
    home = house("Once.")
    async with home.client() as client:
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        for body in ('{"message":"Hi","session_id":"s"}', '{ "session_id": "s", "message": "Hi" }'):
            answer = await client.post("/api/v1/agent", content=body, headers=headers)
            assert answer.json()["reply"]["text"] == "Once."


@pytest.mark.parametrize("key", ["", '""', "a b", '"a', "ä".encode().decode("latin-1"), "x" * 256, '"a\\b"'])
async def test_a_key_that_can_not_be_one_is_refused(house: House, key: str) -> None:
    home = house()
    async with home.client() as client:
        answer = await client.post(
            "/api/v1/agent", json={"message": "Hi"}, headers=[("Idempotency-Key", key.encode("latin-1"))]
        )
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:sampan:problem:malformed")


async def test_a_key_of_a_run_under_way_says_where_to_look(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool])
    first = asyncio.create_task(home.say("Go", {"Idempotency-Key": "k"}))
    await gate.reached.wait()
    answer = await home.say("Go", {"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:sampan:problem:run-in-progress")
    assert answer.headers["retry-after"] == "1"
    run = (await home.get(answer.headers["location"])).json()
    assert (run["status"], run["reply"]) == ("running", None)
    gate.open.set()
    assert (await first).json()["run_id"] == run["run_id"]


async def test_a_passing_failure_may_be_tried_again_under_its_key(house: House) -> None:
    home = house(ModelBusyError("overloaded"), "Here now.")
    first = await home.say("Hi", {"Idempotency-Key": "k"})
    assert (first.status_code, first.json()["retryable"]) == (503, True)
    again = await home.say("Hi", {"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["reply"]["text"]) == (200, "Here now.")


async def test_what_a_failed_try_had_done_is_not_done_again(house: House) -> None:
    done: list[str] = []

    @tool(effects="once")
    def order(title: str) -> str:
        """Order a book."""
        done.append(title)
        return "ordered"

    home = house(ToolCall("c1", "order", '{"title": "Emma"}'), ModelBusyError("busy"), "Done.", tools=[order])
    first = await home.say("Emma, please", {"Idempotency-Key": "k"})
    again = await home.say("Emma, please", {"Idempotency-Key": "k"})
    assert (first.status_code, again.json()["reply"]["text"], done) == (503, "Done.", ["Emma"])
    assert again.json()["steps"] == 3


async def test_a_run_is_cancelled_at_its_next_step(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool])
    first = asyncio.create_task(home.say("Go", {"Idempotency-Key": "k"}))
    await gate.reached.wait()
    running = (await home.say("Go", {"Idempotency-Key": "k"})).headers["location"]
    async with home.client() as client:
        asked = await client.post(f"{running}/cancel")
        assert asked.status_code == 202
        gate.open.set()
        answer = await first
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:sampan:problem:cancelled")
        late = await client.post(f"{running}/cancel")
        assert (late.status_code, late.json()["status"]) == (200, "cancelled")


@tool(effects="once", approval=True)
def refund(order: str) -> str:
    """Pay an order back."""
    return f"paid {order} back"


@pytest.mark.parametrize(("verb", "content"), [("approve", "paid 7 back"), ("deny", "")])
async def test_a_run_asks_a_person(house: House, events: Any, verb: str, content: str) -> None:
    home = house(ToolCall("c1", "refund", '{"order": "7"}'), "Settled.", tools=[refund])
    answer = await home.say("Refund order 7")
    waiting = answer.json()
    assert (answer.status_code, waiting["status"]) == (202, "waiting")
    where = answer.headers["location"]
    [question] = waiting["questions"]
    assert (question["tool"], question["reason"], question["status"]) == ("refund", "approval", "asked")
    assert question["arguments"] == '{"order":"7"}'
    assert [event.type for event in events((await home.get(f"{where}/events")).text)][-1] == "waiting"
    async with home.client() as client:
        wrong = await client.post(f"{where}/{verb}", json={"hash": "0"})
        assert wrong.status_code == 404
        said = await client.post(f"{where}/{verb}", json={"hash": question["hash"]})
        assert said.status_code == 202
        again = await client.post(f"{where}/{verb}", json={"hash": question["hash"]})
        assert (again.status_code, again.json()["type"]) == (409, "urn:sampan:problem:conflict")
    await home.app.engine.drain()
    run = (await home.get(where)).json()
    assert (run["status"], run["reply"]["text"]) == ("succeeded", "Settled.")
    result = run["journal"][1]["result"]
    assert result["content"] == content if content else result["error"]


async def test_an_answer_may_be_fetched_later(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool])
    answer = await home.say("Go", {"Prefer": "respond-async"})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert answer.headers["preference-applied"] == "respond-async"
    await gate.reached.wait()
    gate.open.set()
    await home.app.engine.drain()
    assert (await home.get(answer.headers["location"])).json()["reply"]["text"] == "Done."


async def test_an_answer_is_waited_for_no_longer_than_one_prefers(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", "Quick.", tools=[gate.tool])
    answer = await home.say("Go", {"Prefer": "wait=0"})
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
    gate.open.set()
    await home.app.engine.drain()
    quick = await home.say("And now?", {"Prefer": "wait=10"})
    assert (quick.status_code, quick.headers["preference-applied"]) == (200, "wait=10")


async def test_an_asynchronous_run_under_one_key_is_one_run(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool])
    key = {"Idempotency-Key": "k"}
    first = await home.say("Go", key, mode="async")
    again = await home.say("Go", key, mode="async")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["run_id"] == again.json()["run_id"]
    assert again.headers["idempotency-replayed"] == "true"
    gate.open.set()
    await home.app.engine.drain()
    after = await home.say("Go", key, mode="async")
    assert (after.status_code, after.json()["reply"]["text"]) == (200, "Done.")


async def test_an_asynchronous_run_can_be_followed_by_who_comes_late(
    house: House, gate: Any, events: Any
) -> None:
    home = house(ToolCall("c1", "wait"), "All of it.", tools=[gate.tool])
    run = (await home.say("Go", mode="async")).json()
    gate.open.set()
    followed = events((await home.get(f"/api/v1/runs/{run['run_id']}/events")).text)
    assert followed[0].type == "run"
    assert "".join(event.data["text"] for event in followed if event.type == "text") == "All of it."
    assert followed[-1].type == "reply"


@pytest.mark.parametrize("callback", ["http://example.com/", "https://10.0.0.1/", "nonsense"])
async def test_a_callback_needs_a_secret_and_a_public_address(house: House, callback: str) -> None:
    refused = await house("never").say("Go", callback="https://example.com/hook")
    assert (refused.status_code, refused.json()["field"]) == (422, "$.callback")
    assert "SAMPAN_CALLBACK_SECRET" in refused.json()["detail"]
    home = house("never", settings={"callback_secret": "whsec_" + "A" * 32})
    refused = await home.say("Go", callback=callback)
    assert (refused.status_code, refused.json()["field"]) == (422, "$.callback")
