"""Which language a visitor reads, and that all of it is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from agent_core import Agent
from agent_core.console import languages
from agent_core.console.languages import LANGUAGES, TAGS, choose, say, words
from agent_core.testing import ScriptedModel

Sites = Callable[..., Any]
CONSOLE = Path(languages.__file__).parent


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_all_words_with_the_same_placeholders(language: str) -> None:
    english = words("en")
    assert list(words(language)) == list(english)
    for key, text in words(language).items():
        assert text.strip(), key
        assert placeholders(text) == placeholders(english[key]), key
    assert language in TAGS


def test_chinese_is_chinese() -> None:
    same = {key for key, text in words("zh").items() if text == words("en")[key]}
    assert same == {"site"}
    assert all(re.search(r"[\u4e00-\u9fff]", text) for key, text in words("zh").items() if key not in same)


def test_the_pages_use_every_word_and_no_other() -> None:
    sources = [path.read_text() for path in (*CONSOLE.rglob("*.html"), *CONSOLE.glob("*.py"))]
    used = set(re.findall(r"""(?:\bt\(|_say\(|say\(g\.language, )["'](\w+)["']""", "\n".join(sources)))
    used |= set(re.findall(r'\(?"(nav_\w+|problem\w*)"', "\n".join(sources)))
    beginnings = {name for name in used if name.endswith("_")}
    known = set(words("en"))
    assert {name for name in used - beginnings if name not in known} == set()
    assert {name for name in known - used if not name.startswith(tuple(beginnings))} == set()


@pytest.mark.parametrize(
    ("asked", "kept", "accepted", "language"),
    [
        (None, None, None, "en"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, None, "zh-TW", "zh"),
        (None, None, "en-US,en;q=0.9,zh;q=0.8", "en"),
        (None, None, "de,fr;q=0.9", "en"),
        (None, None, "de,zh;q=0.3", "zh"),
        (None, None, "en;q=0.2,zh;q=0.7", "zh"),
        (None, None, "zh;q=0", "en"),
        (None, None, "zh;q=oops", "en"),
        (None, None, ",;;q=,*", "en"),
        (None, "zh", "en", "zh"),
        ("en", "zh", "zh", "en"),
        ("xx", "yy", "zh", "zh"),
    ],
)
def test_the_link_wins_over_the_cookie_over_the_browser(
    asked: str | None, kept: str | None, accepted: str | None, language: str
) -> None:
    assert choose(asked, kept, accepted) == language


def test_a_word_that_is_in_no_catalogue_is_an_error() -> None:
    with pytest.raises(KeyError):
        say("en", "no_such_word")


def test_the_switch_is_kept_and_stays_on_the_page(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel(["hi"])))
    location = pages.say("hello").partition("#")[0]
    page = pages.get(f"{location}?before=2")
    (switch,) = [link for link in page.all("a") if link.attributes.get("hreflang") == "zh"]
    assert switch.attributes["href"] == f"{location}?before=2&lang=zh"
    page = pages.get(switch.attributes["href"])
    assert page.one("html").attributes["lang"] == "zh-Hans"
    assert pages.get("/sessions").one("h1").text == "对话记录"
    cookie = pages.client.get_cookie("sampan_language")
    assert cookie.value == "zh"
    assert cookie.http_only
    assert cookie.same_site == "Lax"
    assert pages.get("/nothing", status=404).one("h1").text == "这里什么也没有"


def test_a_browser_that_prefers_chinese_reads_chinese(site: Sites) -> None:
    pages = site(Agent(name="assistant", model=ScriptedModel([])))
    page = pages.get("/chat", accept_language="zh-CN,zh;q=0.9")
    assert page.one("h1").text == "有什么可以帮您？"
    assert pages.client.get_cookie("sampan_language") is None
    assert "Accept-Language" in pages.client.get("/chat").headers["Vary"]
