"""Who looks at the pages: the login, by key or by an OpenID issuer, and what every request is checked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from agent_core.console.bridge import EngineBridge
from agent_core.console.languages import say
from agent_core.errors import AgentError, NotFoundError, ScopeError, UnknownCallerError
from agent_core.security import scopes
from agent_core.security.door import Door
from agent_core.security.logins import (
    CSRF_HEADER,
    LIFE_SECONDS,
    attempt_name,
    cookie_name,
    cookie_of,
    csrf_token,
    csrf_valid,
    random_token,
)
from agent_core.security.visitor import NOBODY, OWNER, Visitor, is_local
from agent_core.settings import Settings

ATTEMPT_SECONDS = 600
"""How long a login by the issuer's page may take."""

WRITES = {
    "pages.send": scopes.RUN,
    "pages.decide": scopes.DECIDE,
    "factors.begin": scopes.DECIDE,
    "factors.ask": scopes.DECIDE,
    "factors.add": scopes.DECIDE,
    "factors.remove": scopes.DECIDE,
}
"""What who sends a form must be allowed; all other pages read."""

Page = str | Response | tuple[str, int]


def current_visitor() -> Visitor:
    """The request as the door sees it. Changes are checked by the token in the form, not in a header."""
    event = request.environ.get("serverless.event") or {}
    context: Any = event.get("requestContext", {}).get("authorizer") or {}
    return Visitor(
        headers={name.lower(): value for name, value in request.headers.items()},
        address=request.remote_addr or "",
        gateway=context if isinstance(context, dict) else {},
    )


