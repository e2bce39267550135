"""The console's login: by key, by issuer; what its cookie is; forms of others; scopes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from agent_core import Agent, Principal
from agent_core.app import App, build_app
from agent_core.console.bridge import EngineBridge
from agent_core.console.wsgi import build
from agent_core.models.scripted import ScriptedModel
from agent_core.security.keys import CACHE_SECONDS
from agent_core.security.logins import LIFE_SECONDS
from agent_core.settings import Settings
from agent_core.testing import ManualClock
from tests.agent_core.security.issuer import CLIENT, SECRET, Issuer, running

HOST = "agents.example.com"


class House:
    """The pages of a service that asks everybody."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **settings: Any) -> None:
        self.clock = ManualClock()
        self.app: App = build_app(
            Settings.from_env({}, store="memory", auth="on", **settings),
            agents=[Agent(name="assistant", model=ScriptedModel(["Hello."] * 20))],
            clock=self.clock,
        )
        self.bridge = EngineBridge(self.app.engine, loop, self.clock)
        self.flask = build(self.bridge, self.app.settings, self.app.door)

    def key(self, *scopes: str, **options: Any) -> str:
        principal = Principal(user="ada", scopes=scopes)
        return self.bridge.run(self.app.door.keys.create(principal=principal, **options))[1]

    def visit(self, host: str = HOST) -> Visit:
        return Visit(self.flask.test_client(), host)


class Visit:
    """A browser at this host."""

    def __init__(self, client: FlaskClient, host: str) -> None:
        self.client = client
        scheme = "http" if host.startswith("localhost") else "https"
        self.where = {"base_url": f"{scheme}://{host}", "environ_base": {"REMOTE_ADDR": "203.0.113.7"}}

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, **self.where, **options)

    def post(self, path: str, data: dict[str, str], **headers: str) -> TestResponse:
        return self.client.post(path, data=data, headers=headers, **self.where)

    def log_in(self, key: str, following: str = "") -> TestResponse:
        return self.post("/login", {"key": key, "next": following})

    def csrf(self, path: str = "/chat") -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(path).text)
        assert found
        return found[1]


@pytest.fixture
def house(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**settings: Any) -> House:
        made.append(House(loop, **settings))
        return made[-1]

    yield make
    for each in made:
        each.bridge.run(each.app.close())


def test_a_stranger_sees_the_login_and_nothing_else(house: Callable[..., House]) -> None:
    here = house()
    visit = here.visit()
    for rule in here.flask.url_map.iter_rules():
        if not rule.endpoint.startswith("pages."):
            continue
        path = re.sub(r"<int:\w+>", "0", rule.rule)
        path = re.sub(r"<\w+>", "x", path)
        if "GET" in (rule.methods or ()):
            answer = visit.get(f"{path}?a=1")
            assert answer.status_code == 303
            assert parse_qs(urlsplit(answer.headers["Location"]).query)["next"] == [f"{path}?a=1"]
        if "POST" in (rule.methods or ()):
            answer = visit.post(path, {"text": "Hi", "decision": "approve"})
            assert answer.status_code == 401
            assert 'name="key"' in answer.text
    page = visit.get("/login")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    with visit.get("/static/style.css") as sheet:
        assert sheet.status_code == 200


def test_the_right_key_opens_and_the_cookie_is_safe(house: Callable[..., House]) -> None:
    here = house()
    visit = here.visit()
    wrong = visit.log_in("sampan_wrong")
    assert (wrong.status_code, "not good" in wrong.text) == (401, True)
    assert not wrong.headers.getlist("Set-Cookie")
    answer = visit.log_in(here.key(), "/runs?before=")
    assert answer.status_code == 303
    [cookie] = answer.headers.getlist("Set-Cookie")
    name, *flags = [part.strip() for part in cookie.split(";")]
    assert name.startswith("__Host-sampan=")
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(flags)
    assert not [flag for flag in flags if flag.startswith("Domain")]
    on = visit.get(answer.headers["Location"])
    assert (on.status_code, on.headers["Location"]) == (303, "/runs?before=")
    page = visit.get("/runs")
    assert page.status_code == 200
    assert "ada" in page.text
    stored = repr(here.app.store._store._rows)  # type: ignore[attr-defined]
    assert name.partition("=")[2] not in stored


