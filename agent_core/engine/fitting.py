"""What of a conversation a prompt holds, so that it fits its model's window: pure functions of messages and decisions.

When a prompt is too long, it gives way in this order: messages of before the run; results of its tools, of which a stub
stays that names the way back; its older steps, which a summary stands for. Each cut goes down to half of the room: so
cuts are few, and between two of them each prompt begins with the one before, byte by byte, as prompt caches want it.
The words of users, what is pinned and the last step stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from agent_core.agent import Agent
from agent_core.engine import trust
from agent_core.engine.bound import Bound
from agent_core.engine.runs import Fitted, Inbound
from agent_core.engine.window import beginning, text_tokens, tokens
from agent_core.errors import TooLargeError
from agent_core.messages import Message, ToolResult, ToolSpec

REPLY_RESERVE = 1024
"""Tokens of the model's window that are kept free for its reply, where nobody says how long it may be."""

SLACK = 0.97
"""How much of the window our count may fill: it is rough."""

STUB = 48
"""Tokens that a stub is worth; a result that is no longer stays."""

SUMMARY_TOKENS = 1_000
"""How long a summary may be; less where the window is small."""

READ = "read_result"
PINNED = "What is pinned, word for word:"
DONE = "What was done so far for this, summarised:"


@dataclass(frozen=True)
class Room:
    """The model's window, what of it is kept for the reply, and the count of what is in each prompt."""

    window: int
    reserve: int
    fixed: int

    def limit(self, learnt: int = 0, ratio: float = 1.0) -> int:
        """Tokens, by our count, that the messages may have together.

        `learnt` is what the provider was found to take, `ratio` how many of its tokens one of ours is.
        """
        most = min(self.window, learnt or self.window)
        return int((most - min(self.reserve, most * 3 // 4)) * SLACK / ratio) - self.fixed


@dataclass
class Story:
    """What there is to tell a model. `older` is of before the run, and so is the `summary` of what was before that.

    `run` grows with the run; `spoken` are the places in it that are given word for word, always.
    `digest` stands for as much of it as is covered.
    """

    summary: tuple[Message, ...]
    older: Sequence[Message]
    run: list[Message] = field(default_factory=list)
    spoken: list[int] = field(default_factory=list)
    digest: tuple[Message, ...] = ()

    def take(self, messages: Iterable[Message]) -> None:
        """Messages that came after the others."""
        for message in messages:
            if message.role in ("user", "system"):
                self.spoken.append(len(self.run))
            self.run.append(message)

    @property
    def last_step(self) -> int:
        """Where the last calls stand: they and all after them stay as they are."""
        place = len(self.run)
        while place and not self.run[place - 1].tool_calls:
            place -= 1
        return max(place - 1, 0) if place else len(self.run)


def divided(older: Sequence[Message], messages: Sequence[Message], inbound: int) -> tuple[int, int]:
    """Where the run's own begins: how many of `older` and of `messages` stand before it.

    It is the last message of the user's among the `inbound` first ones; where there is none (a client brings its tools'
    results), the last one before.
    """
    for place in range(min(inbound, len(messages)) - 1, -1, -1):
        if messages[place].role == "user":
            return len(older), place
    for place in range(len(older) - 1, -1, -1):
        if older[place].role == "user":
            return place, 0
    return len(older), 0


def room_of(bound: Bound, inbound: Inbound) -> Room:
    """What there is for the messages of an agent with a model."""
    agent, model = bound.agent, bound.model
    assert model is not None
    assert isinstance(agent, Agent)
    asked = inbound.max_tokens or agent.max_tokens or min(REPLY_RESERVE, model.context_window // 4)
    specs = (*bound.toolbox.specs, *inbound.tools, SPEC) if model.tools else ()
    schema = inbound.output_schema or bound.output_schema
    fixed = 16 + text_tokens(agent.instructions) + sum(map(_spec_tokens, specs))
    fixed += text_tokens(json.dumps(schema)) if schema else 0
    return Room(model.context_window, min(asked, model.context_window * 3 // 4), fixed)


def check_fits(bound: Bound, inbound: Inbound) -> None:
    """Raise TooLargeError where what came in can never fit, however much else gives way."""
    if bound.model is None:
        return
    limit = room_of(bound, inbound).limit()
    _, start = divided((), inbound.messages, len(inbound.messages))
    own = [
        message
        for place, message in enumerate(inbound.messages)
        if place >= start or message.role == "system"
    ]
    size = sum(tokens(trust.marked(message)) for message in own)
    if size > limit:
        raise TooLargeError(
            f"the message is worth about {size} tokens; the model takes {max(limit, 0)} beside its instructions, tools "
            f"and reply: {size - max(limit, 0)} too many",
            field="$.messages",
        )
    for message in own:
        if message.metadata.get("pinned") and tokens(message) > limit // 4:
            raise TooLargeError(
                f"a pinned message is in each prompt, so it may be worth {limit // 4} tokens; "
                f"this one is worth about {tokens(message)}",
                field="$.messages",
            )


def corrected(ratio: float, fitted: Fitted | None, reported: int) -> float:
    """How many of the provider's tokens one of ours is, after a further prompt: never under 1."""
    if fitted is None or not fitted.size or not reported:
        return ratio
    seen = min(max(reported / fitted.size, 1.0), 4.0)
    return max(seen, (ratio + seen) / 2)


def size_of(messages: Iterable[Message]) -> int:
    """Our count of these messages."""
    return sum(map(tokens, messages))


def shown(story: Story, fitted: Fitted) -> list[Message]:
    """The messages of a prompt, as the model gets them, with the marks of untrusted text."""
    count = len(story.older) if fitted.older < 0 else min(fitted.older, len(story.older))
    gone, older = story.older[: len(story.older) - count], story.older[len(story.older) - count :]
    out = [*story.summary, *_pinned(gone), *(m for m in gone if m.role == "system"), *older]
    out += [story.run[place] for place in story.spoken if place < fitted.covered]
    if fitted.covered:
        out += story.digest
    out += [_view(story.run[place], place, fitted) for place in range(fitted.covered, len(story.run))]
    return [trust.marked(message) for message in out]


def _pinned(gone: Sequence[Message]) -> list[Message]:
    pinned = [message for message in gone if message.metadata.get("pinned")]
    if not pinned:
        return []
    sources = tuple(dict.fromkeys(source for message in pinned for source in trust.sources(message)))
    return [Message.of("user", "\n".join([PINNED, *(m.text for m in pinned)]), untrusted=sources)]


def _view(message: Message, place: int, fitted: Fitted) -> Message:
    if message.role != "tool":
        return message
    if place < fitted.stubs:
        most = 0
    elif fitted.share and place == fitted.trimmed:
        most = fitted.share
    else:
        return message
    results = tuple(_shorter(result, most, fitted.reading) for result in message.tool_results)
    return msgspec.structs.replace(message, tool_results=results)


def _shorter(result: ToolResult, most: int, reading: bool) -> ToolResult:
    """A result with its beginning only, and the way back to the rest."""
    if text_tokens(result.content) <= max(most, STUB):
        return result
    kept, all_of_it = beginning(result.content, most), len(result.content)
    back = f"; {READ}(ref={json.dumps(result.call_id)}, offset={len(kept)}) reads on" if reading else ""
    if not kept:
        words = f"[{all_of_it} characters left out to save room{back}]"
        return msgspec.structs.replace(result, content=words, trusted=True)  # nobody else's word is in it
    return msgspec.structs.replace(
        result, content=f"{kept}\n[cut after {len(kept)} of {all_of_it} characters{back}]"
    )


def fits(story: Story, fitted: Fitted, limit: int) -> bool:
    """Whether the prompt is short enough."""
    return size_of(shown(story, fitted)) <= limit


def first(story: Story, fitted: Fitted, limit: int) -> Fitted:
    """The first prompt of a run: of what was before, as much as there is room for."""
    return msgspec.structs.replace(fitted, older=_older(story, fitted, limit))


def cut(story: Story, fitted: Fitted, limit: int) -> Fitted:
    """Down to half of the room by what costs nothing: older messages, then results of all steps but the last."""
    replace, target = msgspec.structs.replace, limit // 2
    fitted = replace(fitted, older=min(_older(story, fitted, target), _count(story, fitted)))
    if fits(story, fitted, target):
        return fitted
    over, last = size_of(shown(story, fitted)) - target, story.last_step
    stubs = max(fitted.stubs, fitted.covered)
    while stubs < last and over > 0:
        message = story.run[stubs]
        stubs += 1
        if message.role == "tool":
            now = trust.marked(_view(message, stubs - 1, fitted))
            then = trust.marked(_view(message, stubs - 1, replace(fitted, stubs=stubs)))
            over -= tokens(now) - tokens(then)
    return _trimmed(story, replace(fitted, stubs=max(stubs, fitted.stubs)), limit)


def _trimmed(story: Story, fitted: Fitted, limit: int) -> Fitted:
    """With the results of the last step cut as well, where they take up too much of the room by themselves."""
    place = len(story.run) - 1
    while place > story.last_step and not story.run[place].tool_results:
        place -= 1
    results = story.run[place].tool_results if 0 <= place < len(story.run) else ()
    total = size_of(shown(story, fitted))
    if not results or total <= limit * 3 // 4:
        return fitted
    rest = total - sum(
        text_tokens(result.content) for result in _view(story.run[place], place, fitted).tool_results
    )
    share = max(limit * 3 // 4 - rest, limit // 4) // len(results) - STUB
    if fitted.share and place == fitted.trimmed:
        share = min(share, fitted.share)
    return msgspec.structs.replace(fitted, trimmed=place, share=max(share, 1))


def _count(story: Story, fitted: Fitted) -> int:
    return len(story.older) if fitted.older < 0 else min(fitted.older, len(story.older))


def _older(story: Story, fitted: Fitted, limit: int) -> int:
    """How many of the older messages there is room for; they begin with a user's, so that no result lacks its call."""
    room = limit - size_of(shown(story, msgspec.structs.replace(fitted, older=0)))
    found = 0
    for count, message in enumerate(reversed(story.older), 1):
        room -= tokens(trust.marked(message))
        if room < 0:
            break
        if message.role == "user":
            found = count
    return found


def boundary(story: Story, fitted: Fitted, limit: int, summary: int) -> int:
    """Up to where the run is to be summarised, so that half of the room is free; no call is parted from its result.

    Where the last step by itself leaves too little room, it is summarised too.
    """

    def sized(covered: int) -> int:
        return size_of(shown(story, msgspec.structs.replace(fitted, covered=covered))) + summary

    last = story.last_step
    over, covered = sized(fitted.covered) - limit // 2, fitted.covered
    for place in range(fitted.covered, last):
        message = story.run[place]
        if message.role not in ("user", "system"):
            over -= tokens(trust.marked(_view(message, place, fitted)))
        if story.run[place + 1].role == "assistant" or place + 1 == last:
            covered = place + 1
            if over <= 0:
                break
    return covered if sized(covered) <= limit else len(story.run)


def summary_tokens(limit: int) -> int:
    """How long a summary may be where messages may have so many tokens together."""
    return max(min(SUMMARY_TOKENS, limit // 6), 16)


def _spec_tokens(spec: ToolSpec) -> int:
    return 8 + text_tokens(spec.name + spec.description) + text_tokens(json.dumps(spec.schema))


SPEC = ToolSpec(
    name=READ,
    description="Read on in the result of an earlier tool call of this conversation that was cut or left out.",
    schema={
        "type": "object",
        "properties": {
            "ref": {
                "type": "string",
                "description": "The id of the call, or of the blob, as the cut result names it",
            },
            "offset": {
                "type": "integer",
                "minimum": 0,
                "description": "Characters to pass over; 0 by default",
            },
        },
        "required": ["ref"],
        "additionalProperties": False,
    },
)
"""The built-in tool that gives back what was cut; an agent's own tool of that name stands in its place."""
