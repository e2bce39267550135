"""What a user writes: the agent, its limits, and what may stand in its place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from agent_core.errors import ConfigError
from agent_core.messages import Chunk, Message, Reply, Turn
from agent_core.models.base import Model
from agent_core.tools.base import Tool
from agent_core.wire.reach import check_patterns

Busy = Literal["enqueue", "reject", "merge", "interrupt"]
Untrusted = Literal["ask", "refuse", "allow"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use at most; checked before each model call.

    `seconds` is time of work: it stands still while the run waits for a person, for its turn, or for a worker to take
    it up again. `usd` None sets no limit of money.
    """

    steps: int = 30
    tool_calls: int = 50
    tokens: int = 500_000
    usd: float | None = None
    seconds: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """When and how a long session is summarised; nothing of it is deleted.

    Once the messages that no summary covers are worth more than `at_tokens`, all but the last `keep` of them are
    summarised by `model` (None: the agent's own). Messages with `pinned` in their metadata are kept word for word.
    """

    at_tokens: int = 8_000
    keep: int = 8
    model: str | Model | None = None


@dataclass(frozen=True, kw_only=True)
class Egress:
    """Where what an agent knows may go; None sets no limit.

    `hosts` ("example.com", "*.example.com") holds for the fetch tool, for callbacks, and for tools that ask
    `turn.egress`; `channels` are the names of the channels that its answers may be sent to.
    """

    hosts: Sequence[str] | None = None
    channels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where a host is no pattern."""
        check_patterns(self.hosts or ())


@dataclass(frozen=True)
class Schedule:
    """A message that the clock sends to an agent, again and again.

    `when` is "rate(5 minutes)", "cron(0 9 ? * MON-FRI *)" (minute, hour, day of month, month, day of week, year, as
    Amazon EventBridge has them) or "0 9 * * 1-5" (as crontab has them), told in the time zone `zone` ("Europe/Berlin").
    Each time begins a session of its own, unless `session` names the one that all of them go to.
    """

    name: str
    when: str
    _: KW_ONLY
    message: str
    zone: str = "UTC"
    session: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError where a field can't be used; `when` and `zone` are read when the app is built."""
        if not 1 <= len(self.name) <= 64 or not all(
            letter.isalnum() or letter in "-_" for letter in self.name
        ):
            raise ConfigError(f"schedule name {self.name!r}: use up to 64 letters, digits, - and _")
        if not self.message:
            raise ConfigError(f"schedule {self.name}: it has no message")


@dataclass(frozen=True, kw_only=True)
class Agent:
    """An agent: instructions, a model, tools and plugins. It holds no state; sessions do.

    `model` is "provider:model" ("openai:gpt-5-mini", "local:smollm2", "anthropic:...",
    "openai@https://my-endpoint/v1:qwen3") or a Model. `tools` are made by `@tool`. `plugins` are objects with
    `process(message)` and the other hooks. `output` is a type whose JSON the reply must be. `busy` says what
    happens to a message that comes while its session is busy. `history` is how many of a session's latest messages
    the model is given at most, whatever the age of the session; fewer where its context window is full. With
    `compaction` what falls out of that is summarised instead of being left out. `schedules` send it messages by the
    clock. `untrusted` says what becomes of a call that does something (`effects="once"`, `sensitive` or `stepup`) once
    the model has read text of strangers: "ask" a person, "refuse" it, or "allow" it. `egress` says where data may go.
    """

    name: str
    instructions: str = "You are a helpful assistant who gives short, correct answers."
    model: str | Model = "local:smollm2"
    tools: Sequence[Tool] = ()
    plugins: Sequence[object] = ()
    limits: Limits = field(default_factory=Limits)
    output: Any = None
    busy: Busy = "enqueue"
    history: int = 40
    compaction: Compaction | None = None
    schedules: Sequence[Schedule] = ()
    temperature: float | None = None
    max_tokens: int | None = None
    description: str = ""
    untrusted: Untrusted = "ask"
    egress: Egress = field(default_factory=Egress)

    def __post_init__(self) -> None:
        """Raise ConfigError where a field can't be used."""
        if self.untrusted not in ("ask", "refuse", "allow"):
            raise ConfigError(
                f'agent {self.name}: untrusted={self.untrusted!r}; there are "ask", "refuse", "allow"'
            )
        if not self.name or not all(letter.isalnum() or letter in "-_" for letter in self.name):
            raise ConfigError(f"agent name {self.name!r}: use letters, digits, - and _")
        for thing in self.tools:
            if not isinstance(thing, Tool):
                raise ConfigError(f"agent {self.name}: {thing!r} is not a tool; put @tool above the function")
        for kind, names in (
            ("tools", [tool.name for tool in self.tools]),
            ("schedules", [schedule.name for schedule in self.schedules]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ConfigError(f"agent {self.name}: two {kind} are called {sorted(twice)[0]!r}")


@runtime_checkable
class Responder(Protocol):
    """Any other framework in an Agent's place. It still gets sessions, durability per run, costs and security.

    `respond` takes the conversation so far and gives a Reply (async def) or chunks of one (async generator).
    """

    @property
    def name(self) -> str:
        """What requests call it by."""

    def respond(self, messages: Sequence[Message], turn: Turn, /) -> Any:
        """Answer the last message."""


Chunks = AsyncIterator[Chunk]
Answer = Reply | Chunks
