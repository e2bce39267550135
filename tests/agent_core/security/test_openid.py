"""Tokens of an OpenID issuer: every check of them, and how seldom its keys are fetched."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from agent_core.errors import ConfigError, UnknownCallerError
from agent_core.security.door import Door
from agent_core.security.openid import KEYS_SECONDS, REFRESH_SECONDS, IssuerError
from agent_core.security.openid import Issuer as Reader
from agent_core.settings import Settings
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock
from agent_core.wire.httpcore import HttpcoreWire
from tests.agent_core.security.conftest import visitor
from tests.agent_core.security.issuer import AUDIENCE, CLIENT, SECRET, Issuer, running

OTHER_KEY = RSAKey.generate_key(2048, {"kid": "one"})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


@pytest.fixture
def clock(issuer: Issuer) -> ManualClock:
    clock = ManualClock()
    issuer.now = clock.now()
    return clock


def set_up(issuer: Issuer, **more: Any) -> Settings:
    return Settings(
        auth="on",
        openid_issuer=issuer.url,
        openid_audience=AUDIENCE,
        openid_client_id=CLIENT,
        openid_client_secret=SECRET,
        **more,
    )


@pytest.fixture
async def door(issuer: Issuer, clock: ManualClock) -> AsyncIterator[Door]:
    wire = HttpcoreWire()
    yield Door(set_up(issuer, openid_tenant_claim="org"), MemoryStore(clock), wire, clock)
    await wire.close()


async def enter(door: Door, token: str) -> Any:
    return (await door.authenticate(visitor(headers={"authorization": f"Bearer {token}"}))).principal


async def test_a_token_says_who_it_is(issuer: Issuer, door: Door) -> None:
    token = issuer.token(org="acme", scope="openid agents:run agents:run runs:read admins")
    who = await enter(door, token)
    assert (who.tenant, who.user, who.scopes) == ("acme", "ada", ("agents:run", "runs:read"))
    listed = issuer.token(org="acme", scope=["agents:run", 7], aud=["x", AUDIENCE])
    assert (await enter(door, listed)).scopes == ("agents:run",)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://else.example.com"},
        {"aud": None},
        {"aud": CLIENT},
        {"aud": []},
        {"iss": "https://login.example.com"},
        {"iss": None},
        {"exp": None},
        {"exp": 0},
        {"exp": "soon"},
        {"exp": float("nan")},
        {"nbf": 10**11},
        {"iat": 10**11},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"org": None},
        {"org": ""},
        {"org": ["acme"]},
    ],
    ids=str,
)
async def test_what_a_token_must_say(issuer: Issuer, door: Door, claims: dict[str, Any]) -> None:
    with pytest.raises(UnknownCallerError) as raised:
        await enter(door, issuer.token(**{"org": "acme", **claims}))
    assert raised.value.given


async def test_clocks_may_differ_by_a_minute(issuer: Issuer, door: Door, clock: ManualClock) -> None:
    token = issuer.token(org="acme")
    clock.advance(300 + 59)
    assert await enter(door, token)
    clock.advance(1)
    with pytest.raises(UnknownCallerError, match="Expired"):
        await enter(door, token)
    assert await enter(door, issuer.token(org="acme", nbf=int(clock.now()) + 60, exp=int(clock.now()) + 99))


def unsigned(issuer: Issuer) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ada", "org": "acme", "exp": int(issuer.now) + 300}
    return f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims)}."


def confused(issuer: Issuer) -> str:
    """Signed with the issuer's public key as if that were a shared secret."""
    header = {"alg": "HS256", "kid": "one"}
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ada", "org": "acme", "exp": int(issuer.now) + 300}
    signed = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    )
    proof = hmac.digest(issuer.keys[0].as_pem(private=False), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(proof).rstrip(b'=').decode()}"


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
@pytest.mark.parametrize(
    "make",
    [
        unsigned,
        confused,
        lambda issuer: issuer.token(org="acme", key=OTHER_KEY),
        lambda issuer: issuer.token(org="acme", alg="RS512"),
        lambda issuer: issuer.token(org="acme", alg="PS256"),
        lambda issuer: issuer.token(org="acme")[:-2],
        lambda issuer: issuer.token(org="acme").rpartition(".")[0] + ".",
        lambda issuer: "a.b.c",
        lambda issuer: "x",
        lambda issuer: ".." * 50,
        lambda issuer: "é.é.é",
    ],
)
async def test_only_its_own_signature_counts(issuer: Issuer, door: Door, make: Any) -> None:
    with pytest.raises(UnknownCallerError):
        await enter(door, make(issuer))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), letter=st.sampled_from("Aa0_-.=é \n"))
