"""What a browser is told, what a page may hold, and who may send a form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from agent_core import Agent, ToolCall, tool
from agent_core.console.security import from_our_pages
from agent_core.testing import ScriptedModel

Sites = Callable[..., Any]
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)> {{7*7}} &amp; \u202e'


@tool
def evil(text: str) -> str:
    """Give back what it got."""
    return f"{text}{EVIL}"


def evil_pages(site: Sites) -> tuple[Any, list[str]]:
    """Pages over a conversation in which everything anybody wrote is hostile, and all their addresses."""
    script = [[ToolCall(id=EVIL, name="evil", arguments='{"text": "</pre><script>"}')], EVIL]
    pages = site(Agent(name="assistant", model=ScriptedModel(script), tools=[evil], description=EVIL))
    location = pages.say(EVIL).partition("#")[0]
    run = pages.get("/runs").one("a", "title").attributes["href"]
    return pages, [
        "/chat",
        location,
        f"{location}/since/0",
        "/sessions",
        "/runs",
        run,
        "/nothing" + "%22%3Cscript%3E",
    ]


def test_every_answer_carries_the_strict_policy(site: Sites) -> None:
    pages, addresses = evil_pages(site)
    for address in [*addresses, "/", "/static/style.css", "/static/chat.js"]:
        with pages.client.get(address) as answer:
            headers = answer.headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"


def test_pages_are_not_kept_by_caches_and_static_files_are(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel([])))
    page = pages.get("/chat")
    assert pages.client.get("/chat").headers["Cache-Control"] == "no-store"
    sheet = page.one("link", rel="stylesheet").attributes["href"]
    assert re.search(r"\?v=[0-9a-f]{12}$", sheet)
    with pages.client.get(sheet) as answer:
        assert "max-age=31536000" in answer.headers["Cache-Control"]


def test_nothing_hostile_becomes_markup(site: Sites) -> None:
    pages, addresses = evil_pages(site)
    for address in addresses:
        source = pages.client.get(address).text
        assert "<script>" not in source
        assert "<img" not in source
    conversation = pages.get(addresses[1])
    assert EVIL.replace("\u202e", "").strip() in conversation.one("li", "user").text
    assert "<script>alert(1)</script>" in conversation.one("li", "tool").text
    assert "<script>alert(1)</script>" in conversation.one("li", "assistant").text


def test_no_page_holds_inline_code_or_reaches_elsewhere(site: Sites) -> None:
    pages, addresses = evil_pages(site)
    for address in addresses:
        status = 404 if address.startswith("/nothing") else 200
        for element in pages.get(address, status=status).elements:
            names = set(element.attributes)
            assert not {name for name in names if name.startswith("on")}, element
            assert "style" not in names, element
            assert element.tag not in ("style", "iframe", "object", "embed", "base", "img"), element
            if element.tag == "script":
                assert element.attributes["src"].startswith("/static/")
                assert not element.text.strip()
            for name in names & {
                "src",
                "href",
                "action",
                "formaction",
                "data-api",
                "data-page",
                "data-since",
            }:
                assert re.match(r"[/#]", element.attributes[name]), element


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://localhost:1234"},
    ],
)
def test_a_form_of_another_site_is_not_carried_out(site: Sites, headers: dict[str, str]) -> None:
    model = ScriptedModel(["never"])
    pages = site(Agent(name="assistant", model=model))
    action, fields = pages.new_chat()
    answer = pages.client.post(action, data={**fields, "text": "hello"}, headers=headers)
    assert answer.status_code == 403
    assert "came from another website" in answer.text
    assert "Content-Security-Policy" in answer.headers
    assert not model.prompts
    for address in ("/runs/x/decide", "/nothing"):
        assert pages.client.post(address, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://shown-by-a-proxy.example"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Origin": "http://LOCALHOST"},
    ],
)
def test_our_own_forms_are_carried_out(site: Sites, headers: dict[str, str]) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel(["hi"])))
    action, fields = pages.new_chat()
    assert pages.client.post(action, data={**fields, "text": "hello"}, headers=headers).status_code == 303


def test_the_names_of_headers_may_be_written_in_any_case() -> None:
    assert not from_our_pages({"sec-fetch-site": "cross-site", "host": "a"})
    assert from_our_pages({"ORIGIN": "https://a:8", "HOST": "a:8"})
    assert not from_our_pages({"origin": "https://a"})


def test_reading_is_open_to_links_from_elsewhere(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel([])))
    assert pages.client.get("/chat", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_no_address_changes_anything_when_it_is_read(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel([])))
    action, _ = pages.new_chat()
    assert pages.client.get(f"{action}?text=hello").status_code == 404
    assert pages.client.get("/runs/x/decide").status_code == 405
