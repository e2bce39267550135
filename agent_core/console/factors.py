"""The second factors of whoever looks at the pages: which there are, a new passkey, one less."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from agent_core.console.bridge import EngineBridge
from agent_core.errors import AgentError, NotFoundError
from agent_core.security.door import Door
from agent_core.security.passkeys import Site
from agent_core.security.stepup import StepUp
from agent_core.security.visitor import Caller, host_of, is_local
from agent_core.settings import Settings

SUBJECT = "changing your second factors"
"""What somebody with a factor agrees to with it, before there is another, or one less."""

Page = str | Response | tuple[str, int]


class FactorPages:
    """Passkeys are made and used in a browser alone; codes of authenticator apps anywhere."""

    def __init__(self, bridge: EngineBridge, settings: Settings, door: Door | None) -> None:
        self._bridge = bridge
        self._settings = settings
        self._door = door

    def blueprint(self) -> Blueprint:
        """All of them."""
        pages = Blueprint("factors", __name__)
        pages.add_url_rule("/factors", "show", self.show)
        pages.add_url_rule("/factors/begin", "begin", self.begin, methods=["POST"])
        pages.add_url_rule("/factors/ask", "ask", self.ask, methods=["POST"])
        pages.add_url_rule("/factors/add", "add", self.add, methods=["POST"])
        pages.add_url_rule("/factors/remove", "remove", self.remove, methods=["POST"])
        return pages

    def show(self, error: AgentError | None = None) -> Page:
        """The list, and the way to a new one."""
        who = _caller().principal
        passkeys = self._bridge.run(self._stepup.passkeys.list(who))
        app = self._bridge.run(self._stepup.factors.has(who))
        page = render_template(
            "factors.html",
            passkeys=passkeys,
            app=app,
            asked=app or bool(passkeys),
            subject=SUBJECT,
            error=error,
        )
        return (page, error.status) if error else page

    def begin(self) -> dict[str, Any]:
        """What the browser is told to make a passkey."""
        return self._bridge.run(self._stepup.passkeys.begin(_caller().principal, self._site()))

    def ask(self) -> dict[str, Any]:
        """What the browser is told to have something signed: a question of a run by its hash, or a change here."""
        subject = request.form.get("subject", "")[:200]
        return self._bridge.run(self._stepup.passkeys.ask(_caller().principal, self._site(), subject))

    def add(self) -> Page:
        """Keep the passkey that the browser made."""
        form = request.form
        try:
            if self._bridge.run(self._stepup.has(_caller().principal)):  # the first one takes a login alone
                self._check()
            made = form.get("credential", "")
            work = self._stepup.passkeys.register(_caller().principal, made, form.get("name", ""))
            self._bridge.run(work)
        except AgentError as error:
            return self.show(error)
        return redirect(url_for("factors.show"), 303)

    def remove(self) -> Page:
        """Take a passkey away."""
        try:
            self._check()
            work = self._stepup.passkeys.remove(_caller().principal, request.form.get("passkey", ""))
            self._bridge.run(work)
        except AgentError as error:
            return self.show(error)
        return redirect(url_for("factors.show"), 303)

    def _check(self) -> None:
        """Who has a factor shows it: else a login left open would be enough to get one of one's own."""
        self._bridge.run(self._stepup.check(_caller(), request.form.get("code", ""), SUBJECT))

    @property
    def _stepup(self) -> StepUp:
        if self._door is None:
            raise NotFoundError("nobody is asked for a second factor here")
        return self._door.stepup

    def _site(self) -> Site:
        """Where this browser sees us. A passkey of another place is of no use here, and the other way round."""
        if self._settings.public_url:
            return Site.of(self._settings.public_url)
        scheme = "http" if is_local(host_of(request.host)) else "https"
        return Site.of(f"{scheme}://{request.host}")


def _caller() -> Caller:
    caller: Caller = g.caller
    return caller
