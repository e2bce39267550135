"""What holds for whatever is signed: it verifies, and no change of a byte does."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.channels.schemes.base import fresh
from agent_core.channels.schemes.ciphers import padded, unpadded
from agent_core.channels.schemes.envelope import Envelope, signature
from agent_core.channels.schemes.hmacs import HmacScheme, Rule
from agent_core.errors import ConfigError, SignatureError
from agent_core.security.encoding import base64_bytes, hex_bytes
from agent_core.security.webhook import Webhook

NOW = 1_700_000_000
KEY = "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
RULES = st.builds(
    Rule,
    header=st.just("x-sig"),
    prefix=st.sampled_from(["", "sha256=", "v0="]),
    digest=st.sampled_from(["sha1", "sha256", "sha512"]),
    encoding=st.sampled_from(["hex", "base64"]),
    signed=st.sampled_from(["{timestamp}.{body}", "v0:{timestamp}:{body}", "{body}{timestamp}"]),
    timestamp=st.just("x-time"),
)
BOUNDS = settings(max_examples=150, deadline=None)


@BOUNDS
@given(RULES, st.binary(max_size=80), st.integers(-300, 300), st.integers(0, 10_000), st.integers(1, 255))
def test_by_whatever_rule_no_byte_can_change(rule: Rule, body: bytes, off: int, place: int, by: int) -> None:
    scheme = HmacScheme(rule, ["another-secret", "the-secret"])
    stamp = str(NOW + off)
    signed = scheme.sign("the-secret", body, stamp)
    hook = Webhook(headers=(("x-sig", signed), ("x-time", stamp)), body=body)
    assert scheme.verify(hook, NOW) == body
    at = place % (len(body) or 1)
    changed = body[:at] + bytes([body[at] ^ by]) + body[at + 1 :] if body else b"x"
    letters = "0" if signed[-3] != "0" else "1"
    wrong = [
        Webhook(headers=hook.headers, body=changed),
        Webhook(headers=hook.headers, body=body + b"\0"),
        Webhook(headers=(("x-sig", signed[:-3] + letters + signed[-2:]), ("x-time", stamp)), body=body),
        Webhook(headers=(("x-sig", signed), ("x-time", str(NOW + off + 1))), body=body),
    ]
    for one in wrong:
        with pytest.raises(SignatureError):
            scheme.verify(one, NOW)
    with pytest.raises(SignatureError):
        scheme.verify(hook, NOW + off + 301)
    with pytest.raises(SignatureError):
        scheme.verify(hook, NOW + off - 301)


def opened_or_words(envelope: Envelope, sealed: str) -> tuple[bytes | None, str]:
    """What an envelope opens to that somebody signed who knows the token; or the words it is refused with."""
    given_signature = signature("token", str(NOW), "nonce", sealed)
    try:
        return envelope.open(given_signature, str(NOW), "nonce", sealed, NOW), ""
    except SignatureError as error:
        return None, error.detail


@BOUNDS
@given(st.binary(max_size=200), st.integers(0, 10_000), st.integers(1, 255), st.text(max_size=20))
def test_an_envelope_opens_as_it_was_sealed(message: bytes, place: int, by: int, receiver: str) -> None:
    receiver = "corp" + receiver.encode("utf-8", "replace").decode()
    envelope = Envelope(["token"], [KEY], receiver)
    text, signed = envelope.seal(message, bytes(16), str(NOW), "nonce")
    assert envelope.open(signed, str(NOW), "nonce", text, NOW) == message
    data = base64_bytes(text)
    assert data is not None
    # Whoever knows the token, but not the key, may sign what they like: it is still no message for this receiver.
    at = place % len(data)
    spoilt = b64encode(data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]).decode()
    opened, words = opened_or_words(envelope, spoilt)
    assert opened is not None or words == "the message can't be decrypted", (
        "the same, whatever was wrong inside"
    )
    assert opened != message or at < 32  # the noise before the message is not looked at
    with pytest.raises(SignatureError):
        Envelope(["token"], [KEY], "somebody else").open(signed, str(NOW), "nonce", text, NOW)


@BOUNDS
@given(st.binary(max_size=100), st.sampled_from([16, 32]))
def test_padding_is_checked_byte_by_byte(data: bytes, block: int) -> None:
    whole = padded(data, block)
    assert len(whole) % block == 0
    assert unpadded(whole, block) == data
    count = whole[-1]
    for place in range(len(whole) - count, len(whole)):
        spoilt = whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :]
        assert unpadded(spoilt, block) is None
    assert unpadded(data + b"\0", block) is None
    assert unpadded(bytes([block + 1]) * 64, block) is None


@BOUNDS
@given(st.text(max_size=40))
def test_encodings_have_one_form(text: str) -> None:
    """A text is read as bytes only if those bytes are written as this very text."""
    for read, write in ((base64_bytes, _base64), (hex_bytes, bytes.hex)):
        data = read(text)
        assert data is None or write(data) == text


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


@BOUNDS
@given(st.text(max_size=20), st.floats(0, 4e9))
def test_no_text_is_a_time_but_a_time(text: str, now: float) -> None:
    try:
        fresh(text, now)
    except SignatureError:
        return
    assert str(int(text)) == text
    assert abs(int(text) - now) <= 300


@pytest.mark.parametrize(
    ("rule", "secrets"),
    [
        ({"signed": "{timestamp}"}, ["a"]),
        ({"signed": "{body}", "timestamp": "t"}, ["a"]),
        ({"signed": "{timestamp}{body}"}, ["a"]),
        ({}, []),
        ({}, ["a", ""]),
        ({}, ["  "]),
    ],
)
def test_a_rule_that_protects_nothing_does_not_start(rule: dict[str, Any], secrets: list[str]) -> None:
    with pytest.raises(ConfigError):
        HmacScheme(Rule(header="x", **rule), secrets)