class Entry:
    """Lets people in to the pages. Without a door whoever looks is the owner."""

    def __init__(self, bridge: EngineBridge, settings: Settings, door: Door | None) -> None:
        self._bridge = bridge
        self._settings = settings
        self._door = door

    @property
    def by_issuer(self) -> bool:
        """Whether there is an issuer whose page can be logged in at."""
        return (
            self._door is not None and self._door.issuer is not None and bool(self._settings.openid_client_id)
        )

    def blueprint(self) -> Blueprint:
        """The pages of the login."""
        pages = Blueprint("entry", __name__)
        pages.add_url_rule("/login", "login", self.login)
        pages.add_url_rule("/login", "enter", self.enter, methods=["POST"])
        pages.add_url_rule("/login/openid", "openid", self.openid)
        pages.add_url_rule("/login/openid/back", "back", self.back)
        pages.add_url_rule("/logout", "leave", self.leave, methods=["POST"])
        return pages

    def check(self) -> Page | None:
        """Before every request: who it is (`g.caller`), and whether they may. Gives a page instead where not."""
        g.caller, g.csrf = OWNER, ""
        if self._door is None:
            return None
        endpoint = request.endpoint or ""
        visitor = current_visitor()
        if endpoint in ("", "static"):
            g.caller = NOBODY
            return None
        try:
            g.caller = self._bridge.run(self._door.authenticate(visitor))
        except UnknownCallerError as error:
            g.caller = NOBODY
            if endpoint.startswith("entry."):
                return None
            return self._to_login(error)
        token = cookie_of(visitor)
        by_cookie = bool(token) and not g.caller.owner and not visitor.credential
        g.csrf = csrf_token(token) if by_cookie else ""
        if request.method == "POST" and by_cookie and endpoint != "entry.enter":
            shown = request.form.get("csrf", "") or request.headers.get(CSRF_HEADER, "")
            if not csrf_valid(token, shown):
                raise ScopeError(say(g.language, "forgery"), scope="csrf")
        if endpoint in WRITES:
            self._bridge.run(self._door.again(g.caller, WRITES[endpoint]))
        elif not endpoint.startswith("entry."):
            g.caller.check(scopes.READ)
        return None

    def login(self) -> Page:
        """The form for a key, and the way to the issuer's page."""
        if g.caller is not NOBODY:
            return redirect(self._next(request.args.get("next", "")), 303)
        lost = "sent" in request.args  # we set a cookie a moment ago, and it did not come back
        return self._form(say(g.language, "cookie_lost") if lost else "")

    def enter(self) -> Page:
        """A key by form: the right one begins a login."""
        door = self._opened()
        text = request.form.get("key", "").strip()
        key = self._bridge.run(door.keys.find(text))
        if key is None:
            return self._form(say(g.language, "key_wrong")), 401
        token = self._bridge.run(door.logins.begin(key.principal, key))
        return self._welcome(token, request.form.get("next", ""))

    def openid(self) -> Page:
        """On to the issuer's page, with a secret of this attempt in a cookie."""
        issuer = self._opened().issuer if self.by_issuer else None
        if issuer is None:
            raise NotFoundError("no issuer is set up")
        secret = random_token()
        url = self._bridge.run(issuer.login_url(secret=secret, redirect_uri=self._back_url()))
        answer = redirect(url, 303)
        self._set(answer, attempt_name(self._host), secret, ATTEMPT_SECONDS)
        return answer

    def back(self) -> Page:
        """Back from the issuer's page, with a code that tells who it is."""
        door = self._opened()
        if door.issuer is None:
            raise NotFoundError("no issuer is set up")
        secret = current_visitor().cookie(attempt_name(self._host))
        code, state = request.args.get("code", ""), request.args.get("state", "")
        try:
            if not code:
                raise UnknownCallerError(f"the issuer says: {request.args.get('error', 'nothing')[:100]}")
            work = door.issuer.logged_in(code, state, secret=secret, redirect_uri=self._back_url())
            principal = self._bridge.run(work, 20.0)
        except AgentError as error:
            return self._form(f"{say(g.language, 'issuer_refused')} {error.detail}"), error.status
        answer = self._welcome(self._bridge.run(door.logins.begin(principal)), "")
        self._set(answer, attempt_name(self._host), "", 0)
        return answer

    def leave(self) -> Page:
        """Log out."""
        token = cookie_of(current_visitor())
        if token:
            self._bridge.run(self._opened().logins.end(token))
        answer = redirect(url_for("entry.login"), 303)
        self._set(answer, cookie_name(self._host), "", 0)
        return answer

    # Parts

    @property
    def _host(self) -> str:
        return current_visitor().host

    def _opened(self) -> Door:
        if self._door is None:
            raise NotFoundError("nobody is asked for a key here")
        return self._door

    def _to_login(self, error: UnknownCallerError) -> Page:
        if request.method in ("GET", "HEAD"):
            path = request.full_path.removesuffix("?")
            return redirect(f"{url_for('entry.login')}?{urlencode({'next': path})}", 303)
        return self._form(say(g.language, "login_again")), 401

    def _form(self, error: str) -> str:
        following = request.values.get("next", "")
        return render_template("login.html", error=error, next=following, by_issuer=self.by_issuer)

    def _welcome(self, token: str, following: str) -> Response:
        """Set the cookie, and see at the login whether the browser kept it."""
        query = urlencode({"sent": "1", "next": following})
        answer = redirect(f"{url_for('entry.login')}?{query}", 303)
        self._set(answer, cookie_name(self._host), token, int(LIFE_SECONDS))
        return answer

    def _next(self, path: str) -> str:
        """A page of ours; anything else a stranger may have put there."""
        ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
        return request.script_root + path if ours else url_for("pages.new_chat")

    def _set(self, answer: Response, name: str, value: str, seconds: int) -> None:
        """A cookie for this host alone, that no script reads. Plain http is for one's own machine."""
        secure = not is_local(self._host)
        answer.set_cookie(
            name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="Lax"
        )

    def _back_url(self) -> str:
        """Where the issuer sends people back to: it knows that address already, and takes no other."""
        base = self._settings.public_url.rstrip("/")
        scheme = "http" if is_local(self._host) else "https"
        prefix = request.script_root.removesuffix("/console")
        return f"{base or f'{scheme}://{request.host}{prefix}'}/console/login/openid/back"
