"""The pages by address: chat, conversations, runs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import msgspec
from flask import Blueprint, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from agent_core.console.bridge import READ_SECONDS, EngineBridge
from agent_core.console.languages import say
from agent_core.console.views import Item, failed_runs, items, so_far, tool_item
from agent_core.engine.runs import Inbound, Run, Session, Step
from agent_core.errors import (
    AgentError,
    ConflictError,
    InputError,
    NotFoundError,
    RunningError,
    StepUpError,
)
from agent_core.messages import Message, Principal
from agent_core.security.stepup import StepUp
from agent_core.security.visitor import Caller
from agent_core.settings import Settings

ANSWER_SECONDS = 25.0
"""How long a form waits for its answer before it shows a page that looks again; API gateways give up after 29."""

MESSAGES_PER_PAGE = 100
LIST_LENGTH = 30

_SESSION_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_KEY = re.compile(r"[!#-\[\]-~]{1,255}")

Page = str | Response | tuple[str, int]


@dataclass(frozen=True)
class Draft:
    """A message that is not sent yet: for which agent, its text, and why sending it did not work."""

    agent: str = ""
    text: str = ""
    error: AgentError | None = None


NO_DRAFT = Draft()


def make_pages(bridge: EngineBridge, settings: Settings, stepup: StepUp | None = None) -> Blueprint:
    """All pages, as a blueprint."""
    pages = Blueprint("pages", __name__)
    console = Console(bridge, settings, stepup)
    pages.add_url_rule("/", "home", console.home)
    pages.add_url_rule("/chat", "new_chat", console.new_chat)
    pages.add_url_rule("/chat/<session_id>", "chat", console.chat)
    pages.add_url_rule("/chat/<session_id>", "send", console.send, methods=["POST"])
    pages.add_url_rule("/chat/<session_id>/since/<int:seq>", "since", console.since)
    pages.add_url_rule("/sessions", "sessions", console.sessions)
    pages.add_url_rule("/runs", "runs", console.runs)
    pages.add_url_rule("/runs/<run_id>", "run", console.run)
    pages.add_url_rule("/runs/<run_id>/decide", "decide", console.decide, methods=["POST"])
    return pages


class Console:
    """What each page shows. Runs in threads; all that is stored is reached through the bridge."""

    def __init__(self, bridge: EngineBridge, settings: Settings, stepup: StepUp | None) -> None:
        self._bridge = bridge
        self._stepup = stepup
        self._engine = bridge.engine
        self._settings = settings

    # Chat

    def home(self) -> Page:
        """The chat is the front page."""
        return redirect(url_for("pages.new_chat"), 303)

    def new_chat(self) -> Page:
        """An empty conversation under a fresh id."""
        return self._chat_page(self._bridge.clock.new_id(), draft=Draft(request.args.get("agent", "")))

    def chat(self, session_id: str) -> Page:
        """A conversation, its latest messages. `run` in the address is a run that had not ended yet."""
        before = request.args.get("before", 0, type=int)
        run = self._run_if_any(request.args.get("run", ""))
        return self._chat_page(_checked(session_id), self._session(session_id), before=before, run=run)

    def send(self, session_id: str) -> Page:
        """A message by form: waits for the answer, then shows the conversation. Sent twice, it is answered once."""
        text = request.form.get("text", "").strip()
        try:
            inbound = self._inbound(_checked(session_id), text)
            work = self._engine.answer(inbound, wait_seconds=ANSWER_SECONDS)
            run = self._bridge.run(work, ANSWER_SECONDS + READ_SECONDS)
            run_id = None if run.done else run.id
        except RunningError as error:
            run_id = error.run_id
        except AgentError as error:
            draft = Draft(request.form.get("agent", ""), text, error)
            return self._chat_page(session_id, self._session_if_any(session_id), draft=draft), error.status
        return redirect(url_for("pages.chat", session_id=session_id, run=run_id, _anchor="latest"), 303)

    def since(self, session_id: str, seq: int) -> Page:
        """The messages after the given one, without a page around them: what the script puts under a conversation."""
        page = self._bridge.run(
            self._engine.session(_principal(), _checked(session_id), after=seq, limit=1000)
        )
        return render_template(
            "items.html",
            items=self._items(page.messages),
            last=page.messages[-1].seq if page.messages else seq,
        )

    def _inbound(self, session_id: str, text: str) -> Inbound:
        if not text:
            raise InputError(say(g.language, "empty_message"), field="text")
        agent, key = request.form.get("agent", ""), request.form.get("key", "")
        asked = msgspec.json.encode([session_id, agent, text])
        return Inbound(
            messages=(Message.of("user", text, data_class=self._settings.data_class),),
            principal=_principal(),
            agent=agent,
            session_id=session_id,
            key=key if _KEY.fullmatch(key) else "",
            fingerprint=hashlib.sha256(asked).hexdigest(),
        )

    def _chat_page(
        self,
        session_id: str,
        session: Session | None = None,
        *,
        before: int = 0,
        run: Run | None = None,
        draft: Draft = NO_DRAFT,
    ) -> str:
        messages, earlier = self._messages(session, before) if session else ((), 0)
        agents = self._engine.agents
        asked = draft.agent if draft.agent in agents else self._engine.default_agent
        chosen = (session.agent if session else "") or asked
        under_way = run is not None and not run.done and run.status != "waiting"
        return render_template(
            "chat.html",
            session=session,
            session_id=session_id,
            items=self._items(messages),
            last=messages[-1].seq if messages else 0,
            earlier=earlier,
            run=run,
            working=not before and (under_way or (session is not None and session.busy)),
            agents=list(agents.values()),
            agent=agents.get(chosen),
            chosen=chosen,
            key=self._bridge.clock.new_id(),
            api=request.script_root.removesuffix("/console") + "/api/v1/agent",
            draft=draft,
        )

    def _session(self, session_id: str) -> Session:
        page = self._bridge.run(self._engine.session(_principal(), _checked(session_id), limit=1))
        return page.session

    def _session_if_any(self, session_id: str) -> Session | None:
        try:
            return self._session(session_id)
        except NotFoundError:
            return None

    def _run_if_any(self, run_id: str) -> Run | None:
        try:
            return self._bridge.run(self._engine.run(_principal(), run_id)) if run_id else None
        except NotFoundError:
            return None

    def _messages(self, session: Session, before: int) -> tuple[tuple[Message, ...], int]:
        """A page of messages up to `before` (0: the latest), and the seq from which earlier ones are to be had."""
        end = min(before - 1, session.messages) if before > 0 else session.messages
        start = max(0, end - MESSAGES_PER_PAGE)
        if end <= start:
            return (), 0
        work = self._engine.session(_principal(), session.id, after=start, limit=end - start)
        return self._bridge.run(work).messages, start + 1 if start else 0

    def _items(self, messages: tuple[Message, ...]) -> list[Item]:
        failed: dict[str, Run] = {}
        for run_id in failed_runs(messages):
            run = self._run_if_any(run_id)
            if run is not None:  # runs are not kept for ever, messages are
                failed[run_id] = run
        return items(messages, failed)

    # Lists

    def sessions(self) -> Page:
        """Conversations, newest first."""
        before = request.args.get("before", "")
        found = self._bridge.run(self._engine.sessions(_principal(), limit=LIST_LENGTH, before=before))
        following = found[-1].id if len(found) == LIST_LENGTH else ""
        return render_template("sessions.html", sessions=found, following=following, first=not before)

    def runs(self) -> Page:
        """Runs, newest first."""
        before = request.args.get("before", "")
        found = self._bridge.run(self._engine.runs(_principal(), limit=LIST_LENGTH, before=before))
        following = found[-1].id if len(found) == LIST_LENGTH else ""
        return render_template("runs.html", runs=found, following=following, first=not before)

    def run(self, run_id: str, error: AgentError | None = None) -> Page:
        """One run with its steps, and what it asks a person; and why an answer to that did not count."""
        oversees = g.caller.oversees
        run = self._bridge.run(self._engine.run(_principal(), run_id, oversees=oversees))
        steps = self._bridge.run(self._engine.steps(_principal(), run_id, oversees=oversees))
        if not run.done:
            run = so_far(run, steps)
        now = self._bridge.clock.now()
        asked = [question for question in run.questions if question.open_at(now) and not run.done]
        passkeys = (
            self._bridge.run(self._stepup.passkeys.list(_principal()))
            if self._stepup is not None and any(question.stepup for question in asked)
            else []
        )
        page = render_template(
            "run.html",
            run=run,
            mine=run.principal.user == _principal().user,
            steps=[_step_view(step) for step in steps],
            questions=asked,
            error=error,
            passkeys=passkeys,
        )
        return (page, error.status) if error else page

    def decide(self, run_id: str) -> Page:
        """A person's yes or no to what a run asks; then the conversation, where the run goes on, if it is theirs."""
        decision = request.form.get("decision", "")
        if decision not in ("approve", "deny"):
            abort(400)
        who, digest = _principal(), request.form.get("hash", "")
        answer = (
            self._engine.approve(
                who,
                run_id,
                digest,
                code=request.form.get("code", "")[:20_000],
                oversees=g.caller.oversees,
            )
            if decision == "approve"
            else self._engine.deny(who, run_id, digest, oversees=g.caller.oversees)
        )
        try:
            run = self._bridge.run(answer)
        except (StepUpError, ConflictError) as error:
            return self.run(run_id, error)
        if run.principal.user != who.user:  # the conversation is theirs alone
            return redirect(url_for("pages.run", run_id=run.id), 303)
        page = url_for("pages.chat", session_id=run.session_id, run=run.id, _anchor="latest")
        return redirect(page, 303)


def _step_view(step: Step) -> dict[str, Any]:
    if step.kind == "tool":
        state = "running" if step.result is None else "failed" if step.result.error else "done"
        return {
            "step": step,
            "state": state,
            "tools": [tool_item(step.call, step.result)] if step.call else [],
        }
    calls = step.reply.message.tool_calls if step.reply else ()
    text = step.reply.message.text if step.reply else ""
    return {"step": step, "text": text, "tools": [tool_item(call, None) for call in calls]}


def _checked(session_id: str) -> str:
    if not _SESSION_ID.fullmatch(session_id):
        abort(404)
    return session_id


def _principal() -> Principal:
    """Who looks at the pages, as the door knew them."""
    caller: Caller = g.caller
    return caller.principal
