"""Where credentials come from, and that they are renewed before they expire.

In this order: the environment; the container's endpoint (ECS, EKS, Lambda with SnapStart); a profile of the shared
file; the instance's metadata service, which is asked only where a setting allows it (IMDSv2).
https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from agent_core.aws.sigv4 import Credentials
from agent_core.clock import Clock
from agent_core.errors import ConfigError, StoreBusyError, WireError
from agent_core.settings import Settings
from agent_core.wire.base import Request, Timeouts, Wire

EARLY = 600.0
"""Seconds before their expiry from which credentials are renewed."""

RETRY = 30.0
"""Seconds between tries to renew, while the old credentials still count."""

_TIMEOUTS = Timeouts(connect=1.0, first_byte=2.0, between_chunks=2.0, total=4.0)
_TRIES = 3
_CONTAINER = "http://169.254.170.2"
_INSTANCE = "http://169.254.169.254"
_ROLES = "/latest/meta-data/iam/security-credentials/"
_NEAR_HOSTS = ("169.254.170.2", "169.254.170.23", "fd00:ec2::23", "127.0.0.1", "::1", "localhost")


class Source(Protocol):
    """One place where credentials may be."""

    async def load(self) -> Credentials | None:
        """The credentials; None where this place has none. Raises ConfigError, WireError."""


class Given(msgspec.Struct, frozen=True):
    """Credentials of the environment, there from the start."""

    credentials: Credentials

    async def load(self) -> Credentials | None:
        """What was given."""
        return self.credentials


class _Answer(msgspec.Struct, rename="pascal"):
    access_key_id: str
    secret_access_key: str
    token: str = ""
    expiration: str = ""


class Container:
    """The container's endpoint. `token` or the file with it, read anew each time, goes into the authorization."""

    def __init__(self, wire: Wire, url: str, *, token: str = "", token_file: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _NEAR_HOSTS:
            raise ConfigError(f"credentials are not fetched from {parts.hostname} without TLS")
        self._wire = wire
        self._url = url
        self._token = token
        self._token_file = token_file

    async def load(self) -> Credentials | None:
        """Ask the endpoint."""
        token = self._token
        if self._token_file:
            token = (await _read(Path(self._token_file)) or "").strip()
        return _parse(await _get(self._wire, self._url, {"authorization": token} if token else {}))


class Instance:
    """The metadata service of an EC2 instance, version 2 alone: a session token first."""

    def __init__(self, wire: Wire, url: str = _INSTANCE) -> None:
        self._wire = wire
        self._url = url

    async def load(self) -> Credentials | None:
        """Ask for a token, the role's name and its credentials."""
        token = await _get(
            self._wire,
            f"{self._url}/latest/api/token",
            {"x-aws-ec2-metadata-token-ttl-seconds": "21600"},
            method="PUT",
        )
        headers = {"x-aws-ec2-metadata-token": token.decode("ascii", "replace").strip()}
        role = (await _get(self._wire, f"{self._url}{_ROLES}", headers)).decode("ascii", "replace").split()
        if not role:
            return None
        return _parse(await _get(self._wire, f"{self._url}{_ROLES}{role[0]}", headers))


class Profile(msgspec.Struct, frozen=True):
    """A profile of the shared credentials file, read anew each time: other programs renew it."""

    path: Path
    name: str = "default"

    async def load(self) -> Credentials | None:
        """The profile's keys; None where there is no such file or profile."""
        text = await _read(self.path)
        if text is None:
            return None
        # Imported here: a Lambda function has no such file, and the parser takes its part of a cold start.
        from configparser import Error, RawConfigParser

        parser = RawConfigParser()
        try:
            parser.read_string(text)
        except Error as error:
            raise ConfigError(f"{self.path} can't be read: {type(error).__name__}") from None
        if not parser.has_option(self.name, "aws_access_key_id"):
            return None
        section = parser[self.name]
        secret = section.get("aws_secret_access_key", "")
        return Credentials(section["aws_access_key_id"], secret, section.get("aws_session_token", ""))


class Chain:
    """The credentials of the first source that has some, kept and renewed EARLY before they expire.

    When renewing fails they count until they have expired. Raises ConfigError where no source has any.
    """

    def __init__(self, sources: tuple[Source, ...], clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._kept: Credentials | None = None
        self._next_try = 0.0

    async def current(self) -> Credentials:
        """Credentials to sign with now. Raises StoreBusyError where they can't be renewed at the moment."""
        kept, now = self._kept, self._clock.now()
        if kept is not None and (not kept.expires_at or now < max(kept.expires_at - EARLY, self._next_try)):
            return kept
        alive = kept is not None and now < kept.expires_at
        if alive:
            self._next_try = min(now + RETRY, kept.expires_at if kept else now)
        try:
            self._kept = await self._load()
        except (WireError, StoreBusyError) as error:
            if alive and kept is not None:
                return kept
            raise StoreBusyError(f"no AWS credentials: {error}", retry_after=1.0) from error
        self._next_try = 0.0
        return self._kept

    def forget(self, refused: Credentials) -> None:
        """The service refused these: load anew at the next call."""
        if self._kept is refused:
            self._kept = None

    async def _load(self) -> Credentials:
        for source in self._sources:
            if found := await source.load():
                return found
        raise ConfigError(
            "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run under a role, or name an "
            "AWS_PROFILE of ~/.aws/credentials"
        )


def credentials_of(settings: Settings, wire: Wire, clock: Clock) -> Chain:
    """The chain that the settings describe."""
    sources: list[Source] = []
    if settings.aws_access_key_id:
        given = Credentials(
            settings.aws_access_key_id, settings.aws_secret_access_key, settings.aws_session_token
        )
        sources.append(Given(given))
    relative = settings.aws_container_credentials_relative_uri
    url = _CONTAINER + relative if relative else settings.aws_container_credentials_full_uri
    if url:
        token, file = (
            settings.aws_container_authorization_token,
            settings.aws_container_authorization_token_file,
        )
        sources.append(Container(wire, url, token=token, token_file=file))
    path = Path(settings.aws_shared_credentials_file).expanduser()
    sources.append(Profile(path, settings.aws_profile))
    if settings.aws_instance_metadata:
        sources.append(Instance(wire))
    return Chain(tuple(sources), clock)


async def _get(wire: Wire, url: str, headers: Mapping[str, str], *, method: str = "GET") -> bytes:
    request = Request(method=method, url=url, headers=headers, timeouts=_TIMEOUTS)
    for left in reversed(range(_TRIES)):
        try:
            answer = await wire.send(request)
        except WireError:
            if not left:
                raise
            continue
        if answer.status == 200:
            return answer.body
        if answer.status < 500 or not left:
            raise StoreBusyError(f"{urlsplit(url).hostname} answered {answer.status} for credentials")
    raise AssertionError("the last try returned or raised")


def _parse(body: bytes) -> Credentials:
    # Imported here: credentials of the environment, which a Lambda function has, know no date.
    from datetime import datetime

    try:
        answer = msgspec.json.decode(body, type=_Answer)
        expires_at = datetime.fromisoformat(answer.expiration).timestamp() if answer.expiration else 0.0
    except (msgspec.MsgspecError, ValueError):
        raise StoreBusyError("what came for credentials can't be read") from None
    return Credentials(answer.access_key_id, answer.secret_access_key, answer.token, expires_at)


async def _read(path: Path) -> str | None:
    try:
        return await asyncio.to_thread(path.read_text, "utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
