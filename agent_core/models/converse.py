"""Amazon Bedrock's Converse API as pure functions: prompt to request, answer to reply, event stream to chunks.

Formats: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec

from agent_core.aws.eventstream import Frame, FrameError, FrameParser
from agent_core.errors import ModelBusyError, ModelError, ModelRefusedError
from agent_core.messages import (
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
from agent_core.models.http import UNREADABLE, cut, decode_any, error_words, malformed, refused

OUTPUT_TOOL = "structured_output"
"""The tool that stands for structured output: not every model can be held to a schema."""

_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "application/msword": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "text/plain": "txt",
}
_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "filter",
    "content_filtered": "filter",
}
_REFUSALS = frozenset({"validationException"})
"""Errors in mid-stream that come again however often it is tried; all others pass."""


def to_wire(prompt: Prompt) -> dict[str, Any]:
    """The request's body. Raises ModelRefusedError for a part that the API has no form for."""
    body: dict[str, Any] = {"messages": _messages(prompt.messages)}
    if prompt.system:
        body["system"] = [{"text": prompt.system}]
    limits: dict[str, Any] = {}
    if prompt.max_tokens is not None:
        limits["maxTokens"] = prompt.max_tokens
    if prompt.temperature is not None:
        limits["temperature"] = prompt.temperature
    if limits:
        body["inferenceConfig"] = limits
    if tools := _tools(prompt):
        body["toolConfig"] = tools
    return body


def _tools(prompt: Prompt) -> dict[str, Any] | None:
    tools = [_tool(tool.name, tool.description, tool.schema) for tool in prompt.tools]
    must = prompt.tool_choice == "required"
    if prompt.output_schema is not None:
        tools.append(_tool(OUTPUT_TOOL, "Give the final answer with this tool.", prompt.output_schema))
        must = True
    elif prompt.tool_choice == "none" and not any(
        message.tool_calls or message.tool_results for message in prompt.messages
    ):
        return (
            None  # the API has no word for "none"; and calls that were made may not stand without their tools
        )
    if not tools:
        return None
    return {"tools": tools} | ({"toolChoice": {"any": {}}} if must else {})


def _tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    spec = {"name": name, "inputSchema": {"json": schema}}
    return {"toolSpec": spec | ({"description": description} if description else {})}


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The conversation; what one side says in several messages is one, since the API wants the sides to alternate."""
    said: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        content = _content(message)
        if said and said[-1]["role"] == role:
            said[-1]["content"] += content
        elif content:
            said.append({"role": role, "content": content})
    return said


def _content(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {
                "toolResult": {
                    "toolUseId": result.call_id,
                    "content": [{"text": result.content or "(nothing)"}],
                }
                | ({"status": "error"} if result.error else {})
            }
            for result in message.tool_results
        ]
    content = [
        _part(part, place)
        for place, part in enumerate(message.parts, 1)
        if not isinstance(part, Text) or part.text.strip()
    ]
    if any("document" in block for block in content) and not any("text" in block for block in content):
        content.append({"text": "(see the document)"})  # the API takes no document without words
    return content + [
        {"toolUse": {"toolUseId": call.id, "name": call.name, "input": _input(call.arguments)}}
        for call in message.tool_calls
    ]


def _input(arguments: str) -> dict[str, Any]:
    value = decode_any(arguments)
    return value if isinstance(value, dict) else {"arguments": arguments}


def _part(part: Part, place: int) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    source = {"bytes": base64.b64encode(part.data).decode()}
    if isinstance(part, Image) and part.media_type in _IMAGES:
        return {"image": {"format": _IMAGES[part.media_type], "source": source}}
    if isinstance(part, File) and (kind := _DOCUMENTS.get(part.media_type)):
        # A name is demanded; letters, digits, single spaces, - ( ) and [ ] alone are taken.
        name = re.sub(r"[^A-Za-z0-9()\[\]-]+", " ", part.name).strip()[:200] or f"document {place}"
        return {"document": {"format": kind, "name": name, "source": source}}
    raise ModelRefusedError(
        f"this model takes text, PNG, JPEG, GIF and WebP images, and documents, not {part.media_type}"
    )


class _Reasoning(msgspec.Struct):
    text: str | None = None


class _ReasoningBlock(msgspec.Struct, rename="camel"):
    reasoning_text: _Reasoning | None = None


class _ToolUse(msgspec.Struct, rename="camel"):
    tool_use_id: str | None = None
    name: str | None = None
    input: Any = None


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _ReasoningBlock | None = None


class _Delta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None


class _Usage(msgspec.Struct, rename="camel"):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


class _Said(msgspec.Struct):
    content: list[_Block] | None = None


class _Output(msgspec.Struct):
    message: _Said | None = None


class _Answer(msgspec.Struct, rename="camel"):
    output: _Output | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct, rename="camel"):
    """The payload of any event; which one it is stands in the frame's headers."""

    content_block_index: int = 0
    start: _Block | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_EVENT = msgspec.json.Decoder(_Event)


