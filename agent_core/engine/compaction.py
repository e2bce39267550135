"""Compaction: the old part of a long session becomes a summary; the transcript itself stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agent_core.engine import trust, window
from agent_core.engine.attempt import Attempt
from agent_core.engine.fitting import SUMMARY_TOKENS
from agent_core.engine.steps import MODEL, SUMMARY, linked
from agent_core.engine.summaries import HEAD, bite, room, summarise
from agent_core.errors import ModelError, TooLargeError
from agent_core.messages import Message, Reply

log = logging.getLogger("sampan.engine")

PINS = 32 * 1024
"""Bytes of all that is pinned in a session: it stands in its head record, and in each prompt."""

PIN = "Pinned: "


async def compact(attempt: Attempt) -> None:
    """Summarise what is old, where the session has grown over the agent's threshold; steps like any other.

    As many as it takes: what one summary is made from fits its model's window. A summary that fails for a passing
    reason is left to the next run, which has more to summarise then; this one does with what there is room for.
    """
    _check_pins(attempt)
    while True:
        visible = [m for m in attempt.history if not m.hidden and m.seq > attempt.covered]
        input = linked(attempt.summary, str(visible[0].seq), str(attempt.covered)) if visible else ""
        stored = attempt.journal.find(SUMMARY, attempt.places[SUMMARY], input)
        if stored is not None and stored.reply is not None:
            # It was paid for, and is of these messages: it holds whatever today's rules are.
            attempt.recall(SUMMARY, input)
            _covered(attempt, [message for message in visible if message.seq <= stored.covered], stored.reply)
            continue
        model = attempt.bound.summarizer
        old = _due(attempt, visible)
        if not old or model is None or attempt.journal.at(MODEL, 0):
            return  # behind its first step, a run goes on from what that was told
        old = old[: bite(old, room(model))]
        attempt.recall(SUMMARY, input)
        try:
            reply = await summarise(attempt, model, attempt.summary, old, covered=old[-1].seq)
        except ModelError as error:
            if not error.retryable:
                raise
            log.warning("run=<%s> | not summarised this time: %s", attempt.run.id, error)
            return
        _covered(attempt, old, reply)


def summary_message(summary: str, sources: tuple[str, ...] = ()) -> tuple[Message, ...]:
    """The summary as the first message of a prompt; it speaks for others, so it is no instruction of the system's."""
    return (Message.of("user", f"{HEAD}\n{summary}", untrusted=sources),) if summary else ()


def _covered(attempt: Attempt, old: Sequence[Message], reply: Reply) -> None:
    """Have the reply stand for these messages, beside what is pinned in them."""
    facts = _pins(attempt.summary) + [
        f"{PIN}{' '.join(message.text.split())}" for message in old if message.metadata.get("pinned")
    ]
    said = window.beginning(reply.message.text, SUMMARY_TOKENS)
    attempt.summary = "\n".join([*facts, said]).strip()
    found = (source for message in old for source in trust.sources(message))
    attempt.summary_sources = tuple(dict.fromkeys((*attempt.summary_sources, *found)))
    if old:
        attempt.covered = old[-1].seq


def _pins(summary: str) -> list[str]:
    return [line for line in summary.split("\n") if line.startswith(PIN)]


def _check_pins(attempt: Attempt) -> None:
    """Raise TooLargeError where another pin is one too many; those that are there stay, and harm no other message."""
    new = [message for message in attempt.messages if message.metadata.get("pinned")]
    if not new:
        return
    there = [
        message.text for message in attempt.history if message.metadata.get("pinned") and not message.hidden
    ]
    texts = [*_pins(attempt.summary), *there, *(message.text for message in new)]
    size = sum(len(text.encode()) for text in texts)
    if size > PINS:
        raise TooLargeError(
            f"what is pinned in this session would be {size} bytes; at most {PINS} fit: send it without `pinned`",
            field="$.messages",
        )


def _due(attempt: Attempt, visible: Sequence[Message]) -> Sequence[Message]:
    """What is to be summarised now by the agent's rules; nothing where it has none."""
    rules, model = attempt.bound.compaction, attempt.bound.summarizer
    if rules is None or model is None or sum(map(window.tokens, visible)) <= rules.at_tokens:
        return ()
    return _old(visible, rules.keep)


def _old(messages: Sequence[Message], keep: int) -> Sequence[Message]:
    """All but the last messages; what is kept begins with a user's message, so that no call loses its result."""
    cut = max(len(messages) - keep, 0)
    while cut > 0 and messages[cut].role != "user":
        cut -= 1
    return messages[:cut]
