"""Markdown of models as safe HTML: what they write is shown, nothing they write is run or fetched."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup, escape

LONGEST = 200_000
"""Characters up to which a text is taken as Markdown; a longer one is shown as it is."""

HEADING_SHIFT = 2
"""The page has a title and a headline of its own: a model's h1 becomes an h3."""


def render(text: str) -> Markup:
    """The text as HTML that may stand in a page.

    CommonMark with tables and strikethrough. HTML is shown as text, links lead to http and https only, and images are
    links: fetching them would tell others what is talked about here.
    """
    if len(text) > LONGEST:
        return Markup("<p>{}</p>").format(text)
    # markdown-it escapes all text and takes no HTML, see `_parser`; tests/agent_core/console/test_markdown.py.
    return Markup(_parser().render(text))  # noqa: S704


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.validateLink = _may_be_linked  # type: ignore[method-assign] # the library's documented way to say it
    return parser


def _may_be_linked(url: str) -> bool:
    return url.lower().startswith(("https://", "http://"))


class _Renderer(RendererHTML):
    """The library's renderer, but for links, images, headings and the alignment of table cells."""

    def link_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        if not _may_be_linked(str(tokens[idx].attrGet("href"))):
            tokens[idx].attrs.pop(
                "href", None
            )  # an empty address is not asked about by the library: no link at all
        tokens[idx].attrSet("rel", "noreferrer noopener nofollow")
        tokens[idx].attrSet("target", "_blank")
        return self.renderToken(tokens, idx, options, env)

    def image(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        token = tokens[idx]
        words = self.renderInlineAsText(token.children or [], options, env)
        shown = Markup('<span class="media">{} <span>({})</span></span>')
        return str(shown.format(words, token.attrGet("src")))

    def heading_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        token = tokens[idx]
        token.tag = f"h{min(6, int(token.tag[1]) + HEADING_SHIFT)}"
        return self.renderToken(tokens, idx, options, env)

    heading_close = heading_open

    def th_open(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        # The library aligns by a style attribute, which the content security policy forbids.
        style = tokens[idx].attrs.pop("style", None)
        if style is not None:
            tokens[idx].attrSet("class", str(style).replace("text-align:", "align-"))
        return self.renderToken(tokens, idx, options, env)

    td_open = th_open

    def fence(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        # A region that scrolls must be reachable by keyboard.
        return str(Markup('<pre tabindex="0"><code>{}</code></pre>\n').format(escape(tokens[idx].content)))

    code_block = fence
