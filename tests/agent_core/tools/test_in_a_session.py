"""A tool that misbehaves never breaks a session: the run ends well, and the next message works."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from agent_core.agent import Agent
from agent_core.clock import SystemClock
from agent_core.engine.runs import Inbound
from agent_core.messages import Message, Principal, ToolCall
from agent_core.testing import ScriptedModel, test_app
from agent_core.tools.base import Tool, tool
from tests.marks import inside

FOREVER = threading.Event()


def said(words: str) -> Inbound:
    return Inbound(messages=(Message.of("user", words),), session_id="s")


@tool
def raises() -> str:
    """Raises."""
    raise ValueError("broken")


@tool(timeout=0.05)
def hangs() -> None:
    """Hangs."""
    FOREVER.wait()


@tool(timeout=0.05)
async def hangs_later() -> None:
    """Hangs on the loop."""
    await asyncio.Event().wait()


@tool
def long() -> str:
    """Ten megabytes."""
    return "x" * 10_000_000


@tool
def raw() -> bytes:
    """Bytes."""
    return b"\x89PNG\r\n\x1a\n" + bytes(100)


@tool
def leaves() -> None:
    """Wants out."""
    sys.exit(1)


@tool
def counts(n: int) -> int:
    """Takes a number."""
    return n


@pytest.mark.parametrize(
    ("made", "arguments", "words"),
    [
        (raises, "{}", "The tool raises failed: ValueError: broken"),
        (hangs, "{}", "The tool hangs did not finish in time"),
        (hangs_later, "{}", "The tool hangs_later did not finish in time"),
        (long, "{}", "xxx"),
        (raw, "{}", "[108 bytes of image/png, all of it is kept as blob local/s/"),
        (leaves, "{}", "The tool leaves failed: it raised SystemExit."),
        (counts, '{"n": "many"}', "The tool counts was not run: its arguments don't fit."),
        (counts, "{", "The tool counts was not run: its arguments don't fit."),
        (counts, '{"n": 1}', "1"),
    ],
)
async def test_whatever_a_tool_does(made: Tool, arguments: str, words: str) -> None:
    model = ScriptedModel([ToolCall("c1", made.name, arguments), "I see.", "Of course."])
    app = test_app(Agent(name="a", model=model, tools=[made]), clock=SystemClock())
    run = await app.engine.answer(said("Do it"))
    assert (run.status, run.failure) == ("succeeded", None)
    told = _result(model.prompts[1].messages)
    strangers = made.name in ("raises", "long", "raw")  # all else are words of ours, or a number
    assert (inside(told) if strangers else told).startswith(words)
    assert len(told) < 20_000
    again = await app.engine.answer(said("And now?"))
    assert again.reply is not None
    assert again.reply.text == "Of course."
    assert _result(model.prompts[2].messages) == told, "the session holds what the model was told"
    page = await app.engine.session(Principal(), "s")
    assert [message.role for message in page.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "user",
        "assistant",
    ]
    await app.close()


def _result(messages: Any) -> str:
    (content,) = [result.content for message in messages for result in message.tool_results]
    return str(content)
