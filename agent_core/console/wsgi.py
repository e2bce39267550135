"""The pages as a WSGI app: behind a2wsgi in the HTTP surface, behind an adapter of events on Lambda."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from agent_core.console import views
from agent_core.console.bridge import EngineBridge
from agent_core.console.entry import Entry
from agent_core.console.factors import FactorPages
from agent_core.console.languages import DEFAULT, LANGUAGES, TAGS, choose, say
from agent_core.console.pages import make_pages
from agent_core.console.security import HEADERS, from_our_pages
from agent_core.errors import AgentError
from agent_core.security.door import Door
from agent_core.settings import Settings

COOKIE = "sampan_language"
YEAR = 365 * 86_400
STATIC = Path(__file__).with_name("static")


def build(bridge: EngineBridge, settings: Settings, door: Door | None = None) -> Flask:
    """The WSGI app. It has no state of its own; everything comes from the engine behind the bridge.

    Without a `door` whoever looks is the owner, as in the API.
    """
    app = Flask("agent_core.console", root_path=str(Path(__file__).parent))
    app.config.update(
        MAX_CONTENT_LENGTH=settings.max_body_bytes,
        MAX_FORM_MEMORY_SIZE=settings.max_body_bytes,
        SEND_FILE_MAX_AGE_DEFAULT=YEAR,  # the names of static files change with their content
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for shown in (views.money, views.moment, views.iso, views.seconds, views.indented):
        app.jinja_env.filters[shown.__name__] = shown
    entry = Entry(bridge, settings, door)
    app.before_request(_begin)
    app.before_request(entry.check)
    app.after_request(_finish)
    app.context_processor(_common)
    app.register_error_handler(AgentError, _failed)
    app.register_error_handler(HTTPException, _refused)
    app.register_blueprint(make_pages(bridge, settings, door.stepup if door else None))
    app.register_blueprint(FactorPages(bridge, settings, door).blueprint())
    app.register_blueprint(entry.blueprint())
    return app


def _begin() -> tuple[str, int] | None:
    g.language = choose(
        request.args.get("lang"), request.cookies.get(COOKIE), request.headers.get("Accept-Language")
    )
    if request.method not in ("GET", "HEAD", "OPTIONS") and not from_our_pages(dict(request.headers)):
        return _page("problem_forbidden", 403, _say("forbidden")), 403
    return None


def _finish(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers[name] = value
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
        response.headers["Vary"] = "Accept-Language, Cookie"
    if request.args.get("lang") in LANGUAGES:
        response.set_cookie(
            COOKIE,
            g.language,
            max_age=YEAR,
            path=request.script_root or "/",
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )
    return response


def _common() -> dict[str, Any]:
    """What every template may use."""
    return {
        "t": _say,
        "language": _language(),
        "language_tag": TAGS[_language()],
        "languages": LANGUAGES,
        "language_url": _language_url,
        "static_url": _static_url,
        "csrf": g.get("csrf", ""),
        "caller": g.get("caller"),
    }


def _language() -> str:
    language: str = g.get("language", DEFAULT)
    return language


def _say(key: str, **values: object) -> str:
    return say(_language(), key, **values)


def _language_url(language: str) -> str:
    """This page in another language. A page that answers a form has no address of its own, but its form has."""
    if request.endpoint is None:
        return url_for("pages.new_chat", lang=language)
    kept = {name: value for name, value in request.args.items() if name != "lang"}
    return url_for(request.endpoint, **{**(request.view_args or {}), **kept, "lang": language})


def _static_url(name: str) -> str:
    """A static file under a name that changes with its content, so that browsers may keep it."""
    return url_for("static", filename=name, v=_digest(name))


@cache
def _digest(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def _failed(error: AgentError) -> tuple[str, int]:
    known = {
        403: "problem_forbidden_for_you",
        404: "problem_not_found",
        429: "problem_too_many",
        504: "problem_slow",
    }
    return _page(known.get(error.status, "problem"), error.status, error.detail), error.status


def _refused(error: HTTPException) -> tuple[str, int]:
    status = error.code or 500
    known = {404: "problem_not_found", 413: "problem_too_large"}
    return _page(known.get(status, "problem"), status), status


def _page(key: str, status: int, detail: str = "") -> str:
    return render_template("problem.html", title=_say(key), status=status, detail=detail)
