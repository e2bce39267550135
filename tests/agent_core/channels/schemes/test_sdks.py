"""The services' own SDKs agree with our verification on 10,000 requests, good and bad."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import pytest
import standardwebhooks
import stripe
from linebot.v3.webhook import SignatureValidator
from slack_sdk.signature import SignatureVerifier
from twilio.request_validator import RequestValidator

from agent_core.channels.schemes.base import Scheme
from agent_core.channels.schemes.hmacs import LINE, SLACK, STRIPE, HmacScheme
from agent_core.channels.schemes.standard import StandardScheme
from agent_core.channels.schemes.twilio import TwilioScheme, sign
from agent_core.errors import SignatureError
from agent_core.security.webhook import Webhook

EACH = 2_000
LETTERS = 'abcxyz0129 =&%+\u00e9\u4f60\U0001f600\\"{}\n'


class Case(NamedTuple):
    """A request as it arrives, the time then, and the secret of whoever verifies it."""

    hook: Webhook
    now: float
    secret: str
    good: bool


class Maker:
    """Makes requests of one service, signed with a key; about half of them are spoilt in one of several ways."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def text(self, least: int = 0, most: int = 60) -> str:
        return "".join(self.random.choices(LETTERS, k=self.random.randint(least, most)))

    def spoilt(self, body: bytes, signature: str, stamp: int, now: float) -> tuple[bytes, str, float, str]:
        """The body, the signature and the time, one of them perhaps spoilt, and which."""
        how = self.random.choice(["", "", "", "", "body", "signature", "case", "cut", "late", "empty"])
        if how == "body":
            text = body.decode()
            place = self.random.randrange(len(text) + 1)
            body = f"{text[:place]}x{text[place:]}".encode()
        elif how == "signature":
            place = self.random.randrange(len(signature) - 8, len(signature) - 2)
            wrong = "A" if signature[place] != "A" else "B"
            signature = signature[:place] + wrong + signature[place + 1 :]
        elif how == "case":
            signature = signature.swapcase()
        elif how == "cut":
            signature = signature[:-4]
        elif how == "empty":
            signature = ""
        elif how == "late":
            now = stamp + self.random.randint(301, 100_000)
        return body, signature, now, how


def ours(scheme: Scheme, case: Case) -> bool:
    try:
        scheme.verify(case.hook, case.now)
    except SignatureError:
        return False
    return True


