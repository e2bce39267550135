"""The door: who is calling, what they may do, and how often. Every way in asks here first."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal
from urllib.parse import urlsplit

from agent_core.clock import Clock
from agent_core.errors import ConfigError, InputError, QuotaError, UnknownCallerError
from agent_core.messages import Principal
from agent_core.security import scopes as all_scopes
from agent_core.security.keys import PREFIX, Keys
from agent_core.security.logins import CSRF_HEADER, Logins, cookie_of, csrf_valid
from agent_core.security.openid import Issuer, stepped_at
from agent_core.security.rates import Buckets, Rate, Standing, headers_of
from agent_core.security.slots import Slots
from agent_core.security.stepup import StepUp
from agent_core.security.visitor import OWNER, Caller, Visitor, host_of, is_local
from agent_core.settings import Settings
from agent_core.store.base import Store
from agent_core.wire.base import Wire

Asked = Literal["nobody", "strangers", "everybody"]

HOW = (
    "send a key as `Authorization: Bearer sampan_...` (or X-Api-Key); `sampan keys create` makes one, "
    "run where the service's store is"
)


def asked(settings: Settings) -> Asked:
    """Who must show a key. On one's own machine only strangers; wherever others can reach the service, everybody.

    Raises ConfigError where the settings would open a Lambda function to the world.
    """
    on_lambda = bool(settings.aws_lambda_function_name) and not settings.is_local
    if settings.auth == "off":
        if on_lambda:
            raise ConfigError("SAMPAN_AUTH=off is not for AWS Lambda, which the whole internet reaches")
        return "nobody"
    if settings.auth or on_lambda:
        return "everybody"
    if settings.is_local:
        return "nobody"
    public = host_of(urlsplit(settings.public_url).netloc)
    return "strangers" if is_local(settings.host) and (not public or is_local(public)) else "everybody"


class Door:
    """Lets requests in. `keys` and `logins` are where callers are kept, `issuer` signs tokens where one is set."""

    def __init__(self, settings: Settings, store: Store, wire: Wire, clock: Clock) -> None:
        self.asked = asked(settings)
        self.keys = Keys(store, clock)
        self.logins = Logins(store, self.keys, clock)
        self.stepup = StepUp(settings, store, clock)
        self.issuer = Issuer(settings, wire, clock) if settings.openid_issuer else None
        self._gateway = settings.auth == "gateway"
        self._audience = settings.openid_audience
        self._settings = settings
        self._buckets = Buckets(store, clock)
        self._key_rate = _rate("SAMPAN_KEY_RATE", settings.key_rate)
        self._tenant_rate = _rate("SAMPAN_TENANT_RATE", settings.tenant_rate)
        count = settings.tenant_concurrency
        self._slots = Slots(store, clock, count) if count else None

    async def admit(self, visitor: Visitor, scope: str) -> Caller:
        """Who it is, known, allowed to do this, and within their limits.

        Raises UnknownCallerError, ScopeError, QuotaError. The limits' headers are in `visitor.told`, whatever happens.
        """
        caller = await self.authenticate(visitor)
        caller.check(scope)
        await self._count(caller, visitor.told)
        return caller

    async def again(self, caller: Caller, scope: str) -> None:
        """The same for a further request on a connection that was let in: the key may have ended meanwhile."""
        if caller.key and await self.keys.current(caller.key) is None:
            raise UnknownCallerError("the key that opened this connection has ended", given=True)
        caller.check(scope)
        await self._count(caller, [])

    def slot(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """While a request is under way it takes one of its tenant's places. Raises QuotaError where there is none."""
        return nullcontext() if self._slots is None else self._slots.held(caller.principal.tenant)

    async def authenticate(self, visitor: Visitor) -> Caller:
        """Who it is. Raises UnknownCallerError, which says what to do."""
        if self._gateway and visitor.gateway:
            return self._by_gateway(visitor.gateway)
        credential = visitor.credential
        # Where nobody need show anything, clients that must send some key (OpenAI's) may send what they like.
        if credential and (credential.startswith(PREFIX) or self.asked == "everybody"):
            return await self._by_credential(credential)
        if self.asked == "nobody" or (self.asked == "strangers" and visitor.near):
            return OWNER
        if self.asked == "strangers" and not cookie_of(visitor):
            raise UnknownCallerError(
                "without a key this service answers requests from this machine to localhost alone, and this one was "
                f"for {visitor.host[:200] or 'no host'!r} or came over a proxy: {HOW}"
            )
        return await self._by_cookie(visitor)

    async def _by_credential(self, text: str) -> Caller:
        if text.startswith(PREFIX):
            key = await self.keys.find(text)
            if key is None:
                raise UnknownCallerError(f"this key is not good, or not any more: {HOW}", given=True)
            return Caller(principal=key.principal, key=key.id, rate=key.rate)
        if self.issuer is not None and self._audience:
            who, stepped = await self.issuer.caller(text)
            return Caller(principal=who, stepped_at=stepped)
        raise UnknownCallerError(f"this is no key of this service: {HOW}", given=True)

    async def _by_cookie(self, visitor: Visitor) -> Caller:
        token = cookie_of(visitor)
        caller = await self.logins.find(token) if token else None
        if caller is None:
            raise UnknownCallerError(f"every request needs a key: {HOW}", given=bool(token))
        if visitor.changes and not csrf_valid(token, visitor.headers.get(CSRF_HEADER, "")):
            raise UnknownCallerError(f"with a cookie, a change needs the header {CSRF_HEADER} of its page")
        return caller

    def _by_gateway(self, context: Mapping[str, Any]) -> Caller:
        """By what an authorizer of API Gateway found: a JWT's claims, or the fields that a function gave.

        https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
        """
        settings, stepped = self._settings, 0.0
        jwt = context.get("jwt")
        claims = jwt.get("claims") if isinstance(jwt, Mapping) else None
        if isinstance(claims, Mapping):
            tenant = claims.get(settings.openid_tenant_claim) if settings.openid_tenant_claim else "default"
            user, scopes = claims.get(settings.openid_user_claim), claims.get(settings.openid_scope_claim, "")
            stepped = stepped_at(claims, settings)
        else:
            given = context.get("lambda")
            fields = given if isinstance(given, Mapping) else context
            tenant, user, scopes = (
                fields.get("tenant", "default"),
                fields.get("user"),
                fields.get("scopes", ""),
            )
        if not (isinstance(tenant, str) and isinstance(user, str) and tenant and user):
            raise UnknownCallerError(
                "the gateway's authorizer does not say who: it gives `user` and `tenant`"
            )
        names = scopes.strip("[]").replace(",", " ").split() if isinstance(scopes, str) else ()
        who = Principal(tenant=tenant, user=user, scopes=all_scopes.known(names))
        return Caller(principal=who, stepped_at=stepped)

    async def _count(self, caller: Caller, told: list[tuple[bytes, bytes]]) -> None:
        """Take a token of the key's bucket and of the tenant's. Without limits, nothing is asked of the store."""
        tenant = caller.principal.tenant
        own = Rate.parse(caller.rate) if caller.rate else self._key_rate
        whose = f"key/{caller.key}" if caller.key else f"user/{caller.principal.user}"
        wanted = [("key", whose, own)] if own else []
        if self._tenant_rate:
            wanted.append(("tenant", "tenant", self._tenant_rate))
        standings: list[Standing] = []
        try:
            for policy, name, rate in wanted:
                standings.append(await self._buckets.take(policy, tenant, name, rate))
        except QuotaError as error:
            policy, name, rate = wanted[len(standings)]
            standings.append(Standing(policy, rate, 0, int(error.retry_after or 1)))
            if len(standings) == 2:  # the tenant's was empty: the key's token was not used
                await self._buckets.give_back(tenant, whose, wanted[0][2])
            raise
        finally:
            told += headers_of(standings)


def _rate(name: str, text: str) -> Rate | None:
    try:
        return Rate.parse(text) if text else None
    except InputError as error:
        raise ConfigError(f"{name}={text} can't be used: {error.detail}") from None
