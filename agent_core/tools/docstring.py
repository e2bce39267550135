"""Reads what a docstring says of a function and its arguments: Google, reST and NumPy style."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_GOOGLE = re.compile(
    r"(Args|Arguments|Parameters|Params|Other Parameters|Keyword Args|Keyword Arguments):\s*$"
)
_GOOGLE_OTHER = re.compile(
    r"(Returns?|Raises|Yields?|Examples?|Notes?|Warnings?|Warns|See Also|References|Attributes|Todo):\s*$"
)
_GOOGLE_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_REST_PARAM = re.compile(
    r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$"
)
_REST_OTHER = re.compile(r":\w+(?:\s[^:]*)?:")
_NUMPY_NAMES = re.compile(r"\*{0,2}(\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_UNDERLINE = re.compile(r"-{3,}\s*$")


class Docstring(NamedTuple):
    """The first paragraph in one line, and the words about each argument."""

    summary: str
    arguments: dict[str, str]


def parse(text: str | None) -> Docstring:
    """What the docstring says; empty where there is none."""
    lines = inspect.cleandoc(text or "").splitlines()
    arguments: dict[str, str] = {}
    index = 0
    while index < len(lines):
        if _GOOGLE.match(lines[index]):
            index = _google(lines, index + 1, arguments)
        elif _is_numpy_head(lines, index):
            index = _numpy(lines, index + 2, arguments)
        elif match := _REST_PARAM.match(lines[index]):
            index, more = _indented(lines, index + 1)
            arguments[match[1]] = _joined([match[2], *more])
        else:
            index += 1
    return Docstring(_summary(lines), arguments)


def _summary(lines: list[str]) -> str:
    """The first paragraph, up to a blank line or the first section."""
    words: list[str] = []
    for index, line in enumerate(lines):
        starts_section = _GOOGLE.match(line) or _GOOGLE_OTHER.match(line) or _REST_OTHER.match(line)
        if not line.strip() or starts_section or _is_underlined(lines, index):
            break
        words.append(line)
    return _joined(words)


def _google(lines: list[str], index: int, arguments: dict[str, str]) -> int:
    """Entries `name (type): words` indented under their head; deeper lines go on with the last."""
    indent, name = 0, ""
    while index < len(lines):
        line = lines[index]
        depth = len(line) - len(line.lstrip())
        if line.strip() and not depth:
            break
        indent = indent or depth
        entry = _GOOGLE_ENTRY.match(line.strip()) if depth == indent else None
        if entry:
            name = entry[1]
            arguments[name] = entry[2].strip()
        elif name and line.strip():
            arguments[name] = _joined([arguments[name], line])
        index += 1
    return index


def _numpy(lines: list[str], index: int, arguments: dict[str, str]) -> int:
    """Entries `name : type` at the margin with indented words under each; several names share one entry."""
    while index < len(lines):
        if _is_underlined(lines, index):
            break
        names = _NUMPY_NAMES.match(lines[index])
        index, words = _indented(lines, index + 1)
        if names:
            for name in names[1].split(","):
                arguments[name.strip().lstrip("*")] = _joined(words)
    return index


def _is_underlined(lines: list[str], index: int) -> bool:
    return bool(lines[index].strip()) and index + 1 < len(lines) and bool(_UNDERLINE.match(lines[index + 1]))


def _is_numpy_head(lines: list[str], index: int) -> bool:
    return lines[index].strip() in ("Parameters", "Other Parameters") and _is_underlined(lines, index)


def _indented(lines: list[str], index: int) -> tuple[int, list[str]]:
    """The lines from `index` on that are indented or blank, and where they end."""
    start = index
    while index < len(lines) and (not lines[index].strip() or lines[index][0] in " \t"):
        index += 1
    return index, lines[start:index]


def _joined(lines: list[str]) -> str:
    return " ".join(word for line in lines for word in line.split())
