"""The audit: a line per event with ids, sizes and hashes, and words only where they may be written."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_core.agent import Agent
from agent_core.engine.runs import Inbound
from agent_core.errors import PluginError
from agent_core.messages import Image, Message, Principal, Text, ToolCall, ToolResult, Turn
from agent_core.plugins.audit import Audit
from agent_core.plugins.chain import PluginChain
from agent_core.testing import ManualClock, ScriptedModel, test_app
from agent_core.tools.base import tool

TURN = Turn(
    session_id="s1",
    run_id="r1",
    agent="a",
    step=2,
    principal=Principal(tenant="t1", user="u1"),
    channel="slack",
)
SECRET = "the words"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def written(audit: Audit, turn: Turn = TURN, data_class: Any = "internal") -> None:
    """One of each event, through the chain as in a run."""
    chain = PluginChain([audit], timeout_seconds=5)
    await chain.process(Message.of("user", SECRET, data_class=data_class), turn)
    await chain.before_tool(ToolCall(id="c1", name="look", arguments=SECRET), turn)
    await chain.after_tool(
        ToolResult(call_id="c1", name="look", content=SECRET, error=True, ref="s1/abc"), turn
    )
    await chain.on_reply(Message.of("assistant", SECRET), turn)


async def test_a_line_for_each_event(tmp_path: Path) -> None:
    clock = ManualClock()
    await written(Audit(tmp_path / "audit.jsonl", clock=clock))
    found = lines(tmp_path / "audit.jsonl")
    same = {
        "time": clock.now(),
        "tenant": "t1",
        "user": "u1",
        "channel": "slack",
        "agent": "a",
        "session": "s1",
        "run": "r1",
        "step": 2,
        "data_class": "internal",
        "bytes": len(SECRET),
        "hash": hashlib.sha256(SECRET.encode()).hexdigest(),
    }
    parts = [{"type": "text", "bytes": len(SECRET)}]
    assert found == [
        {**same, "event": "message", "role": "user", "parts": parts},
        {**same, "event": "tool_call", "tool": "look", "call": "c1"},
        {**same, "event": "tool_result", "tool": "look", "call": "c1", "error": True, "ref": "s1/abc"},
        {**same, "event": "reply", "role": "assistant", "parts": parts},
    ]
    assert SECRET not in (tmp_path / "audit.jsonl").read_text()
    assert (tmp_path / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("data_class", ["public", "internal", "confidential", "restricted"])
@pytest.mark.parametrize("of", ["message", "turn"])
async def test_words_only_up_to_internal(tmp_path: Path, data_class: Any, of: str) -> None:
    turn = msgspec.structs.replace(TURN, data_class=data_class if of == "turn" else "public")
    audit = Audit(tmp_path / "audit.jsonl", text=True)
    await written(audit, turn, data_class if of == "message" else "public")
    message, call, *_ = lines(tmp_path / "audit.jsonl")
    allowed = data_class in ("public", "internal")
    assert (message.get("text") == SECRET) == allowed
    assert (call.get("text") == SECRET) == (allowed or of == "message")
    assert message["data_class"] == data_class


async def test_with_a_key_the_hash_can_t_be_guessed(tmp_path: Path) -> None:
    await written(Audit(tmp_path / "audit.jsonl", key=b"k"))
    assert lines(tmp_path / "audit.jsonl")[0]["hash"] == hmac.new(b"k", SECRET.encode(), "sha256").hexdigest()


async def test_media_are_told_by_type_and_size(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    audit.process(Message(role="user", parts=(Text("a"), Image("image/png", data=b"123", ref="s1/x"))), TURN)
    (line,) = lines(tmp_path / "audit.jsonl")
    assert line["parts"][1] == {"type": "image/png", "bytes": 3, "ref": "s1/x"}


async def test_a_logger_takes_the_lines_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await written(Audit())
    await written(Audit(logging.getLogger("mine")))
    assert [(record.name, json.loads(record.getMessage())["event"]) for record in caplog.records] == [
        (name, event)
        for name in ("sampan.audit", "mine")
        for event in ("message", "tool_call", "tool_result", "reply")
    ]


async def test_a_file_that_can_t_be_opened_fails_the_run_with_its_name(tmp_path: Path) -> None:
    """Nothing is answered that was not audited."""
    with pytest.raises(PluginError, match="Audit failed: process raised ConfigError"):
        await written(Audit(tmp_path / "none" / "audit.jsonl"))


def test_nothing_is_opened_before_the_first_line(tmp_path: Path) -> None:
    Audit(tmp_path / "audit.jsonl")
    assert not (tmp_path / "audit.jsonl").exists()


async def test_two_audits_may_share_a_file(tmp_path: Path) -> None:
    one, other = Audit(tmp_path / "audit.jsonl"), Audit(tmp_path / "audit.jsonl")
    for audit in (one, other, one):
        audit.process(Message.of("user", SECRET * 1000), TURN)
    assert len(lines(tmp_path / "audit.jsonl")) == 3


async def test_in_an_app(tmp_path: Path) -> None:
    """A run leaves its trail; replies go on streaming, since the audit only looks."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    model = ScriptedModel([ToolCall(id="c1", name="add", arguments='{"a": 1, "b": 2}'), "It is 3."])
    audit = Audit(tmp_path / "audit.jsonl")
    app = test_app(Agent(name="a", model=model, tools=[add], plugins=[audit]))
    assert not app.engine.agents["a"].plugins.changes_replies
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "1 + 2?"),)))
    assert run.status == "succeeded"
    found = lines(tmp_path / "audit.jsonl")
    assert [line["event"] for line in found] == ["message", "tool_call", "tool_result", "reply"]
    assert {line["run"] for line in found} == {run.id}
    await app.close()
