"""Anthropic's Messages API as pure functions: prompt to request, answer to reply, event stream to chunks.

Format: https://platform.claude.com/docs/en/api/messages, streaming https://platform.claude.com/docs/en/build-with-claude/streaming,
prompt cache https://platform.claude.com/docs/en/build-with-claude/prompt-caching.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from agent_core.errors import ModelRefusedError
from agent_core.messages import (
    Audio,
    Chunk,
    File,
    Finish,
    Image,
    Message,
    Part,
    Prompt,
    Reply,
    Text,
    ToolCall,
    Usage,
)
from agent_core.models.http import UNREADABLE, cut, decode_any, malformed, reported
from agent_core.models.schemas import closed, unbounded
from agent_core.wire.sse import EventParser

MAX_TOKENS = 4096
"""Longest reply of a prompt that names none; the API demands a number."""

OUTPUT_TOOL = "structured_output"
"""The tool that stands for structured output where a schema can't be enforced otherwise."""

_CACHED = {"type": "ephemeral"}
_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "filter",
}


def to_wire(prompt: Prompt, model: str, stream: bool) -> dict[str, Any]:
    """The request's body.

    What stays the same from call to call is marked for the provider's prompt cache: tools and system text, and the
    conversation without its newest message. Raises ModelRefusedError for a part that the API has no form for.
    """
    messages = [message for message in map(_message, prompt.messages) if message["content"]]
    if len(messages) > 1:
        messages[-2]["content"][-1]["cache_control"] = _CACHED
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": prompt.max_tokens or MAX_TOKENS,
        "messages": messages,
    }
    tools = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.schema}
        for tool in prompt.tools
    ]
    choice = {"auto": None, "none": "none", "required": "any"}[prompt.tool_choice] if tools else None
    if prompt.output_schema is not None:
        enforced = closed(prompt.output_schema, optional=True)
        if enforced is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": unbounded(enforced)}}
        else:
            words = "Give the final answer with this tool."
            tools.append({"name": OUTPUT_TOOL, "description": words, "input_schema": prompt.output_schema})
            choice = "any"
    if prompt.system:
        body["system"] = [{"type": "text", "text": prompt.system, "cache_control": _CACHED}]
    elif tools:
        tools[-1]["cache_control"] = _CACHED
    if tools:
        body["tools"] = tools
    if choice is not None:
        body["tool_choice"] = {"type": choice}
    if prompt.temperature is not None:
        body["temperature"] = prompt.temperature
    if stream:
        body["stream"] = True
    return body


def _message(message: Message) -> dict[str, Any]:
    if message.role == "tool":
        return {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": result.call_id,
                    "content": result.content or "(nothing)",
                }
                | ({"is_error": True} if result.error else {})
                for result in message.tool_results
            ],
        }
    content = [_part(part) for part in message.parts if not isinstance(part, Text) or part.text.strip()]
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        for call in message.tool_calls
    ]
    return {"role": "assistant" if message.role == "assistant" else "user", "content": content}


def _input(arguments: str) -> dict[str, Any]:
    value = decode_any(arguments)
    return value if isinstance(value, dict) else {"arguments": arguments}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image", "source": _source(part)}
        case File() if part.media_type == "application/pdf":
            return {"type": "document", "source": _source(part)} | ({"title": part.name} if part.name else {})
        case File() if part.media_type.startswith("text/"):
            source = {
                "type": "text",
                "media_type": "text/plain",
                "data": part.data.decode("utf-8", "replace"),
            }
            return {"type": "document", "source": source} | ({"title": part.name} if part.name else {})
        case _:
            raise ModelRefusedError(f"this model takes text, images and PDF files, not {part.media_type}")


