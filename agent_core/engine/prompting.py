"""The prompt of each step: cut where it would not fit its model's window, and each cut remembered with its step."""

from __future__ import annotations

import logging

import msgspec

from agent_core.agent import Agent
from agent_core.engine import fitting, trust, window
from agent_core.engine.attempt import Attempt
from agent_core.engine.compaction import summary_message
from agent_core.engine.fitting import READ, SPEC, Room, Story
from agent_core.engine.runs import Fitted, Step
from agent_core.engine.steps import DIGEST, linked
from agent_core.engine.summaries import bite, room, summarise
from agent_core.errors import ContextLengthError, ModelError, ModelRefusedError
from agent_core.messages import Message, Prompt, Reply
from agent_core.models.base import Model
from agent_core.models.length import stated

log = logging.getLogger("sampan.engine")


class Prompts:
    """Makes the prompts of one attempt at a run.

    `fitted` says how the last one was cut, `ratio` how many of the provider's tokens one of ours is: both come from
    what is journaled, so they are the same whenever the run is taken up again.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._story: Story | None = None
        self._room: Room | None = None
        self._taken = 0
        self.fitted: Fitted | None = None
        self.ratio = 1.0

    async def prompt(self) -> Prompt:
        """The next prompt. Raises ContextLengthError where nothing more can give way."""
        model, inbound = self._attempt.bound.model, self._attempt.inbound
        assert model is not None
        if inbound.tools and not model.tools:
            raise ModelRefusedError(f"the model {model.name} has no tool use; choose another by MODEL_NAME")
        story, measure = await self._told(), self._measure()
        fitted = self.fitted
        if fitted is None:
            fitted = Fitted(reading=self._readable(story))
            limit = measure.limit(0, self.ratio)
            fitted = fitting.first(story, fitted, limit)
        elif not fitted.reading and self._readable(story):
            fitted = msgspec.structs.replace(fitted, reading=True)
        limit = measure.limit(fitted.limit, self.ratio)
        if not fitting.fits(story, fitted, limit):
            fitted = await self._cut(story, fitted, limit)
        messages = fitting.shown(story, fitted)
        size = measure.fixed + fitting.size_of(messages)
        self.fitted = msgspec.structs.replace(fitted, size=size)
        return await self._made(messages)

    def learn(self, error: ModelRefusedError) -> None:
        """Take it from a refusal that the model takes less: the next prompt is shorter."""
        assert self.fitted is not None
        assert self._room is not None
        tried = int(self.fitted.size * self.ratio) + self._room.reserve
        least = min(stated(error.detail) or tried, tried)
        self.fitted = msgspec.structs.replace(self.fitted, limit=max(least * 7 // 10, 1))

    def answered(self, reply: Reply) -> None:
        """What the provider counted tells how far our count is off."""
        self.ratio = fitting.corrected(self.ratio, self.fitted, reply.usage.input)

    async def resume(self, step: Step) -> None:
        """Go on from a step that is stored."""
        if step.fitted is None or step.reply is None:
            return
        story = await self._told()
        with self._attempt.aside():
            for place in range(self._attempt.places[DIGEST], step.fitted.summaries):
                stored = self._attempt.recall(DIGEST, self._input(place))
                if stored is not None and stored.reply is not None and stored.fitted is not None:
                    self._digested(story, stored.fitted.covered, stored.reply)
        self.fitted = step.fitted
        self.answered(step.reply)

    async def _told(self) -> Story:
        """All there is to tell, with what came since the last time; parts kept elsewhere are read once."""
        attempt = self._attempt
        if self._story is None:
            older = [m for m in attempt.history if m.seq > attempt.covered and not m.hidden]
            inbound = len(attempt.inbound.messages)
            split, start = fitting.divided(older, attempt.messages, inbound)
            before = await self._inlined([*older[:split], *attempt.messages[:start]])
            summary = summary_message(attempt.summary, attempt.summary_sources)
            self._story = Story(summary, before)
            self._story.take(await self._inlined(older[split:]))
            self._taken = start
        new = attempt.messages[self._taken :]
        self._taken += len(new)
        self._story.take(await self._inlined(new))
        return self._story

    async def _inlined(self, messages: list[Message]) -> tuple[Message, ...]:
        return await window.inline(messages, self._attempt.blobs, self._attempt.run.principal.tenant)

    def _measure(self) -> Room:
        if self._room is None:
            self._room = fitting.room_of(self._attempt.bound, self._attempt.inbound)
        return self._room

    def _readable(self, story: Story) -> bool:
        """Whether there is something to read on in, with a tool of ours."""
        if not self._may_read():
            return False
        older = (result for message in story.older for result in message.tool_results)
        latest = story.run[story.last_step :]
        return any(result.ref for result in older) or any(
            r.ref for message in latest for r in message.tool_results
        )

    def _may_read(self) -> bool:
        attempt = self._attempt
        names = {spec.name for spec in (*attempt.bound.toolbox.specs, *attempt.inbound.tools)}
        return bool(attempt.bound.model and attempt.bound.model.tools) and bool(names) and READ not in names

    async def _cut(self, story: Story, fitted: Fitted, limit: int) -> Fitted:
        """The prompt cut; results first, which costs nothing, then by a summary of the run's older steps."""
        reading = fitted.reading or self._may_read()
        fitted = fitting.cut(story, msgspec.structs.replace(fitted, reading=reading), limit)
        enough = fitting.fits(story, fitted, limit)
        if enough and fitting.fits(story, fitted, limit * 3 // 4):
            return fitted
        upto = fitting.boundary(story, fitted, limit, self._longest())
        if any(m.role not in ("user", "system") for m in story.run[fitted.covered : upto]):
            try:
                with self._attempt.aside():
                    fitted = await self._summarised(story, fitted, upto)
            except ModelError as error:
                if not error.retryable or not enough:
                    raise
                log.warning("run=<%s> | not summarised this time: %s", self._attempt.run.id, error)
        if not fitting.fits(story, fitted, limit):
            over = fitting.size_of(fitting.shown(story, fitted)) - limit
            raise ContextLengthError(
                f"what can't give way (the user's words, instructions, tools) is about {over} tokens too long for "
                "the model's window"
            )
        return fitted

    async def _summarised(self, story: Story, fitted: Fitted, upto: int) -> Fitted:
        """The run's older part in a summary, made in bites that fit its model's window."""
        attempt = self._attempt
        model = attempt.bound.summarizer or attempt.bound.model
        assert model is not None
        while fitted.covered < upto:
            place = attempt.places[DIGEST]
            stored = attempt.recall(DIGEST, self._input(place))
            if stored is not None and stored.reply is not None and stored.fitted is not None:
                reply, covered = stored.reply, stored.fitted.covered
            else:
                covered = fitted.covered + self._bite(story, fitted.covered, upto, model)
                before = "\n".join(message.text for message in story.digest)
                reply = await summarise(
                    attempt,
                    model,
                    before,
                    story.run[fitted.covered : covered],
                    fitted=Fitted(covered=covered),
                )
            self._digested(story, covered, reply)
            fitted = msgspec.structs.replace(fitted, covered=covered, summaries=place + 1)
        return fitted

    def _bite(self, story: Story, covered: int, upto: int, model: Model) -> int:
        """How many further messages the next summary covers: up to a boundary."""
        count = bite(story.run[covered:upto], room(model))
        while covered + count < upto and story.run[covered + count].role == "tool":
            count += 1  # its call goes with it; what is too long of it is left out
        return count

    def _longest(self) -> int:
        """How long a summary of the run may be: the same whenever it is read again."""
        return fitting.summary_tokens(self._measure().limit())

    def _input(self, place: int) -> str:
        return linked(self._attempt.chain, DIGEST, str(place))

    def _digested(self, story: Story, covered: int, reply: Reply) -> None:
        """Have the reply stand for the run up to there; it is as trustworthy as what it was made from."""
        told = (*story.digest, *story.run[:covered])
        sources = tuple(dict.fromkeys(source for message in told for source in trust.sources(message)))
        text = window.beginning(reply.message.text, self._longest())
        story.digest = (Message.of("user", f"{fitting.DONE}\n{text}", untrusted=sources),)

    async def _made(self, messages: list[Message]) -> Prompt:
        attempt, measure = self._attempt, self._measure()
        agent, model, inbound = attempt.bound.agent, attempt.bound.model, attempt.inbound
        assert isinstance(agent, Agent)
        assert model is not None
        assert self.fitted is not None
        asked = inbound.max_tokens or agent.max_tokens
        specs = (*attempt.bound.toolbox.specs, *inbound.tools, *((SPEC,) if self.fitted.reading else ()))
        return Prompt(
            system=agent.instructions,
            messages=tuple(messages),
            tools=specs if model.tools else (),
            tool_choice=inbound.tool_choice,
            output_schema=inbound.output_schema or attempt.bound.output_schema,
            max_tokens=min(asked, measure.reserve) if asked else None,
            temperature=agent.temperature if inbound.temperature is None else inbound.temperature,
        )
