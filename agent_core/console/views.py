"""What is stored, as the pages show it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec
from markupsafe import Markup

from agent_core.console.markdown import render
from agent_core.costs.ledger import dollars
from agent_core.engine.runs import Failure, Run, Step
from agent_core.messages import Message, Part, Text, ToolCall, ToolResult, Usage


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in a conversation: words of the user or the agent, a tool call, or why a run failed."""

    kind: Literal["user", "assistant", "tool", "failure"]
    text: str = ""
    html: Markup | None = None
    media: tuple[str, ...] = ()
    at: float = 0.0
    run_id: str = ""
    name: str = ""
    arguments: str = ""
    result: ToolResult | None = None
    failure: Failure | None = None


def items(messages: Iterable[Message], failed: Mapping[str, Run]) -> list[Item]:
    """A conversation in order. Tool calls come with their results; after a run of `failed` stands why it failed."""
    messages = list(messages)
    results = {result.call_id: result for message in messages for result in message.tool_results}
    shown: list[Item] = []
    for place, message in enumerate(messages):
        shown += _words(message)
        shown += [tool_item(call, results.get(call.id), message.run_id) for call in message.tool_calls]
        last_of_run = place + 1 == len(messages) or messages[place + 1].run_id != message.run_id
        run = failed.get(message.run_id)
        if last_of_run and run is not None and run.failure is not None:
            shown.append(Item(kind="failure", run_id=run.id, failure=run.failure, at=run.finished_at))
    return shown


def _words(message: Message) -> list[Item]:
    media = tuple(media_name(part) for part in message.parts if not isinstance(part, Text))
    if message.role not in ("user", "assistant") or not (message.text or media):
        return []
    return [
        Item(
            kind="user" if message.role == "user" else "assistant",
            text=message.text,
            html=render(message.text) if message.role == "assistant" else None,
            media=media,
            at=message.created_at,
            run_id=message.run_id,
        )
    ]


def tool_item(call: ToolCall, result: ToolResult | None, run_id: str = "") -> Item:
    """A tool call with what it gave, as far as that is known."""
    return Item(kind="tool", name=call.name, arguments=indented(call.arguments), result=result, run_id=run_id)


def failed_runs(messages: Iterable[Message]) -> list[str]:
    """Ids of the runs that failed: their messages are hidden from the model, not from people."""
    return list(dict.fromkeys(message.run_id for message in messages if message.hidden and message.run_id))


def so_far(run: Run, steps: Iterable[Step]) -> Run:
    """A run that has not ended, with the usage and cost of the steps it has taken."""
    calls = [step for step in steps if step.kind == "model"]
    return msgspec.structs.replace(
        run,
        usage=sum((step.usage for step in calls), Usage()),
        cost=sum(step.cost or 0 for step in calls),
        unpriced=tuple(dict.fromkeys(step.name for step in calls if step.cost is None)),
        models=tuple(dict.fromkeys(step.name for step in calls)),
    )


def media_name(part: Part) -> str:
    """A picture, sound or file in words."""
    if isinstance(part, Text):
        return ""
    name = part.name or type(part).__name__.lower()
    return f"{name} ({part.media_type})"


def indented(text: str) -> str:
    """JSON with one value per line; other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def money(nano: int | None) -> str:
    """Nano-dollars for people; "" where the price is not known."""
    return "" if nano is None else f"${dollars(nano)}"


def moment(at: float) -> str:
    """A time in seconds since 1970 for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """The same for machines (the datetime attribute of HTML)."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def seconds(item: Run | Step) -> str:
    """How long a run or step took; "" while it lasts."""
    start = item.created_at if isinstance(item, Run) else item.started_at
    return f"{max(0.0, item.finished_at - start):.2f} s" if item.finished_at else ""