def _source(part: Image | Audio | File) -> dict[str, Any]:
    return {"type": "base64", "media_type": part.media_type, "data": base64.b64encode(part.data).decode()}


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Details(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_MESSAGE = msgspec.json.Decoder(_Message)
_EVENT = msgspec.json.Decoder(_Event)


def from_wire(body: bytes, model: str = "") -> Reply:
    """The reply in a whole answer. Raises ModelMalformedError, or what an error inside the answer means."""
    try:
        message = _MESSAGE.decode(body)
    except UNREADABLE as error:
        raise malformed(error) from None
    if message.error:
        raise reported(message.error)
    if message.content is None:
        raise malformed("it has no content")
    reader = ChunkReader(model)
    reader.begin(message)
    for index, block in enumerate(message.content):
        reader.block(index, block)
    return reader.whole()


class ChunkReader:
    """Puts a streamed answer together."""

    def __init__(self, model: str = "") -> None:
        self.done = False
        self._model = model
        self._parser = EventParser()
        self._text: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._output: set[int] = set()
        self._finish = ""
        self._usage = _Usage()

    def feed(self, piece: bytes) -> list[Chunk]:
        """The chunks in this piece of the body."""
        chunks: list[Chunk] = []
        for event in self._parser.feed(piece):
            if event.data:
                chunks += self._take(event.data)
        return chunks

    def _take(self, data: str) -> list[Chunk]:
        try:
            event = _EVENT.decode(data)
        except UNREADABLE as error:
            raise malformed(error) from None
        match event.type:
            case "content_block_delta" if event.delta is not None:
                return self._delta(event.index, event.delta)
            case "content_block_start" if event.content_block is not None:
                return self.block(event.index, event.content_block)
            case "message_start" if event.message is not None:
                self.begin(event.message)
            case "message_delta":
                self._count(event.usage)
                self._finish = (event.delta.stop_reason if event.delta else None) or self._finish
            case "message_stop":
                self.done = True
            case "error":
                raise reported(event.error)
        return []  # ping, content_block_stop, and what the API may add

    def begin(self, message: _Message) -> None:
        """Take a message's head."""
        self._model = message.model or self._model
        self._finish = message.stop_reason or self._finish
        self._count(message.usage)

    def block(self, index: int, block: _Block) -> list[Chunk]:
        """Take a block of content, whole or at its start."""
        if block.type == "tool_use":
            given = msgspec.json.encode(block.input).decode() if block.input else ""
            if block.name == OUTPUT_TOOL:
                self._output.add(index)
                return self._words(given)
            if not block.id or not block.name:
                raise malformed("a tool call has no id or no name")
            self._calls[index] = (block.id, block.name, [given])
        elif block.type == "text":
            return self._words(block.text or "")
        elif block.type == "thinking" and block.thinking:
            return [Chunk(reasoning=block.thinking)]
        return []

    def _delta(self, index: int, delta: _Delta) -> list[Chunk]:
        if delta.text:
            return self._words(delta.text)
        if delta.thinking:
            return [Chunk(reasoning=delta.thinking)]
        if delta.partial_json:
            if index in self._output:
                return self._words(delta.partial_json)
            if index in self._calls:
                self._calls[index][2].append(delta.partial_json)
        return []

    def _words(self, text: str) -> list[Chunk]:
        if not text:
            return []
        self._text.append(text)
        return [Chunk(text=text)]

    def _count(self, usage: _Usage | None) -> None:
        """The counts of later events replace those of earlier ones; what they leave out stays."""
        if usage is None:
            return
        for field in _Usage.__struct_fields__:
            value = getattr(usage, field)
            if value is not None:
                setattr(self._usage, field, value)

    def reply(self) -> Reply:
        """The whole reply. Raises ModelCutError where the stream had no end."""
        if not self.done:
            raise cut()
        return self.whole()

    def whole(self) -> Reply:
        """The reply of all that was taken."""
        calls = tuple(
            ToolCall(id=id, name=name, arguments="".join(parts) or "{}")
            for id, name, parts in self._calls.values()
        )
        finish = _FINISH.get(self._finish, "tool_calls" if calls else "stop")
        if finish == "tool_calls" and not calls:
            finish = "stop"  # the only tool was the one of structured output
        text = "".join(self._text)
        return Reply(
            message=Message(role="assistant", parts=(Text(text),) if text else (), tool_calls=calls),
            usage=_usage(self._usage),
            model=self._model,
            finish=finish,
        )


def _usage(usage: _Usage) -> Usage:
    """One sum of input: the API counts apart what it read from its cache and what it wrote there."""
    fresh, read, written, made = (
        max(count or 0, 0)
        for count in (
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
            usage.output_tokens,
        )
    )
    thought = (usage.output_tokens_details or _Details()).thinking_tokens or 0
    return Usage(
        input=fresh + read + written,
        cached_input=read,
        cache_write=written,
        output=made,
        reasoning=min(max(thought, 0), made),
    )
