"""An OpenID issuer: its description and keys, the tokens that it signs, and the login by its page.

https://openid.net/specs/openid-connect-core-1_0.html, https://openid.net/specs/openid-connect-discovery-1_0.html
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from agent_core.clock import Clock
from agent_core.errors import AgentError, ConfigError, UnknownCallerError, WireError
from agent_core.messages import Principal
from agent_core.security import scopes as all_scopes
from agent_core.security.visitor import is_local
from agent_core.settings import Settings
from agent_core.wire.base import Request, Timeouts, Wire

LEEWAY_SECONDS = 60
"""How far the issuer's clock may be from ours."""

KEYS_SECONDS = 3600.0
"""How long its keys are believed without asking again."""

REFRESH_SECONDS = 60.0
"""For a key that is not known the issuer is asked again, but not more often than this."""

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""Signatures with a public key. With a shared secret whoever can check a token could make one."""

_TIMEOUTS = Timeouts(connect=3.0, first_byte=10.0, between_chunks=5.0, total=15.0)


class IssuerError(AgentError):
    """The issuer of tokens can't be asked now."""

    status, slug, title, retryable = 503, "issuer", "The issuer of tokens did not answer", True


class Description(msgspec.Struct, frozen=True):
    """What the issuer says of itself (OpenID Connect Discovery, section 3)."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""


class Issuer:
    """One issuer, as the settings name it. Nothing is fetched before the first token comes."""

    def __init__(self, settings: Settings, wire: Wire, clock: Clock) -> None:
        _check(settings)
        self._settings = settings
        self._wire = wire
        self._clock = clock
        self._lock = asyncio.Lock()
        self._description: Description | None = None
        self._keys: Any = None
        self._fetched_at = 0.0

    async def caller(self, token: str) -> tuple[Principal, float]:
        """Who an access token for this service is of, and when they showed a second factor (0: the token does not say).

        Raises UnknownCallerError, IssuerError.
        """
        claims = await self.claims(token, self._settings.openid_audience)
        scope = claims.get(self._settings.openid_scope_claim, "")
        names = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        who = self.principal_of(claims, all_scopes.known(name for name in names if isinstance(name, str)))
        return who, stepped_at(claims, self._settings)

    def principal_of(self, claims: Mapping[str, Any], scopes: tuple[str, ...]) -> Principal:
        """Who the claims are of: tenant and user by the claims that the settings name."""
        tenant_claim = self._settings.openid_tenant_claim
        tenant = claims.get(tenant_claim) if tenant_claim else "default"
        user = claims.get(self._settings.openid_user_claim)
        for claim, value in ((tenant_claim, tenant), (self._settings.openid_user_claim, user)):
            if not isinstance(value, str) or not 0 < len(value) <= 256:
                raise UnknownCallerError(
                    f"the token does not say who: no text in claim {claim!r}", given=True
                )
        return Principal(tenant=str(tenant), user=str(user), scopes=scopes)

    async def claims(self, token: str, audience: str) -> dict[str, Any]:
        """What a token for this audience says, its signature, issuer, audience and times checked."""
        # Loaded with the first token: who uses keys alone, and a cold start, does not pay for it.
        from joserfc import jwt
        from joserfc.errors import InvalidKeyIdError, JoseError

        algorithms = list(self._settings.openid_algorithms)
        rules = jwt.JWTClaimsRegistry(
            now=int(self._clock.now()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._settings.openid_issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        try:
            try:
                read = jwt.decode(token, await self._current_keys(), algorithms=algorithms)
            except InvalidKeyIdError:  # it may be newer than what we know
                read = jwt.decode(token, await self._newer_keys(), algorithms=algorithms)
            rules.validate(read.claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            why = type(error).__name__
            raise UnknownCallerError(f"the token is not good here: {why} {error}", given=True) from None
        return read.claims

    async def _current_keys(self) -> Any:
        if self._keys is None or self._clock.monotonic() - self._fetched_at >= KEYS_SECONDS:
            await self._fetch(KEYS_SECONDS)
        return self._keys

    async def _newer_keys(self) -> Any:
        await self._fetch(REFRESH_SECONDS)
        return self._keys

    async def _fetch(self, age: float) -> None:
        """Have keys that are not older than this; those there are go on where the issuer can't be asked."""
        async with self._lock:
            now = self._clock.monotonic()
            if self._keys is not None and now - self._fetched_at < age:
                return
            # As above: loaded with the first token.
            from joserfc.errors import JoseError
            from joserfc.jwk import KeySet

            try:
                body = await self._ask(Request(method="GET", url=(await self.description()).jwks_uri))
                self._keys = KeySet.import_key_set(msgspec.json.decode(body))
            except (JoseError, msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
                if self._keys is None:
                    raise IssuerError(f"the issuer's keys can't be read: {error}") from None
            except IssuerError:
                if self._keys is None:
                    raise
            self._fetched_at = now

    async def description(self) -> Description:
        """What the issuer says of itself; asked once. Raises IssuerError."""
        if self._description is None:
            name = self._settings.openid_issuer
            url = f"{name.rstrip('/')}/.well-known/openid-configuration"
            try:
                found = msgspec.json.decode(await self._ask(Request(method="GET", url=url)), type=Description)
            except msgspec.DecodeError as error:
                raise IssuerError(f"{url} can't be read: {error}") from None
            if found.issuer != name:
                raise IssuerError(f"{url} describes the issuer {found.issuer[:200]!r}, not {name!r}")
            for address in (found.jwks_uri, found.authorization_endpoint, found.token_endpoint):
                if address and not _safe(address):
                    raise IssuerError(f"{url} names {address[:200]!r}: only https is safe there")
            self._description = found
        return self._description

    async def _ask(self, request: Request) -> bytes:
        try:
            answer = await self._wire.send(msgspec.structs.replace(request, timeouts=_TIMEOUTS))
        except WireError as error:
            raise IssuerError(f"{request.url}: {error.detail}", retry_after=5.0) from None
        if answer.status != 200:
            raise IssuerError(f"{request.url} answered {answer.status}", retry_after=5.0)
        return answer.body

    # The login by the issuer's page: authorization code with PKCE (RFC 6749 section 4.1, RFC 7636)

    async def login_url(self, *, secret: str, redirect_uri: str) -> str:
        """The issuer's page that asks who it is. All that this attempt shows is derived from its `secret`, which the
        person's browser keeps in a cookie and nobody else sees.
        """
        page = (await self.description()).authorization_endpoint
        if not page:
            raise IssuerError("the issuer has no page to log in at")
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.openid_client_id,
                "redirect_uri": redirect_uri,
                "scope": "openid profile",
                "state": _derived(secret, "state"),
                "nonce": _derived(secret, "nonce"),
                "code_challenge": _challenge(_derived(secret, "verifier")),
                "code_challenge_method": "S256",
            }
        )
        return f"{page}{'&' if '?' in page else '?'}{query}"

    async def logged_in(self, code: str, state: str, *, secret: str, redirect_uri: str) -> Principal:
        """Who logged in, by the code and state that the issuer sent back. Raises UnknownCallerError, IssuerError."""
        if not secret or not _same(state, _derived(secret, "state")):
            raise UnknownCallerError("this login was begun in another browser, or too long ago", given=True)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._settings.openid_client_id,
            "code_verifier": _derived(secret, "verifier"),
        }
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        if self._settings.openid_client_secret:
            pair = f"{quote(form['client_id'], '')}:{quote(self._settings.openid_client_secret, '')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        url = (await self.description()).token_endpoint
        body = await self._ask(
            Request(method="POST", url=url, headers=headers, body=urlencode(form).encode())
        )
        try:
            token = msgspec.json.decode(body, type=_Tokens).id_token
        except msgspec.DecodeError as error:
            raise IssuerError(f"{url} gave no id token: {error}") from None
        claims = await self.claims(token, self._settings.openid_client_id)
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not _same(nonce, _derived(secret, "nonce")):
            raise UnknownCallerError("the token is of another login", given=True)
        return self.principal_of(claims, all_scopes.checked(self._settings.openid_scopes))


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