def from_wire(body: bytes, model: str) -> Reply:
    """The reply in a whole answer. Raises ModelMalformedError."""
    try:
        answer = _ANSWER.decode(body)
    except UNREADABLE as error:
        raise malformed(error) from None
    if answer.output is None or answer.output.message is None or answer.output.message.content is None:
        raise malformed("it has no content")
    reader = ChunkReader(model)
    for index, block in enumerate(answer.output.message.content):
        reader.block(index, block)
    reader.end(answer.stop_reason, answer.usage)
    return reader.whole()


class ChunkReader:
    """Puts a streamed answer together."""

    def __init__(self, model: str) -> None:
        self.done = False
        self._model = model
        self._parser = FrameParser()
        self._text: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._output: set[int] = set()
        self._finish = ""
        self._usage = _Usage()

    def feed(self, piece: bytes) -> list[Chunk]:
        """The chunks in this piece of the body."""
        try:
            frames = self._parser.feed(piece)
        except FrameError as error:
            raise malformed(error) from None
        return [chunk for frame in frames for chunk in self._take(frame)]

    def _take(self, frame: Frame) -> list[Chunk]:
        if frame.headers.get(":message-type") != "event":
            raise _reported(frame)
        try:
            event = _EVENT.decode(frame.payload)
        except UNREADABLE as error:
            raise malformed(error) from None
        match frame.headers.get(":event-type"):
            case "contentBlockDelta" if event.delta is not None:
                return self._delta(event.content_block_index, event.delta)
            case "contentBlockStart" if event.start is not None:
                return self.block(event.content_block_index, event.start)
            case "messageStop":
                self.end(event.stop_reason, None)
            case "metadata":
                self.end(None, event.usage)
                self.done = True
        return []  # messageStart, contentBlockStop, and what the API may add

    def block(self, index: int, block: _Block) -> list[Chunk]:
        """Take a block of content, whole or at its start."""
        if block.tool_use is not None:
            use = block.tool_use
            given = msgspec.json.encode(use.input).decode() if use.input else ""
            if use.name == OUTPUT_TOOL:
                self._output.add(index)
                return self._words(given)
            if not use.tool_use_id or not use.name:
                raise malformed("a tool call has no id or no name")
            self._calls[index] = (use.tool_use_id, use.name, [given])
            return []
        if block.reasoning_content is not None:
            thought = block.reasoning_content.reasoning_text
            return [Chunk(reasoning=thought.text)] if thought and thought.text else []
        return self._words(block.text or "")

    def end(self, stop_reason: str | None, usage: _Usage | None) -> None:
        """Take what tells why the answer ended, and what it took."""
        self._finish = stop_reason or self._finish
        self._usage = usage or self._usage

    def _delta(self, index: int, delta: _Delta) -> list[Chunk]:
        if delta.text:
            return self._words(delta.text)
        if delta.reasoning_content and delta.reasoning_content.text:
            return [Chunk(reasoning=delta.reasoning_content.text)]
        if delta.tool_use is not None and isinstance(delta.tool_use.input, str):
            if index in self._output:
                return self._words(delta.tool_use.input)
            if index in self._calls:
                self._calls[index][2].append(delta.tool_use.input)
        return []

    def _words(self, text: str) -> list[Chunk]:
        if not text:
            return []
        self._text.append(text)
        return [Chunk(text=text)]

    def reply(self) -> Reply:
        """The whole reply. Raises ModelCutError where the stream had no end."""
        if not self.done:
            raise cut()
        return self.whole()

    def whole(self) -> Reply:
        """The reply of all that was taken. Raises ModelMalformedError where the model itself made nonsense."""
        if self._finish.startswith("malformed_"):
            raise malformed(f"the model wrote what its own provider can't read ({self._finish})")
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
            usage=_counted(self._usage),
            model=self._model,
            finish=finish,
        )


def _reported(frame: Frame) -> ModelError:
    """The error that the provider reports in mid-stream."""
    kind = frame.headers.get(":exception-type") or frame.headers.get(":error-code") or "an error"
    words = error_words(decode_any(frame.payload))[0] or frame.headers.get(":error-message", "")
    detail = f"{kind}: {words}" if words else kind
    return refused(detail) if kind in _REFUSALS else ModelBusyError(detail)


def _counted(usage: _Usage) -> Usage:
    """One sum of input: the API counts apart what it read from its cache and what it wrote there."""
    fresh, read, written, made = (
        max(count or 0, 0)
        for count in (
            usage.input_tokens,
            usage.cache_read_input_tokens,
            usage.cache_write_input_tokens,
            usage.output_tokens,
        )
    )
    return Usage(input=fresh + read + written, cached_input=read, cache_write=written, output=made)
