"""Markdown as models write it, in the dialect of a chat service. What a service does not have becomes plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent_core.channels.split import FENCE

_INLINE = re.compile(
    r"(?P<ticks>`+)(?P<code>[^`](?:.*?[^`])?)(?P=ticks)(?!`)"
    r"|!?\[(?P<label>[^\[\]]*)\]\((?P<url>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+\"[^\"]*\")?\)"
    r"|\*\*(?P<bold>(?=\S).+?(?<=\S))\*\*"
    r"|(?<!\w)__(?P<bold_>(?=\S).+?(?<=\S))__(?!\w)"
    r"|~~(?P<strike>(?=\S).+?(?<=\S))~~"
    r"|(?<![\w*])\*(?P<italic>(?=\S)[^*\n]+?(?<=\S))\*(?![\w*])"
    r"|(?<!\w)_(?P<italic_>(?=\S)[^_\n]+?(?<=\S))_(?!\w)"
    r"|\\(?P<escaped>[!-/:-@\[-`{-~])",
    re.DOTALL,
)
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(?P<words>.*?)\s*#*\s*$")
_BULLET = re.compile(r"^(?P<indent>\s*)[-*+]\s+(?P<words>.*)$")
_QUOTE = re.compile(r"^ {0,3}> ?(?P<words>.*)$")
_RULE = re.compile(r"^ {0,3}(?:-{3,}|\*{3,}|_{3,})\s*$")
_TABLE = re.compile(r"^\s*\|.*\|\s*$")
_LINK = re.compile(r"(?:https?://|mailto:|tel:)", re.IGNORECASE)

Span = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a service writes each thing; all but `escape`, `code` and `block` are given text in the dialect already."""

    escape: Span
    bold: Span
    italic: Span
    strike: Span
    quote: Span
    code: Span
    block: Callable[[str, str], str]
    """The code's language and the code."""
    link: Callable[[str, str], str]
    """The words and the address."""


def render(text: str, dialect: Dialect) -> str:
    """The Markdown in a dialect."""
    return "\n".join(_lines(text.split("\n"), dialect))


def _lines(lines: list[str], dialect: Dialect) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if found := FENCE.match(line):
            end = _end_of_fence(lines, at + 1, found["fence"])
            yield dialect.block(found["info"].strip().partition(" ")[0], "\n".join(lines[at + 1 : end]))
            at = end + 1
        elif _TABLE.match(line):
            end = _while(lines, at, _TABLE)
            yield dialect.block("", "\n".join(lines[at:end]))
            at = end
        elif _QUOTE.match(line):
            end = _while(lines, at, _QUOTE)
            words = [found["words"] for one in lines[at:end] if (found := _QUOTE.match(one))]
            yield dialect.quote("\n".join(inline(one, dialect) for one in words))
            at = end
        else:
            yield _line(line, dialect)
            at += 1


def _line(line: str, dialect: Dialect) -> str:
    if found := _HEADING.match(line):
        return dialect.bold(inline(found["words"].replace("**", ""), dialect)) if found["words"] else ""
    if _RULE.match(line):
        return "———"
    if found := _BULLET.match(line):
        return f"{found['indent']}• {inline(found['words'], dialect)}"
    return inline(line, dialect)


def _end_of_fence(lines: list[str], at: int, fence: str) -> int:
    while at < len(lines):
        found = FENCE.match(lines[at])
        if found and found["fence"].startswith(fence) and not found["info"].strip():
            return at
        at += 1
    return at


def _while(lines: list[str], at: int, kind: re.Pattern[str]) -> int:
    while at < len(lines) and kind.match(lines[at]):
        at += 1
    return at


def inline(text: str, dialect: Dialect) -> str:
    """One line's emphasis, code and links in a dialect."""
    out: list[str] = []
    end = 0
    for found in _INLINE.finditer(text):
        out += [dialect.escape(text[end : found.start()]), _span(found, dialect)]
        end = found.end()
    return "".join([*out, dialect.escape(text[end:])])


def _span(found: re.Match[str], dialect: Dialect) -> str:
    kind = found.lastgroup or ""
    if found["code"] is not None:
        return dialect.code(found["code"].strip() or found["code"])
    if found["label"] is not None:
        words = inline(found["label"], dialect)
        return (
            dialect.link(words or dialect.escape(found["url"]), found["url"])
            if _LINK.match(found["url"])
            else words
        )
    if kind == "escaped":
        return dialect.escape(found["escaped"])
    span = {"bold": dialect.bold, "strike": dialect.strike, "italic": dialect.italic}[kind.rstrip("_")]
    return span(inline(found[kind], dialect))


def _same(text: str) -> str:
    return text


PLAIN = Dialect(
    escape=_same,
    bold=_same,
    italic=_same,
    strike=_same,
    quote=_same,
    code=_same,
    block=lambda language, code: code,
    link=lambda words, url: words if words == url else f"{words} ({url})",
)
"""For services without any markup."""
