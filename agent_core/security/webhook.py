"""A webhook as it came in, before anybody believes it."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qsl

import msgspec

from agent_core.errors import MalformedError, SignatureError
from agent_core.wire.base import Response

MAX_FIELDS = 200
"""Fields of a query or a form; more are refused unread."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """The raw bytes of a request and what came with them.

    `url` is the address as its sender saw it, with the query; `headers` are pairs, names in lower case, in the order
    they came, so that a header given twice can be told.
    """

    method: str = "POST"
    url: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str:
        """The header's value: printable ASCII, given once. Raises SignatureError: a signature hangs on it."""
        values = [value for key, value in self.headers if key == name]
        if len(values) != 1:
            raise SignatureError(f"the header {name} must be given once, not {len(values)} times")
        if not values[0].isascii() or not values[0].isprintable() or not values[0]:
            raise SignatureError(f"the header {name} is not printable ASCII")
        return values[0]

    def has(self, name: str) -> bool:
        """Whether there is such a header at all."""
        return any(key == name for key, _ in self.headers)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters, each given once. Raises SignatureError."""
        return single(pairs(self.query_string), "query parameter")

    @property
    def query_string(self) -> str:
        """What stands behind the question mark; whatever stands before it need not be an address."""
        return self.url.partition("#")[0].partition("?")[2]

    def parameter(self, name: str) -> str:
        """A parameter of the query that a signature hangs on; raises SignatureError where it is missing."""
        value = self.query.get(name, "")
        if not value:
            raise SignatureError(f"the query parameter {name} is missing")
        return value

    def form(self) -> dict[str, str]:
        """The body as a form, each field given once. Raises MalformedError."""
        try:
            return single(pairs(self.body.decode()), "field")
        except (UnicodeDecodeError, SignatureError) as error:
            raise MalformedError(f"the body is no form: {error}") from None


class Receiver(Protocol):
    """Takes in the webhooks of channels."""

    async def receive(self, name: str, hook: Webhook) -> Response:
        """Verify, accept and acknowledge a webhook of the channel with this name; raises AgentErrors."""


def pairs(text: str) -> list[tuple[str, str]]:
    """Names and values of a query or a form, in their order. Raises SignatureError."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise SignatureError(f"the query or form can't be read: {error}") from None


def single(given: list[tuple[str, str]], what: str) -> dict[str, str]:
    """Pairs as a dict; raises SignatureError where a name comes twice."""
    values = dict(given)
    if len(values) != len(given):
        raise SignatureError(f"a {what} is given twice")
    return values
