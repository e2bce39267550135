"""The languages of the pages: which one a visitor reads, and the words in it (words/<language>.json)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}
"""Each language in its own words."""

TAGS = {"en": "en", "zh": "zh-Hans"}
"""What `<html lang>` says (BCP 47)."""

DEFAULT = "en"

_FOLDER = Path(__file__).with_name("words")


@cache
def words(language: str) -> dict[str, str]:
    """All words of a language, by key."""
    found: dict[str, str] = json.loads((_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return found


def say(language: str, key: str, **values: object) -> str:
    """A phrase; `{name}` in it is replaced by that value. Raises KeyError for a key that is in no catalogue."""
    return words(language)[key].format(**values)


def choose(asked: str | None, kept: str | None, accepted: str | None) -> str:
    """The language: what the link asks for, else what the visitor chose before, else what the browser prefers."""
    for choice in (asked, kept):
        if choice in LANGUAGES:
            return choice
    return _preferred(accepted or "")


def _preferred(accepted: str) -> str:
    """The best of Accept-Language (RFC 9110 section 12.5.4), by its first subtag: zh-TW reads zh."""
    best, best_weight = DEFAULT, 0.0
    for entry in accepted.split(",")[:20]:
        tag, *parameters = entry.strip().lower().split(";")
        language = tag.strip().partition("-")[0]
        weight = _weight(parameters)
        if language in LANGUAGES and weight > best_weight:
            best, best_weight = language, weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
