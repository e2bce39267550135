"""Long answers as several messages: cut between blocks, else at a sentence's end; a code block stays whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

Measure = Callable[[str], int]

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`\n]*)$")

# Behind an end of sentence, with what closes it; Chinese and Japanese write no space there.
_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？；])[”’」』）]*|\n+")
_WORD = re.compile(r"\s+")


def utf16_units(text: str) -> int:
    """How long services find a text that count as JavaScript does: a character beyond the BMP is two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def utf8_bytes(text: str) -> int:
    """How long services find a text that count its bytes."""
    return len(text.encode("utf-8", "surrogatepass"))


def split(text: str, limit: int, measure: Measure = len) -> list[str]:
    """The Markdown in pieces that measure `limit` at most, none of them empty.

    A code block that fits a message is never cut; a longer one is cut between lines, and each piece is fenced.
    """
    pieces: list[str] = []
    current = ""
    for block in blocks(text):
        joined = f"{current}\n\n{block}" if current else block
        if measure(joined) <= limit:
            current = joined
            continue
        if current:
            pieces.append(current)
        *whole, current = [block] if measure(block) <= limit else _cut(block, limit, measure) or [""]
        pieces += whole
    return [*pieces, current] if current else pieces


def blocks(text: str) -> Iterator[str]:
    """Paragraphs and fenced code blocks, without the blank lines between them."""
    lines: list[str] = []
    fence = ""
    for line in text.strip("\n").split("\n"):
        found = FENCE.match(line)
        if fence:
            lines.append(line)
            if found and found["fence"].startswith(fence) and not found["info"].strip():
                yield "\n".join(lines)
                lines, fence = [], ""
            continue
        if found or not line.strip():
            if lines:
                yield "\n".join(lines).rstrip()
            lines = []
        if found:
            lines, fence = [line], found["fence"]
        elif line.strip():
            lines.append(line)
    if lines:
        yield "\n".join(lines)


def _cut(block: str, limit: int, measure: Measure) -> list[str]:
    first, _, rest = block.partition("\n")
    found = FENCE.match(first)
    if found is None:
        return _filled(_sentences(block), limit, measure)
    lines = rest.split("\n")
    if len(lines) and (last := FENCE.match(lines[-1])) and not last["info"].strip():
        lines.pop()
    close = found["indent"] + found["fence"]

    def fenced(code: str) -> str:
        return f"{first}\n{code}\n{close}"

    if (
        measure(fenced("")) > limit // 2
    ):  # fences alone would fill the messages: it is no code that a person wrote
        return _filled(_sentences(block), limit, measure)
    room = _filled([line + "\n" for line in lines], limit, lambda code: measure(fenced(code)))
    return [fenced(code.rstrip("\n")) for code in room]


def _sentences(text: str) -> list[str]:
    """The text cut behind each sentence; joined, they are the text."""
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    places = [0, *(end for end in ends if 0 < end < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def _filled(atoms: list[str], limit: int, measure: Measure) -> list[str]:
    """Atoms joined to pieces as long as they fit; an atom too long by itself is cut at spaces, else anywhere."""
    pieces: list[str] = []
    current = ""
    for atom in atoms:
        if measure((current + atom).rstrip()) <= limit:
            current += atom
            continue
        pieces.append(current)
        current = atom
        while current.strip() and measure(current.rstrip()) > limit:
            end = _longest(current, limit, measure)
            pieces.append(current[:end])
            current = current[end:]
    return [piece.rstrip() for piece in [*pieces, current] if piece.strip()]


def _longest(text: str, limit: int, measure: Measure) -> int:
    """Where to cut so that the beginning fits: behind a space in its second half, else not inside a character."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle].rstrip()) <= limit:
            low = middle
        else:
            high = middle - 1
    spaces = [found.end() for found in _WORD.finditer(text, low // 2, low)]
    if spaces:
        return spaces[-1]
    end = low
    while end > 1 and _joins(text[end - 1], text[end] if end < len(text) else ""):
        end -= 1
    return end if end > 1 or low == 1 else low


def _joins(before: str, after: str) -> bool:
    """Whether the two make one character on the screen, as a letter and its accent or the parts of an emoji."""
    joiner = "\u200d"
    return bool(after) and (joiner in (before, after) or unicodedata.category(after) in ("Mn", "Me", "Mc"))
