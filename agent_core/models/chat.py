"""OpenAI's chat completions as pure functions: prompt to request, answer to reply, event stream to chunks.

Format: https://platform.openai.com/docs/api-reference/chat. Answers are read leniently, since vLLM, Ollama, LiteLLM and
others leave things out (usage, ids of tool calls, finish reasons) or send a tool call's arguments as an object.
"""

from __future__ import annotations

from typing import Any

import msgspec

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
from agent_core.models.http import UNREADABLE, cut, malformed, reported
from agent_core.models.schemas import closed
from agent_core.wire.sse import EventParser

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filter",
}


def to_wire(
    prompt: Prompt, model: str, stream: bool, *, limit_field: str = "max_completion_tokens"
) -> dict[str, Any]:
    """The request's body. `limit_field` is the server's name for the longest reply."""
    body: dict[str, Any] = {"model": model, "messages": _messages(prompt)}
    if prompt.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            }
            for tool in prompt.tools
        ]
        if prompt.tool_choice != "auto":
            body["tool_choice"] = prompt.tool_choice
    if prompt.output_schema is not None:
        strict = closed(prompt.output_schema)
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "output",
                "schema": prompt.output_schema if strict is None else strict,
                "strict": strict is not None,
            },
        }
    if prompt.max_tokens is not None:
        body[limit_field] = prompt.max_tokens
    if prompt.temperature is not None:
        body["temperature"] = prompt.temperature
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for message in prompt.messages:
        if message.role == "tool":
            out += [
                {"role": "tool", "tool_call_id": result.call_id, "content": result.content}
                for result in message.tool_results
            ]
        elif message.role == "assistant":
            out.append(_assistant(message))
        else:
            out.append({"role": message.role, "content": _content(message)})
    return out


def _assistant(message: Message) -> dict[str, Any]:
    out: dict[str, Any] = {
        "role": "assistant",
        "content": message.text or (None if message.tool_calls else ""),
    }
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return out


def _content(message: Message) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in message.parts):
        return message.text
    return [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.data_url()}}
        case Audio():
            audio = {"data": part.data_url().partition(",")[2], "format": _audio_format(part.media_type)}
            return {"type": "input_audio", "input_audio": audio}
        case File():
            return {"type": "file", "file": {"filename": part.name or "file", "file_data": part.data_url()}}


def _audio_format(media_type: str) -> str:
    kind = media_type.partition(";")[0].partition("/")[2].removeprefix("x-")
    return {"mpeg": "mp3", "wave": "wav"}.get(kind, kind)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    id: str | None = None
    index: int | None = None
    function: _Function | None = None


class _Words(msgspec.Struct):
    """A message, or the part of one that a chunk brings."""

    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _Words | None = None
    delta: _Words | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class Answer(msgspec.Struct):
    """A whole answer or a chunk of one."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(Answer)


def _decode(data: bytes | str) -> Answer:
    try:
        answer = _DECODER.decode(data)
    except UNREADABLE as error:
        raise malformed(error) from None
    if answer.error:
        raise reported(answer.error)
    return answer


def from_wire(body: bytes, model: str = "") -> Reply:
    """The reply in a whole answer. Raises ModelMalformedError, or what an error inside the answer means."""
    answer = _decode(body)
    if not answer.choices or answer.choices[0].message is None:
        raise malformed("it has no choices")
    reader = ChunkReader(model)
    reader.take(answer)
    return reader.whole()


class ChunkReader:
    """Puts a streamed answer together."""

    def __init__(self, model: str = "") -> None:
        self._model = model
        self._id = ""
        self._parser = EventParser()
        self._text: list[str] = []
        self._refused = False
        self._calls: list[_Call] = []
        self._arguments: list[list[str]] = []
        self._finish: str | None = None
        self._usage: _Usage | None = None
        self._marked = False

    @property
    def done(self) -> bool:
        """Whether the end was read: its mark, or (some servers send none) the finish reason and the usage."""
        return self._marked or (self._finish is not None and self._usage is not None)

    def feed(self, piece: bytes) -> list[Chunk]:
        """The chunks in this piece of the body."""
        chunks = []
        for event in self._parser.feed(piece):
            if event.data == "[DONE]":
                self._marked = True
                break
            if event.data:
                chunks += self.take(_decode(event.data))
        return chunks

    def take(self, answer: Answer) -> list[Chunk]:
        """The chunks in one answer."""
        self._id = self._id or answer.id or ""
        self._model = answer.model or self._model
        self._usage = answer.usage or self._usage
        if not answer.choices:
            return []
        choice = answer.choices[0]
        self._finish = choice.finish_reason or self._finish
        words = choice.delta or choice.message
        if words is None:
            return []
        for call in words.tool_calls or ():
            self._call(call)
        reasoning = words.reasoning_content or words.reasoning
        text = _text(words.content)
        if words.refusal:
            self._refused = True
            text += words.refusal
        chunks = [Chunk(reasoning=reasoning)] if reasoning and isinstance(reasoning, str) else []
        if text:
            self._text.append(text)
            chunks.append(Chunk(text=text))
        return chunks

    def _call(self, call: _Call) -> None:
        """Add to the call of the same index, or begin a new one where there is none or the id is another."""
        at = len(self._calls) - 1 if call.index is None else call.index
        if call.index is None and (call.id or (call.function and call.function.name)):
            at += 1
        found = next((n for n in reversed(range(len(self._calls))) if self._calls[n].index == at), None)
        if found is None or (call.id and self._calls[found].id and call.id != self._calls[found].id):
            self._calls.append(_Call(id=call.id, index=at, function=_Function()))
            self._arguments.append([])
            found = -1
        known, function = self._calls[found], call.function or _Function()
        known.id = known.id or call.id
        if known.function is not None:
            known.function.name = known.function.name or function.name
        if function.arguments is not None:
            given = function.arguments
            self._arguments[found].append(
                given if isinstance(given, str) else msgspec.json.encode(given).decode()
            )

    def reply(self) -> Reply:
        """The whole reply. Raises ModelCutError where the stream had no end."""
        if not self.done:
            raise cut()
        return self.whole()

    def whole(self) -> Reply:
        """The reply of all that was taken."""
        calls = tuple(
            ToolCall(id=call.id or f"call_{self._id}_{n}", name=_name(call), arguments="".join(parts) or "{}")
            for n, (call, parts) in enumerate(zip(self._calls, self._arguments, strict=True))
        )
        finish = _FINISH.get(self._finish or "", "tool_calls" if calls else "stop")
        if finish == "stop" and calls:
            finish = "tool_calls"  # some servers say "stop" after tool calls
        if self._refused:
            finish = "filter"
        text = "".join(self._text)
        return Reply(
            message=Message(role="assistant", parts=(Text(text),) if text else (), tool_calls=calls),
            usage=_usage(self._usage),
            model=self._model,
            finish=finish,
        )


def _name(call: _Call) -> str:
    if call.function is None or not call.function.name:
        raise malformed("a tool call has no name")
    return call.function.name


def _text(content: str | list[Any] | None) -> str:
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))
    return content or ""


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    given, made = max(usage.prompt_tokens or 0, 0), max(usage.completion_tokens or 0, 0)
    cached = (usage.prompt_tokens_details or _Details()).cached_tokens or 0
    reasoning = (usage.completion_tokens_details or _Details()).reasoning_tokens or 0
    return Usage(
        input=given,
        cached_input=min(max(cached, 0), given),
        output=made,
        reasoning=min(max(reasoning, 0), made),
    )
