"""The records of the engine: what comes in, the run that answers it, its journal, its events."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from agent_core.messages import Message, Principal, Reply, RunStatus, ToolCall, ToolResult, ToolSpec, Usage

BATCH = "batch"
"""The channel of the runs of a batch's lines."""

CALLBACK = "callback"
"""The kind of delivery that sends the end of a run to an address of the caller's."""


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the end of a run is pushed: the kind of deliverer ("callback", a channel) and its address."""

    kind: str
    address: str
    options: dict[str, str] = {}


class Inbound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message on its way in, whatever way it took.

    `messages` is mostly one; a client that keeps the history itself (OpenAI's chat completions) sends it all.
    `key` is the idempotency key ("" for none), `fingerprint` a hash of what the caller sent under it.
    `tools` are the caller's own: a call to one of them ends the run and goes back to the caller. `stream` has the
    reply made in pieces, for those who watch now or attach later.
    """

    messages: tuple[Message, ...]
    principal: Principal = Principal()
    agent: str = ""
    session_id: str = ""
    key: str = ""
    fingerprint: str = ""
    channel: str = "api"
    metadata: dict[str, str] = {}
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: Literal["auto", "none", "required"] = "auto"
    output_schema: dict[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    delivery: Delivery | None = None
    stream: bool = False


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a run failed: the error's slug (end of its problem type), status, title and words."""

    slug: str
    status: int
    title: str
    detail: str
    retryable: bool = False
    extras: dict[str, Any] = {}


class Fitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a prompt was made to fit its model's window; the prompts after it are cut alike until one is too long.

    `older` is how many of the messages before the run's own are given, -1 for all. Of the run's own, the first
    `covered` stand in a summary, the `summaries`-th; in the first `stubs`, results are left out; in the one at
    `trimmed`, each result is worth `share` tokens at most (0: whole). `limit` is how many tokens the model was found
    to take (0: as many as it says), `size` our count of the prompt. With `reading` the model can read what was cut.
    """

    older: int = -1
    covered: int = 0
    summaries: int = 0
    stubs: int = 0
    trimmed: int = 0
    share: int = 0
    limit: int = 0
    size: int = 0
    reading: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model call or one tool call, as journaled. `cost` in nano-dollars, None where no price is known.

    A tool's step without a `result` is an intent: the tool may have run, or not; `tries` counts how often it was begun.
    `fence` is that of the attempt that did it, `elapsed` how many seconds that attempt had worked by its end.

    `number` is where it is stored. What it is found again by is its `series` ("model", "tool", "summary", "" where an
    older Sampan stored it), its `place` there, from 0, and its `input`, a hash of what it was done upon (see steps.py).
    `joined` names the runs whose messages a model's step was the first to see, `covered` is the seq up to which a
    summary stands for the session, `key` the idempotency key that a tool was given. A `refused` reply is paid for and
    never used; the text of a `withheld` one is shown to nobody before plugins have seen it. `fitted` says how the
    prompt of a model's step was cut, or what of the run a summary covers.
    """

    number: int
    kind: Literal["model", "tool"]
    name: str
    call: ToolCall | None = None
    reply: Reply | None = None
    result: ToolResult | None = None
    usage: Usage = Usage()
    cost: int | None = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    fence: int = 0
    elapsed: float = 0.0
    tries: int = 0
    series: str = ""
    place: int = 0
    input: str = ""
    joined: tuple[str, ...] = ()
    covered: int = 0
    key: str = ""
    refused: bool = False
    withheld: bool = False
    fitted: Fitted | None = None


Reason = Literal["approval", "untrusted", "uncertain"]


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run asks a person before it goes on: may this tool call be made?

    `arguments` are those the server will use, `hash` binds an answer to them and to this one asking; an answer counts
    once and until `expires_at`. `reason` is "approval" where the tool wants it, "untrusted" where the model has read
    text of strangers, or "uncertain" where a crash left it open whether the tool has run: approving has it run now,
    denying leaves it. `sources` names where the untrusted text came from that the model had read. `stepup`: a yes
    needs a second factor.
    """

    step: int
    tool: str
    arguments: str
    hash: str
    asked_at: float
    expires_at: float
    reason: Reason = "approval"
    status: Literal["asked", "approved", "denied"] = "asked"
    answered_by: str = ""
    answered_at: float = 0.0
    stepup: bool = False
    sources: tuple[str, ...] = ()

    def open_at(self, now: float) -> bool:
        """Whether it can still be answered."""
        return self.status == "asked" and now < self.expires_at


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The work that answers an inbound message.

    `cost` is in nano-dollars (10^-9 USD); `unpriced` names the models whose price is not known, so that the cost
    is never silently too low. `retries` counts how often it failed and was tried again under its key, `joined` names
    the runs of messages that it answered too, `line` the line of a batch that it answers (`batch/<batch>/<number>`).
    Times are in seconds since 1970. `replayed` is never stored: it tells the caller of an idempotency key that this is
    the answer given before.
    """

    id: str
    session_id: str
    agent: str
    principal: Principal
    status: RunStatus
    created_at: float
    channel: str = "api"
    fingerprint: str = ""
    finished_at: float = 0.0
    reply: Message | None = None
    finish: str = "stop"
    usage: Usage = Usage()
    cost: int = 0
    unpriced: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    steps: int = 0
    failure: Failure | None = None
    questions: tuple[Question, ...] = ()
    cancelling: int = 0
    switched: int = 0
    metadata: dict[str, str] = {}
    retries: int = 0
    joined: tuple[str, ...] = ()
    line: str = ""
    replayed: bool = False

    @property
    def push_id(self) -> str:
        """What tells a receiver that it has this end of the run already; a retry may end otherwise."""
        return f"{self.id}.{self.retries}" if self.retries else self.id

    @property
    def by_channel(self) -> bool:
        """Whether who asked is known by a channel alone: such a person's name begins with the channel's."""
        return self.principal.user.startswith(f"{self.channel}/")

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        return self.status in ("succeeded", "failed", "cancelled")

    def asks_at(self, now: float) -> bool:
        """Whether the run waits for a person who can still answer; else a worker goes on with it."""
        if self.status != "waiting" or self.cancelling:
            return False
        return any(question.open_at(now) for question in self.questions)


EventType = Literal[
    "run", "text", "reasoning", "tool_call", "tool_result", "restart", "waiting", "reply", "error"
]


class RunEvent(msgspec.Struct, frozen=True):
    """What a client that watches a run is told. The id says where in the run it stands (see events.py).

    run: {run_id, session_id, agent, replayed}; text, reasoning: {text}; tool_call: a ToolCall;
    tool_result: a ToolResult; restart: {step}, what was told of that step's text no longer counts;
    waiting: the Run that waits for a person; reply: the Run at its end; error: the Run that failed.
    """

    id: str
    type: EventType
    data: dict[str, Any] | Run


class Session(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a conversation without reading it. `title` is the beginning of its first message."""

    id: str
    agent: str
    user: str
    created_at: float
    title: str = ""
    messages: int = 0
    busy: bool = False


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a session's messages, oldest first; `after` is the seq to go on from, 0 on the last page."""

    session: Session
    messages: tuple[Message, ...]
    after: int = 0


class Head(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of a session: who works on it, until when, and how much stands in it.

    `fence` grows with each take-over, `arrivals` with each message that came while somebody was working,
    `interrupts` with those of them that stop the run under way; `latest` is the place of the last one in the inbox.
    `summary` stands for the messages up to the seq `covered`; `sources` says where untrusted text in them came from,
    None where an older Sampan made the summary and nobody knows.
    """

    owner: str = ""
    lease_until: float = 0.0
    fence: int = 0
    arrivals: int = 0
    interrupts: int = 0
    latest: int = 0
    messages: int = 0
    agent: str = ""
    title: str = ""
    created_at: float = 0.0
    listed: str = ""
    summary: str = ""
    covered: int = 0
    sources: tuple[str, ...] | None = None


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """An inbound message in a session's inbox, and the run that will answer it.

    `due` is the sort key of its entry in the list of what the sweeper looks after.
    """

    run_id: str
    inbound: Inbound
    due: str = ""


class Due(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that must be looked after when its time comes, if it is still there.

    Its kind is "run", "push" (an outbox entry), or that of a higher floor ("batch", "schedule"; `run_id` names it).
    `attempts` counts how often the sweeper queued it again, `push_id` says which end of the run is to be pushed.
    """

    kind: str
    tenant: str
    user: str
    session_id: str
    run_id: str
    attempts: int = 0
    delivery: Delivery | None = None
    push_id: str = ""