def test_at_home_the_cookie_goes_over_http(house: Callable[..., House]) -> None:
    here = house()
    visit = here.visit("localhost:8000")
    [cookie] = visit.log_in(here.key()).headers.getlist("Set-Cookie")
    assert cookie.startswith("sampan=")
    assert "Secure" not in cookie
    assert "HttpOnly" in cookie
    assert visit.get("/chat").status_code == 200


def test_a_browser_that_keeps_no_cookie_is_told(house: Callable[..., House]) -> None:
    here = house()
    where = here.visit().log_in(here.key()).headers["Location"]
    assert "did not keep" in here.visit().get(where).text


@pytest.mark.parametrize(
    "following",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/\nx", ""],
)
def test_the_login_leads_to_our_own_pages_alone(house: Callable[..., House], following: str) -> None:
    here = house()
    visit = here.visit()
    answer = visit.get(visit.log_in(here.key(), following).headers["Location"])
    assert answer.headers["Location"] == "/chat"


@pytest.mark.parametrize("shown", ["", "0" * 64, "é"])
def test_a_form_without_this_logins_token_is_refused(house: Callable[..., House], shown: str) -> None:
    here = house()
    visit, other = here.visit(), here.visit()
    for each in (visit, other):
        each.log_in(here.key("admin"))
    for token in (shown, other.csrf()):
        for path in ("/chat/s", "/runs/r/decide", "/logout"):
            answer = visit.post(path, {"text": "Hi", "csrf": token, "decision": "approve"})
            assert answer.status_code == 403, path
            assert "reload the page" in answer.text
    assert visit.get("/sessions").status_code == 200  # still logged in
    assert here.bridge.run(here.app.engine.runs(Principal(user="ada"))) == []
    sent = visit.post("/chat/s", {"text": "Hi", "csrf": visit.csrf()})
    assert sent.status_code == 303
    assert "Hello." in visit.get("/chat/s").text


