"""The golden files: what goes to a provider and what comes back, as its documentation shows it.

`<provider>/<case>.prompt.json` is a Prompt. Sent, it must be exactly `.request.json` (streaming adds the fields in
STREAMED). The provider answers with `.response.json`, or streamed with `.stream.sse` (Bedrock: `.stream.jsonl`, name
and payload of each binary frame); both must be read as `.reply.json`, or, where there is an `.error.json`, raise the
error it names. All values are made up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from agent_core.messages import Prompt, Reply
from agent_core.models.anthropic import AnthropicModel
from agent_core.models.base import Model
from agent_core.models.bedrock import BedrockModel
from agent_core.models.openai import ENDPOINT as OPENAI
from agent_core.models.openai import OpenAIModel
from agent_core.testing import ManualClock
from agent_core.wire.base import Wire
from tests.wire.frames import event

FOLDER = Path(__file__).parent
PROVIDERS = ("anthropic", "bedrock", "openai")
STREAMED: dict[str, dict[str, Any]] = {
    "anthropic": {"stream": True},
    "bedrock": {},
    "openai": {"stream": True, "stream_options": {"include_usage": True}},
}


class ErrorCase(msgspec.Struct):
    """The answer's status and headers, and the error it means; `says` is a part of its words."""

    status: int
    headers: dict[str, str]
    error: str
    says: str
    retry_after: float | None = None


class Case:
    """One case of one provider."""

    def __init__(self, provider: str, name: str) -> None:
        self.provider = provider
        self.name = name

    def __repr__(self) -> str:
        return f"{self.provider}-{self.name}"

    def path(self, end: str) -> Path:
        return FOLDER / self.provider / f"{self.name}.{end}"

    def bytes(self, end: str) -> bytes:
        return self.path(end).read_bytes()

    @property
    def events(self) -> list[bytes]:
        """The events of the streamed answer, each with what parts it from the next."""
        if self.provider == "bedrock":
            lines = self.bytes("stream.jsonl").splitlines()
            return [event(*json.loads(line)) for line in lines]
        return [part + b"\n\n" for part in self.bytes("stream.sse").split(b"\n\n") if part.strip()]

    @property
    def stream(self) -> bytes:
        """The body of the streamed answer."""
        return b"".join(self.events) if self.provider == "bedrock" else self.bytes("stream.sse")

    @property
    def content_type(self) -> str:
        """What the streamed answer says that it is."""
        return (
            "application/vnd.amazon.eventstream"
            if self.provider == "bedrock"
            else "text/event-stream; charset=utf-8"
        )

    def has(self, end: str) -> bool:
        return self.path(end).exists()

    @property
    def bedrock_model(self) -> str:
        """Bedrock's name for the model, which stands in the path."""
        return unquote(self.request()["url"].split("/")[4])

    @property
    def prompt(self) -> Prompt:
        return msgspec.json.decode(self.bytes("prompt.json"), type=Prompt, strict=True)

    @property
    def reply(self) -> Reply:
        return msgspec.json.decode(self.bytes("reply.json"), type=Reply, strict=True)

    @property
    def error(self) -> ErrorCase:
        return msgspec.json.decode(self.bytes("error.json"), type=ErrorCase)

    def request(self, *, stream: bool = False) -> dict[str, Any]:
        wanted: dict[str, Any] = msgspec.json.decode(self.bytes("request.json"))
        if stream:
            wanted["body"] |= STREAMED[self.provider]
            wanted["url"] += "-stream" if self.provider == "bedrock" else ""
        return wanted

    def model(self, wire: Wire) -> Model:
        if self.provider == "bedrock":
            endpoint, name = "https://bedrock-runtime.eu-west-1.amazonaws.com", self.bedrock_model
            return BedrockModel(
                f"bedrock:{name}", name, endpoint, "bedrock-api-key-test", wire, clock=ManualClock()
            )
        name = self.request()["body"]["model"]
        if self.provider == "openai":
            return OpenAIModel(f"openai:{name}", name, OPENAI, "sk-test", wire, clock=ManualClock())
        return AnthropicModel(
            f"anthropic:{name}", name, "https://api.anthropic.com", "sk-ant-test", wire, clock=ManualClock()
        )


def cases(end: str, *, provider: str = "*") -> list[Case]:
    """All cases that have a file of this end."""
    found = sorted(FOLDER.glob(f"{provider}/*.{end}"))
    return [Case(path.parent.name, path.name.partition(".")[0]) for path in found]
