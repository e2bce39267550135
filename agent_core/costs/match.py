"""The rules by which a price list says which names mean a model, in the language of genai-prices."""

from __future__ import annotations

import re
from typing import Any

Rule = dict[str, Any]
"""One of equals, starts_with, ends_with, contains, regex (a text), or, and (a list of rules)."""


def matches(rule: Rule, name: str) -> bool:
    """Whether the rule holds for a name, whatever the case of its letters. Raises ValueError for an unknown rule."""
    ((verb, value),) = rule.items()
    if verb == "or":
        return any(matches(inner, name) for inner in value)
    if verb == "and":
        return all(matches(inner, name) for inner in value)
    if verb == "regex":
        return re.search(value, name, re.IGNORECASE) is not None
    name, value = name.lower(), value.lower()
    match verb:
        case "equals":
            return bool(name == value)
        case "starts_with":
            return name.startswith(value)
        case "ends_with":
            return name.endswith(value)
        case "contains":
            return value in name
    raise ValueError(f"unknown rule {verb!r}")
