"""What goes out over HTTP, as structs, and how our records become them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_core.engine.runs import Question, Reason, Run, Session
from agent_core.messages import DataClass, Message, Part, RunStatus, ToolCall, ToolResult, Usage

Instant = Annotated[datetime, Meta(tz=True)]


class Cost(msgspec.Struct, frozen=True):
    """Money. Where `known` is false, `usd` is too low: it lacks the models in `unpriced`, whose price is not known."""

    usd: Annotated[
        str, Meta(pattern=r"^\d+(\.\d{1,9})?$", description="US dollars as an exact decimal number.")
    ]
    known: bool
    unpriced: list[str] = []


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457). `type` is a stable name; `detail` is for people."""

    type: Annotated[str, Meta(pattern=r"^urn:sampan:problem:[a-z-]+$")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str = ""
    instance: Annotated[
        str, Meta(description="The run that failed, or the id of the request as in the logs.")
    ] = ""
    field: Annotated[str, Meta(description="Where in the request, as a JSON path.")] = ""
    run_id: str = ""
    limit: Annotated[str, Meta(description="Which limit was reached.")] = ""
    plugin: Annotated[str, Meta(description="Which plugin failed.")] = ""
    scope: Annotated[str, Meta(description="Which scope is missing.")] = ""
    violated_policies: Annotated[list[str], Meta(description="Whose limit of requests was reached.")] = (
        msgspec.field(default_factory=list, name="violated-policies")
    )
    asked: Annotated[dict[str, Any], Meta(description="What a second factor is asked for.")] = {}
    retryable: Annotated[bool, Meta(description="Whether the same request may succeed later.")] = False


class ReplyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent says. `tool_calls` are calls of the caller's own tools."""

    text: Annotated[str, Meta(description="All text parts together.")]
    parts: list[Part]
    tool_calls: list[ToolCall] = []


class StepView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model call or tool call of a run."""

    number: int
    kind: Literal["model", "tool"]
    name: str
    usage: Usage = Usage()
    cost: Cost | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    text: str = ""
    tool_calls: list[ToolCall] = []
    result: ToolResult | None = None


class QuestionView(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks a person: may this tool be called with these arguments?

    `reason` is `approval` where the tool wants it so, `untrusted` where the model had read text of strangers,
    `uncertain` where a crash left open whether the tool has run: then approving has it run now, denying leaves it.
    """

    tool: str
    arguments: str
    hash: str
    reason: Reason
    sources: Annotated[list[str], Meta(description="Where untrusted text came from that the model had read.")]
    status: Literal["asked", "approved", "denied"]
    asked_at: Instant
    expires_at: Instant
    stepup: Annotated[bool, Meta(description="Whether a yes needs a second factor.")] = False


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run: the work that answers one message."""

    run_id: str
    session_id: str
    agent: str
    status: RunStatus
    reply: ReplyView | None
    finish: Annotated[str, Meta(description="Why the model stopped: stop, length, tool_calls or filter.")]
    usage: Usage
    cost: Cost
    steps: int
    models: list[str]
    channel: str
    metadata: dict[str, str]
    created_at: Instant
    finished_at: Instant | None
    problem: Problem | None = None
    questions: Annotated[list[QuestionView], Meta(description="What it asks a person, while it waits.")] = []


class RunDetail(RunView, frozen=True, kw_only=True):
    """A run with its journal."""

    journal: list[StepView]


class RunList(msgspec.Struct, frozen=True):
    """A page of runs, newest first. `next` is null on the last page."""

    runs: list[RunView]
    next: str | None


class SessionItem(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list. `title` is the beginning of its first message."""

    session_id: str
    agent: str
    title: str
    created_at: Instant


class SessionView(SessionItem, frozen=True, kw_only=True):
    """A conversation."""

    messages: Annotated[int, Meta(description="How many messages it has.")]
    busy: Annotated[bool, Meta(description="Whether a run works on it now.")]


class SessionList(msgspec.Struct, frozen=True):
    """A page of sessions, newest first. `next` is null on the last page."""

    sessions: list[SessionItem]
    next: str | None


class KillItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is stopped: since when, by whom, why. `everywhere`: for all tenants, by who runs the service."""

    kind: Literal["agent", "tool", "tenant"]
    name: str
    reason: str
    by: str
    at: Instant
    everywhere: bool


class KillView(KillItem, frozen=True, kw_only=True):
    """Something that was stopped just now; `told` is how many runs under way will notice at their next step."""

    told: int


class KillList(msgspec.Struct, frozen=True):
    """All that is stopped, oldest first."""

    kills: list[KillItem]


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done. `hash` is over this line and the hash of the line before it (`previous`)."""

    number: int
    at: Instant
    act: Annotated[str, Meta(description="Such as `approval.approved`, `key.created` or `tool.called`.")]
    by: Annotated[
        str, Meta(description="A user of the tenant, or `cli/` and a user of the service's machine.")
    ]
    subject: str
    session_id: str
    run_id: str
    detail: dict[str, str]
    previous: str
    signed: Annotated[str, Meta(description="Which key signed it; empty for a plain hash.")]
    hash: str


class AuditPage(msgspec.Struct, frozen=True):
    """A page of the audit log, oldest first. `next` is null on the last page."""

    lines: list[AuditLine]
    next: int | None


class MessageView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a session. A `hidden` one is not given to a model again: its run failed."""

    seq: int
    role: Literal["system", "user", "assistant", "tool"]
    parts: list[Part]
    run_id: str
    created_at: Instant
    data_class: DataClass
    text: Annotated[str, Meta(description="All text parts together.")]
    tool_calls: list[ToolCall] = []
    tool_results: list[ToolResult] = []
    hidden: bool = False


class MessageList(msgspec.Struct, frozen=True):
    """A page of a session's messages, oldest first. `next` is null on the last page."""

    session: SessionView
    messages: list[MessageView]
    next: int | None


class Health(msgspec.Struct, frozen=True):
    """That the service is there."""

    status: Literal["ok"] = "ok"


class Home(msgspec.Struct, frozen=True):
    """Where things are."""

    service: str
    agents: list[str]
    links: dict[str, str]


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def cost_view(nano: int, unpriced: tuple[str, ...] = ()) -> Cost:
    """Nano-dollars as an exact decimal number of dollars."""
    usd = f"{nano // 10**9}.{nano % 10**9:09d}".rstrip("0").rstrip(".")
    return Cost(usd=usd, known=not unpriced, unpriced=list(unpriced))


def reply_view(message: Message) -> ReplyView:
    """A run's last message."""
    return ReplyView(text=message.text, parts=list(message.parts), tool_calls=list(message.tool_calls))


def question_view(question: Question) -> QuestionView:
    """What a run asks a person."""
    return QuestionView(
        tool=question.tool,
        arguments=question.arguments,
        hash=question.hash,
        reason=question.reason,
        sources=list(question.sources),
        status=question.status,
        asked_at=instant(question.asked_at),
        expires_at=instant(question.expires_at),
        stepup=question.stepup,
    )


def run_fields(run: Run, problem: Problem | None) -> dict[str, Any]:
    """The fields of a RunView."""
    return {
        "run_id": run.id,
        "session_id": run.session_id,
        "agent": run.agent,
        "status": run.status,
        "reply": reply_view(run.reply) if run.reply else None,
        "finish": run.finish,
        "usage": run.usage,
        "cost": cost_view(run.cost, run.unpriced),
        "steps": run.steps,
        "models": list(run.models),
        "channel": run.channel,
        "metadata": run.metadata,
        "created_at": instant(run.created_at),
        "finished_at": instant(run.finished_at) if run.finished_at else None,
        "problem": problem,
        "questions": [question_view(question) for question in run.questions],
    }


def session_item(session: Session) -> SessionItem:
    """A conversation in a list."""
    return SessionItem(
        session_id=session.id,
        agent=session.agent,
        title=session.title,
        created_at=instant(session.created_at),
    )


def session_view(session: Session) -> SessionView:
    """A conversation."""
    return SessionView(
        session_id=session.id,
        agent=session.agent,
        title=session.title,
        messages=session.messages,
        busy=session.busy,
        created_at=instant(session.created_at),
    )


def message_view(message: Message) -> MessageView:
    """One message of a session."""
    return MessageView(
        seq=message.seq,
        role=message.role,
        parts=list(message.parts),
        run_id=message.run_id,
        created_at=instant(message.created_at),
        data_class=message.data_class,
        text=message.text,
        tool_calls=list(message.tool_calls),
        tool_results=list(message.tool_results),
        hidden=message.hidden,
    )
