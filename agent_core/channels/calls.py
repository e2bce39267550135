"""Answers of services' APIs: what is no success becomes an error that knows whether it may pass, and when."""

from __future__ import annotations

from typing import Any

from agent_core.channels.payload import read_json
from agent_core.errors import AgentError, ChannelError, ChannelRefusedError, MalformedError
from agent_core.wire.base import Response
from agent_core.wire.retry import retry_after

PASSING = frozenset({408, 409, 425, 429})


def refused(answer: Response, now: float, what: str, *, wait: float | None = None) -> AgentError:
    """The error of an answer that is no success. `wait` is how long the service says, where that is in its body."""
    words = f"{what} answered {answer.status}"
    if answer.status in PASSING or answer.status >= 500:
        return ChannelError(words, retry_after=wait if wait is not None else retry_after(answer.headers, now))
    return ChannelRefusedError(words)


def read_answer(answer: Response, now: float, what: str) -> dict[str, Any]:
    """The JSON object of a successful answer; raises a ChannelError."""
    if not 200 <= answer.status < 300:
        raise refused(answer, now, what)
    return json_of(answer, what)


def json_of(answer: Response, what: str) -> dict[str, Any]:
    """The JSON object of an answer of any status; raises a ChannelError, which may pass: a proxy may have spoken."""
    try:
        value = read_json(answer.body)
    except MalformedError as error:
        raise ChannelError(f"{what} answered {answer.status} with no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ChannelError(f"{what} answered {answer.status} with no JSON object")
    return value