def hexed(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()


class Still:
    """A clock for Slack's SDK."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        return self._now


def slack(maker: Maker) -> tuple[Case, bool, Scheme]:
    secret, body, stamp = maker.text(8, 40), maker.text().encode(), 1_700_000_000
    now: float = stamp + maker.random.randint(-300, 300)
    signature = "v0=" + hexed(secret.encode(), f"v0:{stamp}:".encode() + body)
    body, signature, now, how = maker.spoilt(body, signature, stamp, now)
    headers = {"x-slack-request-timestamp": str(stamp), "x-slack-signature": signature}
    case = Case(Webhook(headers=tuple(headers.items()), body=body), now, secret, not how)
    theirs = SignatureVerifier(secret, Still(now)).is_valid_request(body, headers)
    return case, theirs, HmacScheme(SLACK, [secret])


def line(maker: Maker) -> tuple[Case, bool, Scheme]:
    secret, text = maker.text(8, 40), maker.text()
    signature = base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()).decode()
    body, signature, _, how = maker.spoilt(text.encode(), signature, 0, 0)
    case = Case(
        Webhook(headers=(("x-line-signature", signature),), body=body), 0, secret, how in ("", "late")
    )
    return case, SignatureValidator(secret).validate(body.decode(), signature), HmacScheme(LINE, [secret])


def stripe_(maker: Maker) -> tuple[Case, bool, Scheme]:
    secret, body, stamp = "whsec_" + maker.text(8, 40), maker.text().encode(), int(time.time())
    # Stripe's SDK reads the machine's own clock, and lets times of the future pass: that difference is ours to keep.
    signature = hexed(secret.encode(), f"{stamp}.".encode() + body)
    body, signature, now, how = maker.spoilt(body, signature, stamp, float(stamp))
    shown = stamp - int(now - stamp)  # what is late for us is old for them
    others = maker.random.choice(["", ",v0=abc", ",v1=" + "0" * 64])
    header = f"t={stamp},v1={signature}{others}"
    if how == "late":
        signature = hexed(secret.encode(), f"{shown}.".encode() + body)
        header, now = f"t={shown},v1={signature}{others}", float(stamp)
    case = Case(Webhook(headers=(("stripe-signature", header),), body=body), now, secret, not how)
    try:
        theirs = bool(stripe.WebhookSignature.verify_header(body.decode(), header, secret, tolerance=300))
    except stripe.SignatureVerificationError:
        theirs = False
    return case, theirs, HmacScheme(STRIPE, [secret])


def standard(maker: Maker) -> tuple[Case, bool, Scheme]:
    key = maker.random.randbytes(maker.random.randint(24, 64))
    secret = "whsec_" + base64.b64encode(key).decode()
    body, stamp, name = maker.text().encode(), int(time.time()), "msg_" + str(maker.random.random())
    if maker.random.random() < 0.2:
        stamp += maker.random.choice([-4000, 4000])  # old, or of the future
    digest = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    body, signature, _, how = maker.spoilt(body, signature, stamp, 0)
    entries = [f"v1,{signature}", "v2,abcd", "v1," + base64.b64encode(b"0" * 32).decode()]
    maker.random.shuffle(entries)
    headers = {
        "webhook-id": name,
        "webhook-timestamp": str(stamp),
        "webhook-signature": " ".join(entries),
    }
    now = time.time()
    good = how in ("", "late") and abs(now - stamp) < 1000
    case = Case(Webhook(headers=tuple(headers.items()), body=body), now, secret, good)
    try:
        standardwebhooks.Webhook(secret).verify(body, headers, json_parse=False)
        theirs = True
    except (standardwebhooks.WebhookVerificationError, binascii.Error):  # what is no base64 makes it raise
        theirs = False
    return case, theirs, StandardScheme([secret])


def twilio(maker: Maker) -> tuple[Case, bool, Scheme]:
    secret = maker.text(8, 40)
    fields = [(maker.text(1, 8), maker.text(0, 20)) for _ in range(maker.random.randint(0, 6))]
    fields += fields[:1] if maker.random.random() < 0.3 else []
    port = maker.random.choice(["", ":443", ":8443"])
    url = f"https://example.com{port}/hook?a={maker.random.randint(0, 9)}"
    body = urlencode(fields).encode()
    json_body = maker.random.random() < 0.3
    if json_body:
        body = maker.text().encode()
        url += f"&bodySHA256={hashlib.sha256(body).hexdigest()}"
    signed = maker.random.choice([url, url.replace(":443", ""), url.replace(".com/", ".com:443/")])
    signature = sign(secret, signed, [] if json_body else fields)
    body, signature, _, how = maker.spoilt(body, signature, 0, 0)
    if how == "body" and not json_body:  # a letter in a form may be one in its coding: change what it says
        body = urlencode([*fields, ("extra", "1")]).encode()
    hook = Webhook(url=url, headers=(("x-twilio-signature", signature),), body=body)
    params: Any = body.decode() if json_body else _Several(parse_qs(body.decode(), keep_blank_values=True))
    theirs = RequestValidator(secret).validate(url, params, signature)
    return Case(hook, 0, secret, how in ("", "late")), theirs, TwilioScheme([secret])


class _Several(dict[str, list[str]]):
    """A form as web frameworks give it to Twilio's SDK."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


@pytest.mark.parametrize("make", [slack, line, stripe_, standard, twilio], ids=lambda make: make.__name__)
def test_the_official_sdk_agrees(make: Callable[[Maker], tuple[Case, bool, Scheme]]) -> None:
    maker = Maker(make.__name__)
    seen: Counter[bool] = Counter()
    for number in range(EACH):
        case, theirs, scheme = make(maker)
        assert ours(scheme, case) == theirs, f"request {number}: {case}, theirs: {theirs}"
        if case.good:
            assert theirs, f"request {number} is good: {case}"
        else:
            assert not theirs, f"request {number} is spoilt: {case}"
        seen[theirs] += 1
    assert min(seen[True], seen[False]) > EACH // 5, f"both kinds must come: {seen}"
