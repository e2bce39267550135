"""The official OpenAI client, unchanged, against a real server: it chats, streams, calls tools, understands errors."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from agent_core import tool
from agent_core.errors import ModelBusyError, ModelRefusedError
from agent_core.messages import File, Image, Message, Reply, Text, ToolCall, Usage
from tests.marks import inside

House = Callable[..., Any]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Served:
    """An app behind a real server, and clients of it."""

    def __init__(self, home: Any, url: str) -> None:
        self.model = home.model
        self.options = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(**{**self.options, **options})

    def async_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(**self.options)


@pytest.fixture
def serve(house: House) -> Iterator[Callable[..., Served]]:
    """Serves an app with this script until the test is over."""
    with ExitStack() as stack:

        def make(*script: Any, **options: Any) -> Served:
            home = house(*script, **options)
            return Served(home, stack.enter_context(home.served()))

        yield make


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_it_chats(serve: Callable[..., Served]) -> None:
    usage = Usage(input=20, cached_input=5, output=3, reasoning=1)
    served = serve(Reply(message=Message.of("assistant", "Paris."), usage=usage))
    with served.client() as client:
        done = client.chat.completions.create(
            model="assistant",
            messages=[
                {"role": "developer", "content": "Be brief."},
                user("Hi"),
                {"role": "assistant", "content": "Hello."},
                user("Capital of France?"),
            ],
            temperature=0.5,
            max_completion_tokens=50,
            seed=1,
            top_p=0.9,
            user="ada",
            store=False,
            n=1,
        )
    [choice] = done.choices
    assert (choice.message.role, choice.message.content, choice.message.tool_calls) == (
        "assistant",
        "Paris.",
        None,
    )
    assert (choice.finish_reason, done.model, done.object) == ("stop", "assistant", "chat.completion")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (20, 3, 23)
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.prompt_tokens_details.cached_tokens == 5
    assert done.usage.completion_tokens_details is not None
    assert done.usage.completion_tokens_details.reasoning_tokens == 1
    [prompt] = served.model.prompts
    assert [(message.role, message.text) for message in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "Capital of France?"),
    ]
    assert (prompt.max_tokens, prompt.temperature) == (50, 0.5)


def test_it_streams(serve: Callable[..., Served]) -> None:
    served = serve("one two three four", "five")
    with served.client() as client:
        stream = client.chat.completions.create(
            model="assistant", messages=[user("count")], stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "one two three four"
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens > 0
        assert len({chunk.id for chunk in chunks}) == 1
        plain = list(client.chat.completions.create(model="assistant", messages=[user("go on")], stream=True))
        assert all(chunk.usage is None and chunk.choices for chunk in plain)


def test_it_streams_with_its_own_helper(serve: Callable[..., Served]) -> None:
    client = serve("one two three").client()
    with client, client.chat.completions.stream(model="assistant", messages=[user("count")]) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "one two three"


@pytest.mark.parametrize("streaming", [False, True])
def test_it_runs_a_loop_of_its_own_tools(serve: Callable[..., Served], streaming: bool) -> None:
    asked = [ToolCall("c1", "weather", '{"city": "Oslo"}'), ToolCall("c2", "weather", '{"city": "Rome"}')]
    served = serve(asked, "Oslo rainy, Rome sunny.")
    weather = {"Oslo": "rainy", "Rome": "sunny"}
    messages: list[Any] = [user("Weather in Oslo and Rome?")]
    with served.client() as client:
        for _ in range(2):
            if streaming:
                with client.chat.completions.stream(
                    model="assistant", messages=messages, tools=[WEATHER]
                ) as stream:
                    done: Any = stream.get_final_completion()
            else:
                done = client.chat.completions.create(model="assistant", messages=messages, tools=[WEATHER])
            choice = done.choices[0]
            if choice.finish_reason != "tool_calls":
                break
            messages.append(
                choice.message.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
            )
            for call in choice.message.tool_calls:
                content = weather[json.loads(call.function.arguments)["city"]]
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
    assert choice.message.content == "Oslo rainy, Rome sunny."
    first, second = served.model.prompts
    assert [spec.name for spec in first.tools] == ["weather"]
    assert first.tools[0].schema == WEATHER["function"]["parameters"]
    assert [message.role for message in second.messages] == ["user", "assistant", "tool"]
    results = second.messages[2].tool_results
    assert [(result.call_id, result.name, inside(result.content)) for result in results] == [
        ("c1", "weather", "rainy"),
        ("c2", "weather", "sunny"),
    ]


def test_the_agents_own_tools_are_not_the_clients_business(serve: Callable[..., Served]) -> None:
    @tool
    def stock(title: str) -> str:
        """How many there are."""
        return "3"

    thought = Reply(
        message=Message(
            role="assistant",
            parts=(Text("Let me look."),),
            tool_calls=(ToolCall("c1", "stock", '{"title": "Emma"}'),),
        ),
        finish="tool_calls",
    )
    served = serve(thought, "Three.", thought, "Three.", tools=[stock])
    with served.client() as client:
        done = client.chat.completions.create(model="assistant", messages=[user("Emma?")])
        assert done.choices[0].message.content == "Three."
        assert done.choices[0].finish_reason == "stop"
        chunks = client.chat.completions.create(model="assistant", messages=[user("Emma?")], stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == "Let me look.\n\nThree."


def test_it_chooses_one_tool(serve: Callable[..., Served]) -> None:
    served = serve("No.", "No.")
    other = {"type": "function", "function": {"name": "other"}}
    with served.client() as client:
        client.chat.completions.create(
            model="assistant",
            messages=[user("Hi")],
            tools=[WEATHER, other],
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )
        client.chat.completions.create(
            model="assistant", messages=[user("Hi")], tools=[WEATHER, other], tool_choice="none"
        )
    first, second = served.model.prompts
    assert ([spec.name for spec in first.tools], first.tool_choice) == (["weather"], "required")
    assert ([spec.name for spec in second.tools], second.tool_choice) == (["weather", "other"], "none")


def test_it_gets_structured_output(serve: Callable[..., Served]) -> None:
    class City(BaseModel):
        name: str
        people: int

    served = serve('{"name": "Paris", "people": 2000000}', '{"any": 1}')
    with served.client() as client:
        done = client.chat.completions.parse(
            model="assistant", messages=[user("A city")], response_format=City
        )
        assert done.choices[0].message.parsed == City(name="Paris", people=2_000_000)
        client.chat.completions.create(
            model="assistant", messages=[user("Any")], response_format={"type": "json_object"}
        )
    first, second = served.model.prompts
    assert first.output_schema is not None
    assert first.output_schema["required"] == ["name", "people"]
    assert second.output_schema == {"type": "object"}


def test_it_sends_pictures_and_files(serve: Callable[..., Served]) -> None:
    served = serve("A cat.")
    data = base64.b64encode(b"bytes").decode()
    content = [
        {"type": "text", "text": "What are these?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}", "filename": "a.pdf"}},
    ]
    with served.client() as client:
        client.chat.completions.create(model="assistant", messages=[user(content)])
    [message] = served.model.prompts[0].messages
    assert message.parts == (
        Text("What are these?"),
        Image(media_type="image/png", data=b"bytes"),
        File(media_type="application/pdf", data=b"bytes", name="a.pdf"),
    )


def test_a_session_keeps_the_history_for_it(serve: Callable[..., Served]) -> None:
    served = serve("Hello Ada.", "You are Ada.", "Still Ada.")
    with served.client(default_headers={"Sampan-Session-Id": "s"}) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="assistant", messages=[user("I am Ada.")]
        )
        assert raw.headers["sampan-session-id"] == "s"
        run_id = raw.headers["sampan-run-id"]
        assert raw.parse().id == f"chatcmpl-{run_id}"
        # A client that keeps the history, too, sends it all again: it is not stored twice.
        whole = [user("I am Ada."), {"role": "assistant", "content": "Hello Ada."}, user("Who am I?")]
        client.chat.completions.create(model="assistant", messages=whole)
    with served.client() as client:
        client.chat.completions.create(
            model="assistant", messages=[user("And now?")], metadata={"session_id": "s"}
        )
    assert [message.text for message in served.model.prompts[2].messages] == [
        "I am Ada.",
        "Hello Ada.",
        "Who am I?",
        "You are Ada.",
        "And now?",
    ]


def test_a_call_without_a_session_is_alone(serve: Callable[..., Served]) -> None:
    served = serve("One.", "Two.")
    with served.client() as client:
        for text in ("first", "second"):
            client.chat.completions.create(model="assistant", messages=[user(text)])
    assert [message.text for message in served.model.prompts[1].messages] == ["second"]


def test_it_gets_errors_as_its_own_classes(serve: Callable[..., Served]) -> None:
    served = serve(ModelBusyError("overloaded"), ModelRefusedError("no key"))
    with served.client() as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError) as missing:
            create(model="gpt-9", messages=[user("Hi")])
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        assert "assistant" in missing.value.message
        with pytest.raises(openai.BadRequestError) as empty:
            create(model="assistant", messages=[])
        assert (empty.value.type, empty.value.param) == ("invalid_request_error", "messages")
        with pytest.raises(openai.InternalServerError) as busy:
            create(model="assistant", messages=[user("Hi")])
        assert (busy.value.status_code, busy.value.code) == (503, "model_busy")
        with pytest.raises(openai.InternalServerError) as refused:
            create(model="assistant", messages=[user("Hi")])
        assert (refused.value.status_code, refused.value.code) == (502, "model_refused")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2},
        {"stop": "."},
        {"logprobs": True},
        {"modalities": ["audio"]},
        {"logit_bias": {"1": 1}},
        {"functions": [{"name": "f"}]},
        {"function_call": "auto"},
        {"web_search_options": {}},
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(
    serve: Callable[..., Served], field: dict[str, Any]
) -> None:
    with serve().client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="assistant", messages=[user("Hi")], **field)
    [name] = field
    assert (caught.value.param or "").split("[")[0] == name
    assert (
        name in caught.value.message or "old form" in caught.value.message or "tool" in caught.value.message
    )


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (
            [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            "messages[0].content[0].image_url.url",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}],
            "messages[0].content[0].image_url.url",
        ),
        (
            [{"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}],
            "messages[0].content[0].image_url.url",
        ),
        ([{"type": "file", "file": {"file_id": "f"}}], "messages[0].content[0].file"),
        (5, "messages[0].content"),
    ],
)
def test_what_can_not_be_read_is_refused_with_its_place(
    serve: Callable[..., Served], content: Any, param: str
) -> None:
    with serve().client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="assistant", messages=[user(content)])
    assert caught.value.param == param


def test_an_error_in_a_stream_is_raised_by_the_client(serve: Callable[..., Served]) -> None:
    served = serve(ModelBusyError("overloaded"))
    with served.client() as client:
        stream = client.chat.completions.create(model="assistant", messages=[user("Hi")], stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            list(stream)


def test_a_run_that_waits_for_a_person_is_a_conflict(serve: Callable[..., Served]) -> None:
    @tool(effects="once", approval=True)
    def refund(order: str) -> str:
        """Pay an order back."""
        return "paid"

    call = ToolCall("c1", "refund", '{"order": "7"}')
    served = serve(call, call, tools=[refund])
    with served.client(max_retries=2) as client:
        with pytest.raises(openai.ConflictError, match="waits for a person"):
            client.chat.completions.create(model="assistant", messages=[user("Refund")])
        stream = client.chat.completions.create(model="assistant", messages=[user("Refund")], stream=True)
        with pytest.raises(openai.APIError, match="waits for a person"):
            list(stream)
    assert len(served.model.prompts) == 2, "each question starts one run, no more"


def test_it_does_not_repeat_by_itself_what_would_fail_again(serve: Callable[..., Served]) -> None:
    """By default the client sends a failed request twice more; each would be another run."""
    served = serve(ModelRefusedError("no key"))
    with served.client(max_retries=2) as client, pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="assistant", messages=[user("Hi")])
    assert len(served.model.prompts) == 1


def test_a_key_answers_once_and_replays(serve: Callable[..., Served]) -> None:
    served = serve("Once.")
    with served.client(default_headers={"Idempotency-Key": "k"}) as client:
        create = client.chat.completions.create
        first, again = (create(model="assistant", messages=[user("Hi")]) for _ in range(2))
        assert first == again
        with pytest.raises(openai.UnprocessableEntityError):
            create(model="assistant", messages=[user("Ho")])
        with pytest.raises(openai.UnprocessableEntityError):
            create(model="assistant", messages=[user("Ho")], stream=True)


def test_it_lists_agents_as_models(serve: Callable[..., Served]) -> None:
    with serve().client() as client:
        assert [model.id for model in client.models.list()] == ["assistant"]
        assert client.models.retrieve("assistant").owned_by == "sampan"


async def test_the_async_client_does_the_same(serve: Callable[..., Served]) -> None:
    served = serve("Paris.", "one two three", ToolCall("c1", "weather", "{}"))
    async with served.async_client() as client:
        done = await client.chat.completions.create(model="assistant", messages=[user("Hi")])
        assert done.choices[0].message.content == "Paris."
        stream = await client.chat.completions.create(
            model="assistant", messages=[user("count")], stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "one two three"
        stream = await client.chat.completions.create(
            model="assistant", messages=[user("Weather?")], tools=[WEATHER], stream=True
        )
        deltas = [chunk.choices[0] async for chunk in stream]
        [call] = [call for choice in deltas for call in choice.delta.tool_calls or ()]
        assert (call.index, call.id, call.function.name) == (0, "c1", "weather")
        assert deltas[-1].finish_reason == "tool_calls"
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-9", messages=[user("Hi")])
