"""Which stored step is which: what a run is, hashed link by link, and a step's place in its own series.

A step is found again by its series and its place there, and used only where it was done upon the same input. For steps
of the model and of tools that is a chain: over the messages as they came in, and what each step since has given. What
new code may change between two attempts at a run (prompt, history, tools, plugins, summaries) is no part of it; so it
may be deployed in the middle of a run, and what was paid for is used.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from agent_core.engine.runs import Step
from agent_core.messages import Message, Reply, Text, ToolCall, ToolResult

MODEL = "model"
TOOL = "tool"
SUMMARY = "summary"
DIGEST = "digest"
"""Summaries of the running run; SUMMARY are those of the session before it."""


def linked(chain: str, *texts: str) -> str:
    """The chain with another link: texts, told apart by their lengths."""
    digest = hashlib.sha256(chain.encode())
    for text in texts:
        data = text.encode(errors="surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def begun(messages: Sequence[Message]) -> str:
    """The chain of a run that answers these messages, as they stand in the inbox.

    A retry under a key stores them anew: not the times and the names of blobs count, but what was said.
    """
    return linked("", *(text for message in messages for text in _said(message)))


def _said(message: Message) -> Iterator[str]:
    yield message.role
    for part in message.parts:
        if isinstance(part, Text):
            yield part.text[:1000]  # of a long text, the record has no more
        else:
            yield part.media_type
    yield from _calls(message.tool_calls)
    for result in message.tool_results:
        yield result.content


def _calls(calls: Iterable[ToolCall]) -> Iterator[str]:
    for call in calls:
        yield from (call.id, call.name, call.arguments)


def replied(chain: str, reply: Reply) -> str:
    """The chain after a model's reply."""
    return linked(chain, "reply", reply.message.text, *_calls(reply.message.tool_calls))


def resulted(chain: str, results: Iterable[ToolResult]) -> str:
    """The chain after the tools' results."""
    return linked(chain, "results", *(text for result in results for text in (result.name, result.content)))


def joined(chain: str, run_ids: Sequence[str]) -> str:
    """The chain after messages of other runs joined; they are known by the runs."""
    return linked(chain, "joined", *run_ids) if run_ids else chain


def wished(chain: str, place: int, call: ToolCall) -> str:
    """What a tool's step is done upon: all before it, and the call as the model wished for it, before plugins."""
    return linked(chain, str(place), call.name, canonical(call.arguments))


def canonical(arguments: str) -> str:
    """The arguments of a call, whatever their spelling."""
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments), order="sorted").decode()
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return arguments


def same_call(one: ToolCall | None, other: ToolCall) -> bool:
    """Whether both call the same tool with the same arguments."""
    if one is None or one.name != other.name:
        return False
    return one.arguments == other.arguments or canonical(one.arguments) == canonical(other.arguments)


def placed(steps: Iterable[Step]) -> list[Step]:
    """The steps in order, those of an older Sampan with their series and place, as far as it can be known.

    It kept numbers only. Its reply without tool calls may be an answer, a summary, or words that were refused: such a
    step gets no series, so it is paid for and not used.
    """
    found: list[Step] = []
    places: Counter[str] = Counter()
    for step in sorted(steps, key=lambda step: step.number):
        if not step.series and (step.kind == "tool" or (step.reply and step.reply.message.tool_calls)):
            step = msgspec.structs.replace(step, series=step.kind, place=places[step.kind])
            places[step.kind] += 1
        found.append(step)
    return found
