"""OpenAI's chat completions to our words and back. Pure: no I/O here."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from agent_core.api import chat_schemas as wire
from agent_core.api.chat_schemas import ChatCompletion, ChatRequest, ChatUsage
from agent_core.api.sse import data_frame
from agent_core.engine.runs import Run, RunEvent
from agent_core.errors import InputError
from agent_core.messages import (
    Audio,
    DataClass,
    File,
    Image,
    Message,
    Part,
    Text,
    ToolCall,
    ToolResult,
    ToolSpec,
    Usage,
)

DONE = b"data: [DONE]\n\n"

_DATA_URL = re.compile(r"data:([a-z0-9.+-]+/[a-z0-9.+-]+);base64,", re.IGNORECASE)
_FINISH: dict[str, wire.FinishReason] = {"filter": "content_filter"}
_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def read_messages(request: ChatRequest, data_class: DataClass) -> tuple[Message, ...]:
    """The conversation. Results of tools that follow each other become one message, as a model's turn had them."""
    messages: list[Message] = []
    names: dict[str, str] = {}
    for index, sent in enumerate(request.messages):
        message = _read_message(sent, f"$.messages[{index}]", names, data_class)
        names.update((call.id, call.name) for call in message.tool_calls)
        if message.role == "tool" and messages and messages[-1].role == "tool":
            results = messages[-1].tool_results + message.tool_results
            messages[-1] = msgspec.structs.replace(messages[-1], tool_results=results)
        else:
            messages.append(message)
    return tuple(messages)


def newest(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """What a session that holds the conversation has not seen: all after the last answer."""
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return messages[last + 1 :] or messages[-1:]


def _read_message(sent: wire.ChatMessage, path: str, names: dict[str, str], data_class: DataClass) -> Message:
    parts = _read_content(sent.content, f"{path}.content")
    if sent.role == "tool":
        call_id = sent.tool_call_id or ""
        content = "".join(part.text for part in parts if isinstance(part, Text))
        result = ToolResult(call_id=call_id, name=names.get(call_id, ""), content=content)
        return Message(role="tool", tool_results=(result,), data_class=data_class)
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in sent.tool_calls or ()]
    return Message(
        role="system" if sent.role == "developer" else sent.role,
        parts=parts,
        tool_calls=tuple(calls) if sent.role == "assistant" else (),
        data_class=data_class,
    )


def _read_content(content: str | list[wire.Content] | None, path: str) -> tuple[Part, ...]:
    if not content:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_read_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _read_part(part: wire.Content, path: str) -> Part:
    match part:
        case wire.TextContent():
            return Text(part.text)
        case wire.RefusalContent():
            return Text(part.refusal)
        case wire.AudioContent():
            return Audio(media_type=_AUDIO[part.input_audio.format], data=part.input_audio.data)
        case wire.ImageContent():
            media_type, data = _read_data_url(part.image_url.url, f"{path}.image_url.url")
            if not media_type.startswith("image/"):
                raise InputError(
                    f"a picture is of type image/..., not {media_type}", field=f"{path}.image_url.url"
                )
            return Image(media_type=media_type, data=data)
        case wire.FileContent():
            media_type, data = _read_data_url(part.file.file_data, f"{path}.file.file_data")
            return File(media_type=media_type, data=data, name=part.file.filename)


def _read_data_url(url: str, path: str) -> tuple[str, bytes]:
    found = _DATA_URL.match(url)
    if found is None:
        raise InputError(
            "send the bytes as data:<media type>;base64,...; nothing is fetched from elsewhere", field=path
        )
    try:
        data = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InputError("what follows base64, is not base64", field=path) from None
    if not data:
        raise InputError("there are no bytes in it", field=path)
    return found[1].lower(), data


