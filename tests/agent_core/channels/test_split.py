"""Long answers are cut where a reader would cut them, and nothing is lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.slack import MRKDWN
from agent_core.channels.split import blocks, split
from agent_core.channels.telegram import HTML
from tests.agent_core.channels.fakes import _wrong_text

WORDS = st.text(alphabet="ab .!?\n`*_~#>-|[]()<&\u4f60\u3002\U0001f600\u0301", max_size=400)
PIECES = st.lists(
    st.one_of(
        WORDS,
        st.builds(lambda code: f"```python\n{code.replace('`', '')}\n```", WORDS),
        st.just("| a | b |\n|---|---|\n| 1 | 2 |"),
    ),
    max_size=6,
).map("\n\n".join)


def test_short_text_is_one_piece() -> None:
    assert split("Hello.\n\nWorld.", 100) == ["Hello.\n\nWorld."]
    assert split("", 100) == []
    assert split("\n \n", 100) == []


def test_cut_between_paragraphs_then_sentences_then_words() -> None:
    assert split("One. Two.\n\nThree.", 10) == ["One. Two.", "Three."]
    assert split("One is here. Two is there! Three?", 16) == ["One is here.", "Two is there!", "Three?"]
    assert split("\u4f60\u597d\u3002\u518d\u89c1\u3002", 4) == ["\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]
    assert split("aaaa bbbb cccc", 9) == ["aaaa bbbb", "cccc"]
    assert split("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]


def test_a_code_block_stays_whole_or_is_fenced_anew() -> None:
    code = "```py\na = 1\n\n\nb = 2\n```"
    assert split(f"Look: this is it.\n\n{code}\n\nFine.", 30) == ["Look: this is it.", code + "\n\nFine."]
    long = "```py\n" + "\n".join(f"line {number}" for number in range(6)) + "\n```"
    pieces = split(long, 32)
    assert all(piece.startswith("```py\n") and piece.endswith("\n```") for piece in pieces)
    assert "\n".join(piece[6:-4] for piece in pieces) == long[6:-4]


def test_an_emoji_of_several_parts_is_not_cut() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    pieces = split(family * 3, 7)
    assert "".join(pieces) == family * 3
    assert all(not piece.startswith("\u200d") and not piece.endswith("\u200d") for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(PIECES, st.integers(40, 200))
def test_every_piece_fits_and_no_word_is_lost(text: str, limit: int) -> None:
    pieces = split(text, limit)
    assert all(0 < len(piece) <= limit for piece in pieces)
    letters = re.compile(r"[ab\u4f60\U0001f600]")
    # A long code block names its language on each piece; "python" has none of the letters.
    assert letters.findall(" ".join(pieces)) == letters.findall(text)
    for block in blocks(text):
        if block.startswith("```") and len(block) <= limit:
            assert any(block in piece for piece in pieces), "a code block that fits is whole"


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_telegram_can_read_whatever_is_written(text: str) -> None:
    """Its own rules for HTML, for any Markdown, broken or not: tags are closed in order, and none is unknown."""
    for piece in split(text, 500, lambda one: len(render(one, PLAIN))):
        wrong = _wrong_text({"text": render(piece, HTML), "parse_mode": "HTML"})
        assert wrong in ("", "message text is empty")
        assert not re.search(r"<(?![@#!]?[^<>]*>)", render(piece, MRKDWN)), "no open angle in Slack's"


@pytest.mark.parametrize(
    ("markdown", "slack", "telegram"),
    [
        ("**bold** and *it*", "*bold* and _it_", "<b>bold</b> and <i>it</i>"),
        ("__bold__ _it_ ~~no~~", "*bold* _it_ ~no~", "<b>bold</b> <i>it</i> <s>no</s>"),
        ("a < b & c", "a &lt; b &amp; c", "a &lt; b &amp; c"),
        ("`x < **y**`", "`x &lt; **y**`", "<code>x &lt; **y**</code>"),
        ("## Head", "*Head*", "<b>Head</b>"),
        ("- one\n- two", "\u2022 one\n\u2022 two", "\u2022 one\n\u2022 two"),
        (
            "[docs](https://a.b/c?d=1&e)",
            "<https://a.b/c?d=1&amp;e|docs>",
            '<a href="https://a.b/c?d=1&amp;e">docs</a>',
        ),
        ("[x](javascript:alert)", "x", "x"),
        ("![cat](https://a.b/c.png)", "<https://a.b/c.png|cat>", '<a href="https://a.b/c.png">cat</a>'),
        ("> said\n> so", "> said\n> so", "<blockquote>said\nso</blockquote>"),
        ("snake_case_name 2*3*4", "snake_case_name 2*3*4", "snake_case_name 2*3*4"),
        ("<!channel> <@U1>", "&lt;!channel&gt; &lt;@U1&gt;", "&lt;!channel&gt; &lt;@U1&gt;"),
        (
            "```py\nif a < b:\n    **c**\n```",
            "```\nif a &lt; b:\n    **c**\n```",
            '<pre><code class="language-py">if a &lt; b:\n    **c**</code></pre>',
        ),
        ("```\nopen", "```\nopen\n```", "<pre>open</pre>"),
        (
            "| a | b |\n|---|---|",
            "```\n| a | b |\n|---|---|\n```",
            "<pre>| a | b |\n|---|---|</pre>",
        ),
        (r"\*not\*", "*not*", "*not*"),
    ],
)
def test_dialects(markdown: str, slack: str, telegram: str) -> None:
    assert render(markdown, MRKDWN) == slack
    assert render(markdown, HTML) == telegram


def test_fences_that_leave_no_room_are_text_like_any_other() -> None:
    assert split("~" * 90, 40) == ["~" * 40, "~" * 40, "~" * 10]
    assert split("```" + "x" * 50 + "\ncode\n```", 40)[0] == "```" + "x" * 37
