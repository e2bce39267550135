"""Markdown of models: shown, never run, nothing fetched."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.console.markdown import LONGEST, render

ALLOWED = {
    "p": set(),
    "a": {"href", "title", "rel", "target"},
    "em": set(),
    "strong": set(),
    "s": set(),
    "code": set(),
    "pre": {"tabindex"},
    "ul": set(),
    "ol": {"start"},
    "li": set(),
    "blockquote": set(),
    "hr": set(),
    "br": set(),
    "h3": set(),
    "h4": set(),
    "h5": set(),
    "h6": set(),
    "span": {"class"},
    "table": set(),
    "thead": set(),
    "tbody": set(),
    "tr": set(),
    "th": {"class"},
    "td": {"class"},
}


class Checker(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, self.rawdata
        for name, value in attrs:
            assert name in ALLOWED[tag], self.rawdata
            if name == "href":
                assert (value or "").lower().startswith(("http://", "https://")), self.rawdata
        if tag == "a":
            assert ("rel", "noreferrer noopener nofollow") in attrs

    def handle_comment(self, data: str) -> None:
        raise AssertionError(self.rawdata)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(text: str) -> str:
    html = str(render(text))
    checker = Checker()
    checker.feed(html)
    checker.close()
    return html


pieces = st.sampled_from(
    [
        *"<>\"'&`*_~[]()!#|\\\n\t :-=+/x1",
        "<script>",
        "</p>",
        "<!--",
        "<![CDATA[",
        "<?php",
        "javascript:",
        "data:text/html,",
        "vbscript:",
        "https://a.b/",
        "http://",
        "//evil",
        "&#x6a;avascript:",
        "&lt;",
        "](",
        "![",
        "<https://x>",
        "<javascript:x>",
        "onerror=",
        "style=",
        "|-|-|\n",
        "|:-:|-:|\n",
        "```\n",
        "- ",
        "1. ",
        "> ",
        "    ",
        "\u0000",
        "\u202e",
        "中文",
    ]
)


@given(st.lists(pieces, max_size=60).map("".join))
def test_whatever_is_written_only_harmless_markup_comes_out(text: str) -> None:
    check(text)


@given(st.text(max_size=300))
def test_any_text_is_rendered(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]()",
        "[x]( )",
        "[x](<>)",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<a href='javascript:alert(1)'>x</a>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\nscript:alert(1))",
        "[x](&#x6a;avascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](//evil.example)",
        "[x](/console/runs)",
        "[x](mailto:a@b)",
        "<javascript:alert(1)>",
        '[x](https://a "\\" onclick=alert(1) x=\\"")',
        '[x](https://a" onclick=alert(1))',
        "![x](javascript:alert(1))",
        "[x]: javascript:alert(1)\n\n[x]",
        "<svg><style>@import '//evil'</style></svg>",
    ],
)
def test_known_attacks(text: str) -> None:
    assert "<script" not in check(text)


def test_images_are_words() -> None:
    assert check("![a <cat>](https://a.b/c.png)") == (
        '<p><span class="media">a &lt;cat&gt; <span>(https://a.b/c.png)</span></span></p>\n'
    )


def test_what_models_mostly_write() -> None:
    html = check(
        "# Big\n\n**b** *i* ~~s~~ `c<d`\n\n- one\n- two\n\n```py\nx < 1\n```\n\n[l](https://a.b/?q=1&r=2)"
    )
    assert "<h3>Big</h3>" in html
    assert "<strong>b</strong> <em>i</em> <s>s</s> <code>c&lt;d</code>" in html
    assert "<li>one</li>" in html
    assert '<pre tabindex="0"><code>x &lt; 1\n</code></pre>' in html
    assert 'href="https://a.b/?q=1&amp;r=2"' in html


def test_tables_are_aligned_by_class_since_the_policy_forbids_styles() -> None:
    html = check("|a|b|c|\n|:-|:-:|-:|\n|1|2|3|\n")
    assert '<th class="align-left">a</th>' in html
    assert '<td class="align-center">2</td>' in html
    assert '<td class="align-right">3</td>' in html


def test_a_very_long_text_is_shown_as_it_is() -> None:
    html = check("*" * LONGEST + "<b>")
    assert html.startswith("<p>***")
    assert html.endswith("&lt;b&gt;</p>")


def test_deep_nesting_ends() -> None:
    check(">" * 5000 + "[" * 5000 + "*a " * 2000)