def test_a_token_that_was_changed_is_never_taken(
    issuer: Issuer, clock: ManualClock, place: int, letter: str
) -> None:
    async def run() -> None:
        wire = HttpcoreWire()
        door = Door(set_up(issuer), MemoryStore(clock), wire, clock)
        token = issuer.token(scope="agents:run")
        changed = token[: place % len(token)] + letter + token[place % len(token) + 1 :]
        try:
            if changed != token and changed.rstrip() != token:
                # The last letter of a part has bits that mean nothing: such a token is the same one.
                assert _bytes(changed) == _bytes(token) or not await enter(door, changed)
        except UnknownCallerError:
            pass
        finally:
            await wire.close()

    asyncio.run(run())


def _bytes(token: str) -> list[bytes]:
    try:
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    except ValueError:
        return []


async def test_its_keys_are_fetched_seldom(issuer: Issuer, door: Door, clock: ManualClock) -> None:
    assert issuer.asked["/keys"] == 0
    for _ in range(5):
        await enter(door, issuer.token(org="acme"))
    assert issuer.asked["/keys"] == 1
    clock.advance(REFRESH_SECONDS)
    issuer.now = clock.now()
    old = issuer.token(org="acme", exp=int(clock.now()) + 99_999)
    issuer.rotate()
    assert await enter(door, issuer.token(org="acme", alg="ES256"))  # its new key was looked for at once
    assert issuer.asked["/keys"] == 2
    with pytest.raises(UnknownCallerError):
        await enter(door, old)  # published no more
    for _ in range(20):  # strangers can't make us ask and ask
        with pytest.raises(UnknownCallerError):
            await enter(door, issuer.token(org="acme", key=OTHER_KEY))
    assert issuer.asked["/keys"] == 2
    clock.advance(KEYS_SECONDS)
    issuer.now = clock.now()
    await enter(door, issuer.token(org="acme", alg="ES256"))
    assert issuer.asked["/keys"] == 3
    assert issuer.asked["/.well-known/openid-configuration"] == 1


async def test_while_it_is_down_its_known_keys_go_on(issuer: Issuer, door: Door, clock: ManualClock) -> None:
    issuer.down = True
    with pytest.raises(IssuerError, match="503") as raised:
        await enter(door, issuer.token(org="acme"))
    assert raised.value.status == 503
    issuer.down = False
    await enter(door, issuer.token(org="acme"))
    issuer.down = True
    clock.advance(KEYS_SECONDS)
    issuer.now = clock.now()
    assert await enter(door, issuer.token(org="acme"))


async def test_another_issuers_description_is_not_taken(issuer: Issuer, clock: ManualClock) -> None:
    wire = HttpcoreWire()
    door = Door(
        Settings(auth="on", openid_issuer=issuer.url + "/", openid_audience=AUDIENCE),
        MemoryStore(clock),
        wire,
        clock,
    )
    with pytest.raises(IssuerError, match="describes the issuer"):
        await enter(door, issuer.token())
    await wire.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"openid_issuer": "http://login.example.com"}, "https"),
        ({"openid_issuer": "login"}, "https"),
        ({"openid_audience": "", "openid_client_id": ""}, "SAMPAN_OPENID_AUDIENCE"),
        ({"openid_algorithms": ("HS256",)}, "HS256"),
        ({"openid_algorithms": ("none",)}, "none"),
        ({"openid_algorithms": ()}, "RS256"),
    ],
)
def test_settings_that_are_not_safe(clock: ManualClock, values: dict[str, Any], words: str) -> None:
    given = {"openid_issuer": "https://login.example.com", "openid_audience": AUDIENCE, **values}
    with pytest.raises(ConfigError, match=words):
        Reader(Settings(**given), HttpcoreWire(), clock)
