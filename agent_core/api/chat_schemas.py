"""OpenAI's chat completions as structs, as far as agents can honour them.

https://platform.openai.com/docs/api-reference/chat. Fields that only hint (seed, top_p, user, store ...) are taken
and not used, as unknown ones are; a field that would change what the answer is, and can't be honoured, is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
# The pattern of the schema alone: matching it against megabytes costs Python's re a stack as deep. Decoding checks.
ImageUrl = Annotated[str, Meta(extra_json_schema={"pattern": rf"^data:image/[a-z0-9.+-]+;base64,{BASE64}$"})]
FileUrl = Annotated[
    str, Meta(extra_json_schema={"pattern": rf"^data:[a-z0-9.+-]+/[a-z0-9.+-]+;base64,{BASE64}$"})
]
FunctionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
# JSON knows no integers: 1.0 is as good as 1, and some clients send it.
Tokens = Annotated[float, Meta(ge=1, le=10_000_000, multiple_of=1)]
One = Annotated[float, Meta(ge=1, le=1)]
Zero = Annotated[float, Meta(ge=0, le=0)]


class TextContent(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    """Words."""

    text: str


class RefusalContent(msgspec.Struct, frozen=True, tag="refusal", tag_field="type"):
    """Words of an earlier refusal."""

    refusal: str


class ImageData(msgspec.Struct, frozen=True):
    """A picture as a data: URL; pictures elsewhere are not fetched."""

    url: ImageUrl


class ImageContent(msgspec.Struct, frozen=True, tag="image_url", tag_field="type"):
    """A picture."""

    image_url: ImageData


class AudioData(msgspec.Struct, frozen=True):
    """A sound."""

    data: Annotated[bytes, Meta(min_length=1, extra_json_schema={"format": "byte"})]
    format: Literal["wav", "mp3"]


class AudioContent(msgspec.Struct, frozen=True, tag="input_audio", tag_field="type"):
    """A sound."""

    input_audio: AudioData


class FileData(msgspec.Struct, frozen=True):
    """A file as a data: URL; uploaded files (`file_id`) are not known here."""

    file_data: FileUrl
    filename: Annotated[str, Meta(max_length=255)] = ""


class FileContent(msgspec.Struct, frozen=True, tag="file", tag_field="type"):
    """A file."""

    file: FileData


Content = TextContent | ImageContent | AudioContent | FileContent | RefusalContent


class FunctionCall(msgspec.Struct, frozen=True):
    """Which function with what arguments, as JSON text."""

    name: str
    arguments: str


class ChatToolCall(msgspec.Struct, frozen=True):
    """A call of one of the caller's tools."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Content] | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function of the caller's; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(msgspec.Struct, frozen=True):
    """A tool that the caller runs itself."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(msgspec.Struct, frozen=True):
    """The name of one function."""

    name: FunctionName


class NamedTool(msgspec.Struct, frozen=True):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(msgspec.Struct, frozen=True, tag="text", tag_field="type"):
    """Free text."""


class ObjectFormat(msgspec.Struct, frozen=True, tag="json_object", tag_field="type"):
    """Any JSON object."""


class NamedSchema(msgspec.Struct, frozen=True):
    """A JSON schema."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(msgspec.Struct, frozen=True, tag="json_schema", tag_field="type"):
    """JSON of a schema."""

    json_schema: NamedSchema


class StreamOptions(msgspec.Struct, frozen=True):
    """How to stream."""

    include_usage: bool | None = None


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation for an agent; `model` is the agent's name."""

    model: Annotated[str, Meta(max_length=128)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=2000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[list[ChatTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
            Meta(max_length=16),
        ]
        | None
    ) = None
    # What follows can only be left as it is.
    n: One | None = None
    stop: Annotated[list[str], Meta(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Zero | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Meta(max_length=1)] | None = None
    audio: None = None
    functions: Annotated[list[Any], Meta(max_length=0)] | None = None
    function_call: None = None
    web_search_options: None = None


UNSUPPORTED = {
    "n": "an agent gives one answer: leave `n` out or send 1",
    "stop": "agents do not take stop sequences: leave `stop` out",
    "logprobs": "agents do not give log probabilities: leave `logprobs` out",
    "top_logprobs": "agents do not give log probabilities: leave `top_logprobs` out",
    "logit_bias": "agents do not take `logit_bias`: leave it out",
    "modalities": "agents answer in text alone: leave `modalities` out",
    "audio": "agents answer in text alone: leave `audio` out",
    "functions": "`functions` is OpenAI's old form: send `tools`",
    "function_call": "`function_call` is OpenAI's old form: send `tool_choice`",
    "web_search_options": "give the agent a tool that searches: leave `web_search_options` out",
}
"""Fields that are refused when they are set, and what to do."""


class AnswerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent says, or which of the caller's tools it wants called."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ChatToolCall] = []


FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Choice(msgspec.Struct, frozen=True):
    """The one answer."""

    index: Literal[0]
    message: AnswerMessage
    logprobs: None
    finish_reason: FinishReason


class PromptDetails(msgspec.Struct, frozen=True):
    """What of the prompt came from a cache."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """What of the answer was reasoning."""

    reasoning_tokens: int


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens of all model calls of the run together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an agent; `id` is "chatcmpl-" and the run's id."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    system_fingerprint: None = None


class ModelCard(msgspec.Struct, frozen=True):
    """An agent, as OpenAI lists models."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "sampan"


class ModelList(msgspec.Struct, frozen=True):
    """All agents."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None
    run_id: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    """An error in OpenAI's shape."""

    error: OpenAIErrorBody
