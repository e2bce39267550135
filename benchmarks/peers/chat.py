"""OpenAI's chat format, as a quick script would speak it: shared by the peers written by hand."""

import json
from typing import Any

SYSTEM = "You are a helpful assistant who gives short, correct answers."


def messages_of(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def body_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The request to the model for what was asked of us."""
    return {"model": "mock", "messages": messages_of(asked["message"]), "stream": bool(asked.get("stream"))}


def text_of(reply: dict[str, Any]) -> str:
    return reply["choices"][0]["message"]["content"]


def event_of(line: str) -> bytes:
    """Our event for one line of the model's stream; nothing where it brings no text."""
    if not line.startswith("data: {"):
        return b""
    choices = json.loads(line[6:])["choices"]
    text = choices[0]["delta"].get("content") if choices else ""
    return frame(text) if text else b""


def frame(text: str) -> bytes:
    return f"data: {json.dumps({'text': text})}\n\n".encode()
