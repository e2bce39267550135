"""What a run asks a person, asked in the chat with buttons; and what a click on one of them means."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from agent_core.channels.base import Channel, Choice, Click
from agent_core.channels.post import MAX_TRIES, RETRY_SECONDS, Post, Sent, letter_of
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.due import noted, unnoted
from agent_core.engine.engine import Engine
from agent_core.engine.outbox import ABANDONED_SECONDS
from agent_core.engine.runs import Due, Question, Run
from agent_core.errors import AgentError, ConditionError, ConflictError, NotFoundError, StepUpError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Delete, Equals, Key, Put, Store
from agent_core.store.shards import later, time_of

log = logging.getLogger("sampan.questions")

SHOWN = 32
"""Characters of a question's hash that a button carries: Telegram's holds 64 bytes in all."""

ARGUMENTS = 1500
"""Characters of a call's arguments that are shown."""


class Questions:
    """Asks in the channels what runs of theirs wait for, each question once."""

    def __init__(
        self, post: Post, channels: Mapping[str, Channel], store: Store, clock: Clock, public_url: str
    ) -> None:
        self._post = post
        self._channels = channels
        self._store = store
        self._clock = clock
        self._public_url = public_url

    async def ask(self, key: Key, due: Due) -> None:
        """Ask what the run of this entry still waits for; tried again by the sweeper where it did not arrive."""
        still = (Equals("run_id", due.run_id),)
        now = self._clock.now()
        if due.delivery is None or due.delivery.kind not in self._channels:
            if now - time_of(key.sort) > ABANDONED_SECONDS:
                await self._store.write(Delete(key, when=still), unnoted(due))
            return  # it is for a process that has the channel
        again = later(key, now + RETRY_SECONDS)
        entry = msgspec.structs.replace(due, attempts=due.attempts + 1)
        try:
            # Mine for a while, so that two sweepers do not both ask.
            await self._store.write(
                Delete(key, when=still), Put(again, to_record(entry)), noted(again, due, now)
            )
        except ConditionError:
            return
        record = await self._store.get(Key(keys.run(due.tenant, due.run_id), keys.RUN))
        if record is not None and due.attempts < MAX_TRIES:
            run = from_record(Run, record.fields)
            for question in run.questions:
                if question.open_at(self._clock.now()) and not await self._asked(run, question, due):
                    return
        await self._store.write(Delete(again), unnoted(due))

    async def _asked(self, run: Run, question: Question, due: Due) -> bool:
        """Whether one question is with the service, or never will be."""
        delivery = due.delivery
        channel = self._channels.get(delivery.kind) if delivery else None
        if delivery is None or channel is None:
            return True
        name = f"{run.id}.ask.{question.hash[:SHOWN]}"
        before = await self._post.sent(channel, due.tenant, name)
        if before.ids:
            return True
        letter = letter_of(delivery, words_of(question), name, 0)
        try:
            found = await channel.find(letter) if before.trying else ""
            if not found:
                await self._post.keep(channel, due.tenant, name, Sent(trying=1))
                found = await channel.ask(letter, self._choices(run, question))
            await self._post.keep(channel, due.tenant, name, Sent(ids=(found,)))
        except AgentError as error:
            log.warning("channel=<%s>, run=<%s> | not asked: %s", channel.name, run.id, error)
            return not error.retryable
        return True

    def _choices(self, run: Run, question: Question) -> tuple[Choice, ...]:
        """Yes and no; where a yes needs a second factor, it leads to the console, which asks for it."""
        mark = f"{run.id}:{question.hash[:SHOWN]}"
        deny = Choice(label="Deny", value=f"no:{mark}")
        if not question.stepup:
            return (Choice(label="Approve", value=f"yes:{mark}"), deny)
        if not self._public_url:
            return (deny,)
        return (Choice(label="Approve on the console", url=f"{self._public_url}/console/runs/{run.id}"), deny)


def words_of(question: Question) -> str:
    """A question in Markdown: which call it is about, with the arguments that will be used."""
    arguments = question.arguments
    shown = (
        arguments
        if len(arguments) <= ARGUMENTS
        else f"{arguments[:ARGUMENTS]} … (see the console for all of it)"
    )
    why = (
        "may I call"
        if question.reason == "approval"
        else "it is not known whether this has run; shall I call"
    )
    return f"**{why.capitalize()} `{question.tool}`?**\n\n```\n{shown.replace('```', '` ` `')}\n```"


async def clicked(engine: Engine, principal: Principal, click: Click) -> str:
    """Take a click for an answer, if the person may give it; what they are told, in a few words.

    The run must be of the conversation that the click came from, and its question one that this very person's message
    led to: in a group, others can't agree for them.
    """
    answer, _, rest = click.value.partition(":")
    run_id, _, digest = rest.partition(":")
    if answer not in ("yes", "no") or len(digest) != SHOWN:
        return "This button means nothing here."
    try:
        run = await engine.run(principal, run_id)
        if run.metadata.get("sender") != click.event.sender:
            return "Only the person who asked can answer this."
        question = next((asked for asked in run.questions if asked.hash.startswith(digest)), None)
        if question is None:
            return "This is not asked any more."
        decide = engine.approve if answer == "yes" else engine.deny
        await decide(principal, run_id, question.hash)
    except NotFoundError:
        return "Only the person who asked can answer this."
    except StepUpError:
        return "This needs your second factor: approve it on the console."
    except ConflictError:
        return "This was answered before, or it is too late."
    return "Approved." if answer == "yes" else "Denied."