def _check(settings: Settings) -> None:
    if not _safe(settings.openid_issuer):
        raise ConfigError(f"SAMPAN_OPENID_ISSUER={settings.openid_issuer}: name an https address")
    if not settings.openid_audience and not settings.openid_client_id:
        raise ConfigError(
            "SAMPAN_OPENID_AUDIENCE is not set: name what tokens for this service have as their audience (and "
            "SAMPAN_OPENID_CLIENT_ID for logins in the console)"
        )
    wrong = set(settings.openid_algorithms) - set(ALGORITHMS)
    if wrong or not settings.openid_algorithms:
        raise ConfigError(
            f"SAMPAN_OPENID_ALGORITHMS takes some of {', '.join(ALGORITHMS)}, not {sorted(wrong)}"
        )
    all_scopes.checked(settings.openid_scopes)


def _safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and is_local(parts.hostname or ""))


def _same(shown: str, expected: str) -> bool:
    return hmac.compare_digest(shown.encode("utf-8", "replace"), expected.encode())


def _derived(secret: str, purpose: str) -> str:
    """Another secret from the one of a login, so that only that one need be kept."""
    digest = hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def stepped_at(claims: Mapping[str, Any], settings: Settings) -> float:
    """When who the claims are of showed a second factor; 0 where they do not say that it was one that we trust.

    Both claims count, as RFC 9470 section 6 wants: how it was done (`acr`), and when (`auth_time`).
    """
    if not settings.openid_acr or claims.get("acr") not in settings.openid_acr:
        return 0.0
    try:
        return max(float(claims.get("auth_time") or 0), 0.0)
    except (TypeError, ValueError):
        return 0.0
