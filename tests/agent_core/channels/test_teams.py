"""The Bot Framework's keys: fetched once, anew for a key that is not there, and not for every nonsense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from agent_core.channels.catalog import make_channels
from agent_core.channels.teams import Teams
from agent_core.errors import ChannelError, SignatureError
from agent_core.security.webhook import Webhook
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer

NOW = 1_700_000_000.0
BODY = json.dumps({"type": "message", "id": "1", "serviceUrl": "https://s/", "channelId": "msteams"}).encode()
KEYS = {name: RSAKey.generate_key(2048, parameters={"kid": name}) for name in ("old", "new")}


def key_set(*names: str) -> Answer:
    keys = [{**KEYS[name].as_dict(private=False), "kid": name, "endorsements": ["msteams"]} for name in names]
    return Answer(body=json.dumps({"keys": keys}).encode())


def token(name: str, **claims: Any) -> str:
    usual = {
        "iss": "https://api.botframework.com",
        "aud": "app",
        "exp": NOW + 600,
        "serviceurl": "https://s/",
    }
    return jwt.encode({"alg": "RS256", "kid": name}, {**usual, **claims}, KEYS[name])


def hook(value: str) -> Webhook:
    return Webhook(headers=(("authorization", f"Bearer {value}"),), body=BODY)


def teams(*answers: Answer) -> tuple[Teams, ScriptedWire, ManualClock]:
    wire, clock = ScriptedWire(answers), ManualClock(NOW)
    made = make_channels({"teams": {"kind": "teams", "app_id": "app"}}, wire=wire, clock=clock)["teams"]
    assert isinstance(made, Teams)
    return made, wire, clock


async def test_keys_are_fetched_once_and_renewed_for_a_new_one() -> None:
    channel, wire, clock = teams(key_set("old"), key_set("old", "new"))
    for _ in range(3):
        assert await channel.verify(hook(token("old"))) == BODY
    assert len(wire.requests) == 1
    with pytest.raises(SignatureError):
        await channel.verify(
            hook(token("new"))
        )  # fetched a moment ago: not again for a key that nobody knows
    clock.advance(301)
    assert await channel.verify(hook(token("new"))) == BODY
    wire.assert_used_up()


async def test_a_key_service_that_is_down_is_not_called_for_each_webhook() -> None:
    channel, wire, clock = teams(Answer(status=503), key_set("old"))
    for _ in range(3):
        with pytest.raises(ChannelError):
            await channel.verify(hook(token("old")))
    assert len(wire.requests) == 1
    clock.advance(11)
    assert await channel.verify(hook(token("old"))) == BODY


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": None},
        {"exp": NOW - 301},
        {"nbf": NOW + 301},
        {"serviceurl": "https://evil.example/"},
        {"exp": "soon"},
    ],
)
async def test_claims_are_checked(claims: dict[str, Any]) -> None:
    channel, _, _ = teams(key_set("old"))
    with pytest.raises(SignatureError):
        await channel.verify(hook(token("old", **claims)))


@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256", "kid": "old"}, {"alg": "RS256", "kid": "new"}]
)
async def test_algorithms_are_pinned(header: dict[str, str]) -> None:
    """No signature at all; the public key used as a secret; a key's name that is not the signer's."""
    from base64 import urlsafe_b64encode

    def part(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    _, claims, signature = token("old").split(".")
    channel, _, _ = teams(key_set("old", "new"))
    with pytest.raises(SignatureError):
        await channel.verify(hook(f"{part(header)}.{claims}.{signature}"))


async def test_a_key_must_endorse_the_channel() -> None:
    channel, _, _ = teams(key_set("old"))
    body = BODY.replace(b"msteams", b"webchat")
    with pytest.raises(SignatureError):
        await channel.verify(Webhook(headers=hook(token("old")).headers, body=body))
