"""Secrets: what looks like one, or is one of ours, belongs in no prompt and no log; they may be named instead of given.

A setting such as `MODEL_API_KEY=ssm:/prod/openai` or `secretsmanager:openai` names a secret in AWS. The name goes where
the secret would go; only the wire, at the moment of sending, puts the secret in its place. So nothing else holds it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from msgspec.structs import replace

from agent_core.errors import ConfigError
from agent_core.wire.base import Request, Response, StreamedResponse, Wire

MASK = "[secret]"
SHORTEST = 8
"""A value of fewer characters is no secret to look for: it would be found everywhere."""

KEPT_SECONDS = 300
"""How long a secret is kept before it is asked for anew."""

REFERENCE = re.compile(r"(ssm|secretsmanager):([A-Za-z0-9/_+=.@-]{1,512})")
_HINTS = (
    *(
        "sk-",
        "sk_",
        "rk_",
        "AKIA",
        "ASIA",
        "gh",
        "xox",
        "xapp-",
        "whsec_",
        "AIza",
        "glpat-",
        "hf_",
        "sampan_",
    ),
    *(":AA", "eyJ", "-----BEGIN "),
)
"""One of them stands in every secret of a known format: without any, no pattern need be made, for cold start."""

_FORMATS = (
    r"\bsk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS key ids
    r"|\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{22,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}|\bxapp-[A-Za-z0-9-]{10,}"  # Slack
    r"|\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9+/=]{24,}"  # Stripe, Standard Webhooks
    r"|\bAIza[A-Za-z0-9_-]{35}|\bglpat-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}"  # Google, GitLab, Hugging Face
    r"|\bsampan_[A-Za-z0-9]{4,}_[A-Za-z0-9_-]{20,}"  # our own keys
    r"|\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}"  # Telegram bots
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


class Secrets:
    """What must not be seen: known formats of keys, and the values that the settings hold."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        long = {value for value in values if len(value) >= SHORTEST and not REFERENCE.fullmatch(value)}
        own = "|".join(re.escape(value) for value in sorted(long, key=len, reverse=True))
        self._own = re.compile(own) if own else None

    def find(self, text: str) -> str:
        """What kind of secret the text holds, "" for none; never the secret itself."""
        if self._own is not None and self._own.search(text):
            return "the value of a secret setting"
        known = any(hint in text for hint in _HINTS) and _formats().search(text)
        return "what looks like a key or a token" if known else ""

    def mask(self, text: str) -> str:
        """The text with every secret masked."""
        if self._own is not None:
            text = self._own.sub(MASK, text)
        return _formats().sub(MASK, text) if any(hint in text for hint in _HINTS) else text


@cache
def _formats() -> re.Pattern[str]:
    return re.compile(_FORMATS)


class SecretFilter(logging.Filter):
    """Masks secrets in what a handler writes: the second net, below code that writes none."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask message, traceback and further fields of the line; never drop it."""
        try:
            words = record.getMessage()
        except (TypeError, ValueError):  # a format that its arguments don't fit: logging itself will tell
            words = f"{record.msg} {record.args}"
        record.msg, record.args = self._secrets.mask(words), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._secrets.mask(record.exc_text)
        if record.stack_info:
            record.stack_info = self._secrets.mask(record.stack_info)
        for name, value in record.__dict__.items():
            if isinstance(value, str) and name not in ("msg", "exc_text", "stack_info"):
                record.__dict__[name] = self._secrets.mask(value)
        return True


def guard_logs(secrets: Secrets) -> None:
    """Have all handlers of the root logger mask secrets; called again, with the secrets of then."""
    for handler in logging.getLogger().handlers:
        for old in [one for one in handler.filters if isinstance(one, SecretFilter)]:
            handler.removeFilter(old)
        handler.addFilter(SecretFilter(secrets))


Fetch = Callable[[str, str], str]
"""Gives the secret of a kind ("ssm", "secretsmanager") and a name; blocks."""


def fetch_secret(kind: str, name: str) -> str:
    """A secret from AWS by Powertools, which keeps it for five minutes. Raises ConfigError, without the secret."""
    # Not before a secret is named: Powertools and boto3 cost a third of a second.
    try:
        from aws_lambda_powertools.utilities import parameters
        from aws_lambda_powertools.utilities.parameters.exceptions import GetParameterError
    except ImportError:
        raise ConfigError(
            f"{kind}:{name} names a secret in AWS; install the extra: pip install 'sampan[aws]'"
        ) from None
    try:
        found: Any = (
            parameters.get_parameter(name, decrypt=True, max_age=KEPT_SECONDS)
            if kind == "ssm"
            else parameters.get_secret(name, max_age=KEPT_SECONDS)
        )
    except GetParameterError as error:
        raise ConfigError(f"the secret {kind}:{name} can't be read: {error}") from None
    return (found.decode() if isinstance(found, bytes) else str(found)).strip()


def resolved(value: str, fetch: Fetch = fetch_secret) -> str:
    """The secret that a setting names, or the setting itself where it names none."""
    named = REFERENCE.fullmatch(value)
    return fetch(named[1], named[2]) if named else value


class SecretWire:
    """A Wire that puts secrets into headers in place of their names, at the moment of sending.

    Only headers that hold one of the `names` are touched. An answer that is an error has the secret masked: some
    services repeat the key they refuse.
    """

    def __init__(self, wire: Wire, names: Iterable[str], *, fetch: Fetch = fetch_secret) -> None:
        self._wire = wire
        self._names = tuple(name for name in names if REFERENCE.fullmatch(name))
        self._fetch = fetch

    async def send(self, request: Request) -> Response:
        """The whole answer."""
        filled, secrets = await self._filled(request)
        answer = await self._wire.send(filled)
        if answer.status < 400:
            return answer
        body = secrets.mask(answer.body.decode("utf-8", "surrogateescape"))
        return replace(answer, body=body.encode("utf-8", "surrogateescape"))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes; an error comes whole."""
        filled, secrets = await self._filled(request)
        async with self._wire.stream(filled) as answer:
            if answer.status >= 400:
                text = secrets.mask((await answer.read()).decode("utf-8", "surrogateescape"))
                answer = replace(answer, chunks=_one(text.encode("utf-8", "surrogateescape")))
            yield answer

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()

    async def _filled(self, request: Request) -> tuple[Request, Secrets]:
        values: dict[str, str] = {}
        for name in self._names:
            if any(name in value for value in request.headers.values()):
                kind, _, place = name.partition(":")
                values[name] = await asyncio.to_thread(self._fetch, kind, place)
        headers = {key: _put_in(value, values) for key, value in request.headers.items()}
        return replace(request, headers=headers), Secrets(values.values())


def _put_in(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


async def _one(piece: bytes) -> AsyncIterator[bytes]:
    yield piece