def read_tools(request: ChatRequest) -> tuple[ToolSpec, ...]:
    """The caller's tools; where one is chosen by name, that one alone."""
    chosen = request.tool_choice.function.name if isinstance(request.tool_choice, wire.NamedTool) else None
    specs = tuple(
        ToolSpec(
            name=tool.function.name,
            description=tool.function.description or "",
            schema=tool.function.parameters or {"type": "object", "properties": {}},
        )
        for tool in request.tools or ()
        if chosen in (None, tool.function.name)
    )
    if chosen is not None and not specs:
        raise InputError(f"there is no tool {chosen!r} in `tools`", field="$.tool_choice.function.name")
    return specs


def read_output_schema(request: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema that the answer must follow."""
    match request.response_format:
        case wire.SchemaFormat(json_schema=named):
            return named.schema
        case wire.ObjectFormat():
            return {"type": "object"}
        case _:
            return None


def completion(run: Run) -> ChatCompletion:
    """A run that succeeded."""
    reply = run.reply or Message(role="assistant")
    message = wire.AnswerMessage(
        role="assistant",
        content=None if reply.tool_calls and not reply.text else reply.text,
        refusal=None,
        tool_calls=[_call(call) for call in reply.tool_calls],
    )
    return ChatCompletion(
        id=f"chatcmpl-{run.id}",
        created=int(run.created_at),
        model=run.agent,
        choices=[wire.Choice(0, message, None, _finish(run))],
        usage=_usage(run.usage),
    )


def _call(call: ToolCall) -> wire.ChatToolCall:
    return wire.ChatToolCall(call.id, wire.FunctionCall(call.name, call.arguments))


def _finish(run: Run) -> wire.FinishReason:
    if run.reply is not None and run.reply.tool_calls:
        return "tool_calls"
    known: wire.FinishReason = "length" if run.finish == "length" else "stop"
    return _FINISH.get(run.finish, known)


def _usage(usage: Usage) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=usage.input,
        completion_tokens=usage.output,
        total_tokens=usage.total,
        prompt_tokens_details=wire.PromptDetails(usage.cached_input),
        completion_tokens_details=wire.CompletionDetails(usage.reasoning),
    )


class ChunkWriter:
    """The events of a run as chat.completion.chunk frames."""

    def __init__(self, run_id: str, agent: str, created: int, *, include_usage: bool) -> None:
        self._fields = {
            "id": f"chatcmpl-{run_id}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": agent,
            "system_fingerprint": None,
        }
        self._usage: dict[str, Any] = {"usage": None} if include_usage else {}
        self._spoken = False  # of the message that is being written
        self._before = False  # of an earlier one

    def start(self) -> bytes:
        """The first chunk: whose turn it is."""
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def write(self, event: RunEvent) -> bytes:
        """An event's frames; empty where OpenAI has no words for it."""
        if isinstance(event.data, Run):
            return self._end(event.data)
        if event.type == "text":
            return self._text(event.data["text"])
        if event.type == "reasoning":
            return self._chunk({"reasoning_content": event.data["text"]})
        if event.type == "tool_result":
            self._before, self._spoken = self._before or self._spoken, False
        return b""

    def _text(self, text: str) -> bytes:
        # What the agent said before it used a tool of its own is a message apart.
        gap = "\n\n" if self._before and not self._spoken else ""
        self._spoken = True
        return self._chunk({"content": gap + text})

    def _end(self, run: Run) -> bytes:
        reply = run.reply or Message(role="assistant")
        frames = b"" if self._spoken or not reply.text else self._text(reply.text)
        if reply.tool_calls:
            calls = [
                {"index": index, **msgspec.to_builtins(_call(call))}
                for index, call in enumerate(reply.tool_calls)
            ]
            frames += self._chunk({"tool_calls": calls})
        frames += self._chunk({}, _finish(run))
        if self._usage:
            frames += data_frame({**self._fields, "choices": [], "usage": _usage(run.usage)})
        return frames + DONE

    def _chunk(self, delta: dict[str, Any], finish: wire.FinishReason | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data_frame({**self._fields, "choices": [choice], **self._usage})
