"""What a key may do. Few words, each a kind of consequence."""

from __future__ import annotations

from collections.abc import Iterable

from agent_core.errors import InputError

RUN = "agents:run"
READ = "runs:read"
DECIDE = "runs:decide"
ERASE = "sessions:erase"
BATCHES = "batches"
ADMIN = "admin"

SCOPES = {
    RUN: "Send messages to agents, see which there are, cancel runs.",
    READ: "Read runs, their events, and sessions.",
    DECIDE: "Answer what a run asks a person: approve or deny a tool call.",
    ERASE: "Erase sessions for good.",
    BATCHES: "Submit batches, follow and cancel them, read their results.",
    ADMIN: "Everything.",
}

DEFAULT = (RUN, READ, BATCHES)
"""What a new key may do that names no scopes."""


def checked(scopes: Iterable[str]) -> tuple[str, ...]:
    """The scopes, each once. Raises InputError for one that does not exist."""
    given = tuple(dict.fromkeys(scope.strip() for scope in scopes))
    for scope in given:
        if scope not in SCOPES:
            raise InputError(
                f"there is no scope {scope[:80]!r}; there are {', '.join(SCOPES)}", field="scopes"
            )
    return given


def known(scopes: Iterable[str]) -> tuple[str, ...]:
    """Those of the scopes that mean something here."""
    return tuple(scope for scope in dict.fromkeys(scopes) if scope in SCOPES)
