"""Answers of services' APIs: what is no success becomes an error that knows whether it may pass, and when."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from agent_core.channels.payload import read_json
from agent_core.errors import AgentError, ChannelError, ChannelRefusedError, MalformedError
from agent_core.wire.base import Request, Response
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


def json_request(
    method: str, url: str, value: object, headers: Mapping[str, str] | None = None, *, token: str = ""
) -> Request:
    """A call with a JSON body, and a bearer token where there is one."""
    all_headers = {"content-type": "application/json; charset=utf-8", **(headers or {})}
    if token:
        all_headers["authorization"] = f"Bearer {token}"
    return Request(method=method, url=url, headers=all_headers, body=msgspec.json.encode(value))


def lies_with(url: str, hosts: tuple[str, ...], api: str = "") -> bool:
    """Whether an address that came in a webhook is one of the service's own, which alone get our token and answers.

    A host that begins with a dot stands for those that end with it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if api and url.startswith(f"{api}/"):
        return True
    host = parts.netloc
    ours = any(host == one or (one.startswith(".") and host.endswith(one)) for one in hosts)
    return parts.scheme == "https" and ours


def stable_uuid(letter_id: str) -> str:
    """A letter's id in the form of a UUID, for services that know a call again by one."""
    return str(UUID(bytes=hashlib.sha256(letter_id.encode()).digest()[:16], version=4))