def test_forms_of_other_sites_are_refused_before_anything(house: Callable[..., House]) -> None:
    here = house()
    visit = here.visit()
    answer = visit.post("/login", {"key": here.key()}, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert not answer.headers.getlist("Set-Cookie")


def test_logging_out_ends_it_everywhere(house: Callable[..., House]) -> None:
    here = house()
    visit = here.visit()
    [cookie] = visit.log_in(here.key()).headers.getlist("Set-Cookie")
    answer = visit.post("/logout", {"csrf": visit.csrf()})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    stolen = here.visit().get("/chat", headers={"Cookie": cookie.partition(";")[0]})
    assert stolen.status_code == 303


def test_a_login_ends_by_itself_and_with_its_key(house: Callable[..., House]) -> None:
    here = house()
    lasting, revoked = here.visit(), here.visit()
    lasting.log_in(here.key())
    text = here.key()
    revoked.log_in(text)
    here.bridge.run(here.app.door.keys.revoke(text.split("_")[1]))
    here.clock.advance(CACHE_SECONDS)
    assert revoked.get("/chat").status_code == 303
    assert lasting.get("/chat").status_code == 200
    here.clock.advance(LIFE_SECONDS)
    assert lasting.get("/chat").status_code == 303


def test_scopes_and_limits_hold_on_pages_too(house: Callable[..., House]) -> None:
    here = house()
    reader, writer = here.visit(), here.visit()
    reader.log_in(here.key("runs:read"))
    refused = reader.post("/chat/s", {"text": "Hi", "csrf": reader.csrf()})
    assert (refused.status_code, "agents:run" in refused.text) == (403, True)
    refused = reader.post("/runs/r/decide", {"decision": "approve", "csrf": reader.csrf()})
    assert (refused.status_code, "runs:decide" in refused.text) == (403, True)
    writer.log_in(here.key("agents:run", rate="1/hour"))
    assert writer.get("/runs").status_code == 403
    few = here.visit()
    few.log_in(here.key(rate="1/hour"))
    token = few.csrf()
    assert few.post("/chat/s", {"text": "Hi", "csrf": token}).status_code == 303
    assert few.post("/chat/s", {"text": "Hi", "csrf": token}).status_code == 429


def test_the_words_are_chinese_for_who_reads_chinese(house: Callable[..., House]) -> None:
    page = house().visit().get("/login", headers={"Accept-Language": "zh-CN"})
    assert "您的密钥" in page.text


# The issuer's page


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


def at_the_issuer(address: str) -> str:
    """What a browser gets from the issuer's page: the way back."""
    with pytest.raises(HTTPError) as raised:
        build_opener(_Stay).open(address, timeout=10)
    with raised.value as answer:
        assert answer.code == 302
        return str(answer.headers["Location"])


def by_issuer(house: Callable[..., House], issuer: Issuer, **settings: Any) -> House:
    here = house(openid_issuer=issuer.url, openid_client_id=CLIENT, openid_client_secret=SECRET, **settings)
    issuer.now = here.clock.now()
    return here


def below(address: str) -> str:
    """The address as the pages know it, which are mounted at /console."""
    parts = urlsplit(address)
    return f"{parts.path.removeprefix('/console')}?{parts.query}"


def test_the_issuers_page_lets_people_in(house: Callable[..., House], issuer: Issuer) -> None:
    here = by_issuer(house, issuer)
    visit = here.visit()
    assert 'href="/login/openid"' in visit.get("/login").text
    out = visit.get("/login/openid")
    address = out.headers["Location"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    assert asked["redirect_uri"] == f"https://{HOST}/console/login/openid/back"
    [attempt] = out.headers.getlist("Set-Cookie")
    secret = attempt.partition("=")[2].partition(";")[0]
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= {part.strip() for part in attempt.split(";")}
    assert secret not in address
    back = at_the_issuer(address)
    welcome = visit.get(below(back))
    assert welcome.status_code == 303
    page = visit.get("/chat")
    assert page.status_code == 200
    assert "ada" in page.text
    # The same way back again, for example out of a browser's history: code and attempt are used up.
    assert here.visit().get(below(back)).status_code == 401
    sent = visit.post("/chat/s", {"text": "Hi", "csrf": visit.csrf()})
    assert sent.status_code == 303


def test_nobody_is_logged_in_by_somebody_elses_way_back(house: Callable[..., House], issuer: Issuer) -> None:
    here = by_issuer(house, issuer)
    thief, victim = here.visit(), here.visit()
    back = at_the_issuer(thief.get("/login/openid").headers["Location"])
    assert victim.get(below(back)).status_code == 401  # no attempt of their own
    victim.get("/login/openid")
    answer = victim.get(below(back))
    assert (answer.status_code, "another browser" in answer.text) == (401, True)
    assert victim.get("/chat").status_code == 303


def test_a_token_of_another_login_is_not_taken(house: Callable[..., House], issuer: Issuer) -> None:
    here = by_issuer(house, issuer)
    issuer.nonce = "of another login"
    visit = here.visit()
    answer = visit.get(below(at_the_issuer(visit.get("/login/openid").headers["Location"])))
    assert (answer.status_code, "another login" in answer.text) == (401, True)


def test_what_the_issuer_refuses_is_said(house: Callable[..., House], issuer: Issuer) -> None:
    here = by_issuer(house, issuer)
    visit = here.visit()
    visit.get("/login/openid")
    answer = visit.get("/login/openid/back?error=access_denied&state=x")
    assert (answer.status_code, "access_denied" in answer.text) == (401, True)
    issuer.down = True
    other = by_issuer(house, issuer, model_retries=0).visit()
    assert other.get("/login/openid").status_code == 503


def test_without_an_issuer_there_is_no_such_page(house: Callable[..., House]) -> None:
    visit = house().visit()
    assert "openid" not in visit.get("/login").text
    assert visit.get("/login/openid").status_code == 404
