"""read_result: the model reads on in a result that was cut, or left out of a prompt."""

from __future__ import annotations

import json
from typing import Any

from agent_core.engine.attempt import Attempt
from agent_core.engine.fitting import READ
from agent_core.engine.window import beginning
from agent_core.errors import AgentError
from agent_core.messages import Message, ToolCall, ToolResult

PAGE_TOKENS = 4_000
"""How long a page is at most; less where the model's window is small."""


def is_reading(attempt: Attempt, call: ToolCall) -> bool:
    """Whether the call is one of the built-in tool."""
    return call.name == READ and attempt.bound.model is not None and attempt.bound.toolbox.get(READ) is None


async def read_result(attempt: Attempt, call: ToolCall) -> ToolResult:
    """A page of an earlier result. It is as trustworthy as that; nothing but results of this conversation is read."""
    try:
        asked: Any = json.loads(call.arguments or "{}")
        ref, offset = str(asked["ref"]), max(int(asked.get("offset") or 0), 0)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _failed(call, f'{READ} takes {{"ref": "the id of a call", "offset": 0}}.')
    found = _found(attempt, ref)
    if found is None:
        return _failed(call, f"There is no result {ref!r} in this conversation.")
    text = found.content
    if found.ref:
        try:
            blob = await attempt.blobs.get(attempt.run.principal.tenant, found.ref)
            text = blob.data.decode()
        except UnicodeDecodeError:
            return _failed(call, f"The result {ref!r} is {blob.media_type}, which is not text.")
        except AgentError as error:
            return _failed(call, f"The result {ref!r} can't be read now: {error.detail}")
    assert attempt.bound.model is not None
    page = beginning(text[offset:], max(min(PAGE_TOKENS, attempt.bound.model.context_window // 8), 16))
    end = offset + len(page)
    if end < len(text):
        page += f"\n[characters {offset} to {end} of {len(text)}; go on with offset={end}]"
    elif offset:
        page += f"\n[characters {offset} to {len(text)}: the end]"
    return ToolResult(call_id=call.id, name=call.name, content=page, error=found.error, trusted=found.trusted)


def _found(attempt: Attempt, ref: str) -> ToolResult | None:
    """The latest result of this call, or with this blob, that the model may have seen."""
    messages: list[Message] = [*attempt.history, *attempt.messages]
    for message in reversed(messages):
        if not message.hidden:
            for result in message.tool_results:
                if ref in (result.call_id, result.ref):
                    return result
    return None


def _failed(call: ToolCall, words: str) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, content=words, error=True, trusted=True)
