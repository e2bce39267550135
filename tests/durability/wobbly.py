"""A model's server that fails one call in five: too many requests, an error, silence, or an answer cut in the middle.

    python -m tests.durability.wobbly SEED

Prints its address and ends with its standard input. It speaks OpenAI's chat completions, whole and streamed, and says
what the last user's words ask for: a call to the tool they end in, then `answer_to`. `GET /counts` tells how often it
gave a whole answer, by words, and how often it failed, by fault.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any

from tests.contracts.raw_server import CHUNKED, RawServer, Script, answer, chunked
from tests.durability.history import answer_to, tool_of

FAULTS = ("429", "500", "stall", "cut")
RATE = 0.2


class Wobbly:
    """The script of its one path."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.answered = Counter[str]()
        self.failed = Counter[str]()

    async def complete(self, body: bytes) -> Script:
        """POST /chat/completions."""
        asked = json.loads(body)
        words, message = reply_to(asked["messages"])
        fault = self._chance.choice(FAULTS) if self._chance.random() < RATE else ""
        self.failed[fault or "none"] += 1
        said = streamed(message) if asked.get("stream") else whole(message)
        if fault == "cut":
            return [said[: len(said) // 2], "close"]
        if fault == "stall":
            return ["stall"]
        if fault:
            return [answer(b'{"error": {"message": "not now"}}', status=int(fault))]
        self.answered[words] += 1
        return [said]

    async def counts(self, body: bytes) -> Script:
        """GET /counts."""
        return [answer(json.dumps({"answered": self.answered, "failed": self.failed}).encode())]


def reply_to(messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The words that are asked about, and the assistant's next message."""
    place = max(place for place, message in enumerate(messages) if message["role"] == "user")
    content = messages[place]["content"]
    words = content if isinstance(content, str) else "".join(part["text"] for part in content)
    tool = tool_of(words)
    if tool and not any(message["role"] == "tool" for message in messages[place:]):
        function = {"name": tool, "arguments": json.dumps({"order": words})}
        return words, {"role": "assistant", "tool_calls": [_call(function)]}
    return words, {"role": "assistant", "content": answer_to(words)}


def _call(function: dict[str, str]) -> dict[str, Any]:
    return {"id": "call-1", "type": "function", "index": 0, "function": function}


def _finish(message: dict[str, Any]) -> str:
    return "tool_calls" if "tool_calls" in message else "stop"


def whole(message: dict[str, Any]) -> bytes:
    """The answer in one piece."""
    choice = {"index": 0, "message": message, "finish_reason": _finish(message)}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "c", "object": "chat.completion", "model": "wobbly", "choices": [choice], "usage": usage}
    return answer(json.dumps(body).encode(), headers="Content-Type: application/json\r\n")


def streamed(message: dict[str, Any]) -> bytes:
    """The answer as server-sent events."""

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {"id": "c", "object": "chat.completion.chunk", "model": "wobbly", "choices": [choice], **more}
        return b"data: %b\n\n" % json.dumps(chunk).encode()

    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    events = [event(message), event({}, _finish(message), usage=usage), b"data: [DONE]\n\n"]
    return CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n") + chunked(*events)


async def main() -> None:
    wobbly = Wobbly(int(sys.argv[1]))
    async with RawServer().running() as server:
        server.scripts["/chat/completions"] = wobbly.complete
        server.scripts["/counts"] = wobbly.counts
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
