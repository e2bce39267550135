"""Every vector and every mutation of the shared data comes out as it says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from agent_core.channels.base import Channel
from agent_core.channels.catalog import make_channels
from agent_core.channels.schemes.base import Scheme
from agent_core.channels.schemes.ed25519 import Ed25519Scheme
from agent_core.channels.schemes.envelope import Envelope
from agent_core.channels.schemes.hmacs import (
    DINGTALK_ROBOT,
    LINE,
    META,
    SLACK,
    STRIPE,
    HmacScheme,
    TokenScheme,
)
from agent_core.channels.schemes.lark import LarkScheme, decrypt
from agent_core.channels.schemes.standard import StandardScheme
from agent_core.channels.schemes.twilio import TwilioScheme
from agent_core.channels.weixin import encrypted
from agent_core.errors import ConfigError, HandshakeError, SignatureError
from agent_core.security.webhook import Webhook
from agent_core.testing import ManualClock, ScriptedWire

DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "webhook_vectors.json"


def cases() -> Iterator[Any]:
    """Each vector as it stands, and once more for each of its mutations."""
    for number, vector in enumerate(json.loads(DATA.read_text(encoding="utf-8"))["vectors"]):
        plain = {name: value for name, value in vector.items() if name != "mutations"}
        yield pytest.param(plain, id=f"{number}-{vector['provider']}")
        for mutation in vector.get("mutations", []):
            changed = {
                **plain,
                **{name: mutation[name] for name in mutation if name not in ("headers", "query")},
            }
            for name in ("headers", "query"):
                if name in mutation:
                    changed[name] = {**plain.get(name, {}), **mutation[name]}
            yield pytest.param(changed, id=f"{number}-{vector['provider']}: {mutation['why']}")


def scheme(case: dict[str, Any]) -> Scheme:
    """The scheme of a vector's provider with its secrets."""
    secret = case.get("secret", "")
    makers = {
        "standard-webhooks": lambda: StandardScheme([secret]),
        "slack": lambda: HmacScheme(SLACK, [secret]),
        "github": lambda: HmacScheme(META, [secret]),
        "whatsapp-cloud": lambda: HmacScheme(META, [secret]),
        "stripe": lambda: HmacScheme(STRIPE, [secret]),
        "discord": lambda: Ed25519Scheme([case["public_key"]]),
        "telegram": lambda: TokenScheme("x-telegram-bot-api-secret-token", [secret]),
        "feishu-event-signature": lambda: LarkScheme([case["encrypt_key"]], ["v"]),
        "dingtalk-robot": lambda: HmacScheme(DINGTALK_ROBOT, [secret]),
        "twilio": lambda: TwilioScheme([secret]),
        "line": lambda: HmacScheme(LINE, [secret]),
    }
    return makers[case["provider"]]()


def webhook(case: dict[str, Any]) -> Webhook:
    body = case.get("body")
    if body is None:
        body = urlencode(case.get("params", {}), doseq=True)
    headers = {name.lower(): value for name, value in case["headers"].items()}
    headers.pop(case.get("drop", "").lower(), None)
    return Webhook(url=case.get("url", ""), headers=tuple(headers.items()), body=body.encode())


def now_of(case: dict[str, Any]) -> float:
    """The vector's own time, else the one it was signed at."""
    if "now_ms" in case:
        return float(case["now_ms"] / 1000)
    stamps = [value for name, value in case.get("headers", {}).items() if name.lower().endswith("timestamp")]
    return float(case.get("now") or (stamps[0] if stamps else 0))


SIGNED = [case for case in cases() if "headers" in case.values[0]]
SEALED = [case for case in cases() if "encoding_aes_key" in case.values[0]]
OTHERS = {"feishu-decrypt", "feishu-challenge", "wechat-official-account-plain"}


def test_no_vector_is_left_out() -> None:
    """Each of the 18 vectors is of one of the kinds that are tested below."""
    every = list(cases())
    there = {case.id for case in SIGNED} | {case.id for case in SEALED}
    left = [case for case in every if case.id not in there]
    assert {case.values[0]["provider"] for case in left} == OTHERS
    assert (len(every), len(there)) == (41, 38)


@pytest.mark.parametrize("case", SIGNED)
def test_signed(case: dict[str, Any]) -> None:
    expect = case["expect"]
    if expect == "config-error":
        with pytest.raises(ConfigError):
            scheme(case)
        return
    if expect == "valid":
        assert scheme(case).verify(webhook(case), now_of(case)) == webhook(case).body
        return
    assert expect in ("invalid", "401")
    with pytest.raises(SignatureError) as refused:
        scheme(case).verify(webhook(case), now_of(case))
    assert refused.value.status == 401


@pytest.mark.parametrize("case", SEALED)
def test_sealed(case: dict[str, Any]) -> None:
    """WeCom and DingTalk: signature, decryption, receiver; the handshake's word too."""
    query = case["query"]
    milliseconds = case["provider"].startswith("dingtalk")
    envelope = Envelope(
        [case["token"]], [case["encoding_aes_key"]], case["receive_id"], milliseconds=milliseconds
    )
    sealed = query.get("echostr") or case.get("encrypt") or json.loads(case["body"])["encrypt"]
    given = query.get("msg_signature") or query["signature"]
    now = float(query["timestamp"]) / (1000 if milliseconds else 1)
    if case.get("expect") == "invalid":
        with pytest.raises(SignatureError):
            envelope.open(given, query["timestamp"], query["nonce"], sealed, now)
        return
    clear = envelope.open(given, query["timestamp"], query["nonce"], sealed, now)
    assert clear.decode() == case.get("plaintext", case.get("response_body"))
    with pytest.raises(SignatureError, match="s from now"):
        envelope.open(given, query["timestamp"], query["nonce"], sealed, now + 301)


def channel(kind: str, now: float, **options: str) -> Channel:
    clock = ManualClock(now)
    return make_channels({kind: {"kind": kind, **options}}, wire=ScriptedWire(), clock=clock)[kind]


def vector(provider: str) -> dict[str, Any]:
    return next(case.values[0] for case in cases() if case.values[0]["provider"] == provider)


def test_feishu_decrypts() -> None:
    case = vector("feishu-decrypt")
    assert decrypt(case["encrypt_key"], case["encrypt"]) == case["plaintext"].encode()
    assert decrypt("another key", case["encrypt"]) is None


async def test_feishu_handshake() -> None:
    """Its token is compared; an event without a signature is refused, though it holds the token."""
    case = vector("feishu-challenge")
    feishu = channel("feishu", 0, secret="encrypt-key", verification_token="TOK-TOK-")
    body = case["request_body"].replace("TOK", "TOK-TOK-").encode()
    receipt = feishu.read(Webhook(body=body), await feishu.verify(Webhook(body=body)))
    assert (receipt.ack.status, receipt.ack.body.decode()) == (case["response_status"], case["response_body"])
    with pytest.raises(HandshakeError):
        await feishu.verify(Webhook(body=case["request_body"].encode()))
    with pytest.raises(SignatureError):
        await feishu.verify(Webhook(body=body.replace(b"url_verification", b"event_callback")))


@pytest.mark.parametrize(
    ("body", "challenge"),
    [(b'{"type":1}', b'{"type":1}'), (b'{"type":0}', b"")],
    ids=["interaction", "event"],
)
async def test_discord_pings(body: bytes, challenge: bytes) -> None:
    case = vector("discord")
    discord = channel("discord", now_of(case), secret=case["public_key"])
    hook = webhook(case)
    assert await discord.verify(hook) == hook.body
    answer = discord.read(hook, body).ack
    assert (answer.status, answer.body) == (200 if challenge else 204, challenge)


async def test_whatsapp_handshake() -> None:
    shake = vector("whatsapp-cloud")["handshake"]
    whatsapp = channel("whatsapp", 0, secret="It-is-a-secret", verify_token="TOK")
    address = "https://example.com" + shake["request"].removeprefix("GET ")
    hook = Webhook(method="GET", url=address)
    answer = whatsapp.read(hook, await whatsapp.verify(hook)).ack
    assert (answer.status, answer.body.decode()) == (shake["response_status"], shake["response_body"])
    with pytest.raises(HandshakeError) as refused:
        await whatsapp.verify(Webhook(method="GET", url=address.replace("TOK", "tok")))
    assert refused.value.status == shake["wrong_token_status"]


async def test_wechat_plain_handshake() -> None:
    case = vector("wechat-official-account-plain")
    wechat = channel("wechat", float(case["query"]["timestamp"]), verification_token=case["token"])
    hook = Webhook(method="GET", url="https://example.com/?" + urlencode({**case["query"], "echostr": "abc"}))
    assert wechat.read(hook, await wechat.verify(hook)).ack.body == b"abc"
    with pytest.raises(SignatureError):
        await wechat.verify(Webhook(method="GET", url=hook.url.replace("nonce=test", "nonce=tesu")))


async def test_wecom_handshake_and_message() -> None:
    """The official sample through the channel: the echo in the clear, the message with its id."""
    shake, said = vector("wecom-verify-url"), vector("wecom-message")
    options = {
        "secret": shake["encoding_aes_key"],
        "verification_token": shake["token"],
        "receiver": shake["receive_id"],
    }
    wecom = channel("wecom", float(shake["query"]["timestamp"]), **options)
    hook = Webhook(method="GET", url="https://example.com/?" + urlencode(shake["query"]))
    assert wecom.read(hook, await wecom.verify(hook)).ack.body.decode() == shake["response_body"]
    body = f"<xml><ToUserName>a</ToUserName><Encrypt><![CDATA[{said['encrypt']}]]></Encrypt></xml>".encode()
    hook = Webhook(url="https://example.com/?" + urlencode(said["query"]), body=body)
    [event] = wecom.read(hook, await wecom.verify(hook)).events
    assert (event.id, event.sender, event.parts[0].text) == ("4561255354251345929", "mycreate", "hello")
    assert encrypted(body) == said["encrypt"]


async def test_dingtalk_callback_is_answered_sealed() -> None:
    case = vector("dingtalk-event-callback")
    options = {
        "secret": case["encoding_aes_key"],
        "verification_token": case["token"],
        "receiver": case["receive_id"],
    }
    now = float(case["query"]["timestamp"]) / 1000
    dingtalk = channel("dingtalk", now, **options)
    hook = Webhook(url="https://example.com/?" + urlencode(case["query"]), body=case["body"].encode())
    answer = json.loads(dingtalk.read(hook, await dingtalk.verify(hook)).ack.body)
    envelope = Envelope([case["token"]], [case["encoding_aes_key"]], case["receive_id"], milliseconds=True)
    sealed = (answer["msg_signature"], answer["timeStamp"], answer["nonce"], answer["encrypt"])
    assert envelope.open(*sealed, now) == b"success"


@pytest.mark.parametrize(
    "url_and_signature",
    [
        ("https://mycompany.com:443/myapp.php?foo=1&bar=2", "kvajT1Ptam85bY51eRf/AJRuM3w="),
        ("https://mycompany.com/myapp.php?foo=1&bar=2", "kvajT1Ptam85bY51eRf/AJRuM3w="),
    ],
)
def test_twilio_with_a_port(url_and_signature: tuple[str, str]) -> None:
    """Published in twilio-python's tests: Twilio signs with and without the port."""
    case = vector("twilio")
    url, signature = url_and_signature
    changed = {**case, "url": url, "headers": {"X-Twilio-Signature": signature}}
    scheme(changed).verify(webhook(changed), 0)


def test_twilio_json_body() -> None:
    """Published in twilio-python's tests: the address holds the hash of the body."""
    body = b'{"property": "value", "boolean": true}'
    digest = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
    url = f"https://mycompany.com/myapp.php?foo=1&bar=2&bodySHA256={digest}"
    hook = Webhook(url=url, headers=(("x-twilio-signature", "a9nBmqA0ju/hNViExpshrM61xv4="),), body=body)
    assert TwilioScheme(["12345"]).verify(hook, 0) == body
    changed = Webhook(url=url, headers=hook.headers, body=body + b" ")
    with pytest.raises(SignatureError):
        TwilioScheme(["12345"]).verify(changed, 0)


@pytest.mark.parametrize(
    "stamp", ["01614265330", "+1614265330", "1614265330.0", " 1614265330", "\u0661", "1" * 17, ""]
)
def test_a_time_has_one_form(stamp: str) -> None:
    """What another reader might take for the same time is not what was signed."""
    case = vector("standard-webhooks")
    changed = {**case, "headers": {**case["headers"], "webhook-timestamp": stamp}}
    with pytest.raises(SignatureError):
        scheme(changed).verify(webhook(changed), 1_614_265_330)


@pytest.mark.parametrize(
    "provider", ["slack", "stripe", "github", "line", "standard-webhooks", "telegram", "dingtalk-robot"]
)
def test_headers_that_no_one_can_read_are_refused(provider: str) -> None:
    """Twice, empty, not ASCII, with a line break: refused by the declared error, never by another."""
    case = vector(provider)
    good = webhook(case)
    for name, value in good.headers:
        for pairs in (
            [(name, value)] * 2,
            [(name, "")],
            [(name, value + "\u00e9")],
            [(name, value + "\n")],
            [],
        ):
            rest = tuple(pair for pair in good.headers if pair[0] != name)
            with pytest.raises(SignatureError):
                scheme(case).verify(Webhook(headers=(*rest, *pairs), body=good.body), now_of(case))


def test_v1a_by_public_key() -> None:
    """Ed25519 over the same content as v1, beside secrets and other keys (RFC 8032 section 7.1, test 1)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    signature = base64.b64encode(private.sign(b'msg_1.1700000000.{"a":1}')).decode()
    other = base64.b64encode(bytes(64)).decode()

    def hook(signatures: str, body: bytes = b'{"a":1}') -> Webhook:
        stamps = (("webhook-id", "msg_1"), ("webhook-timestamp", "1700000000"))
        return Webhook(headers=(*stamps, ("webhook-signature", signatures)), body=body)

    both = StandardScheme(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", public])
    assert both.verify(hook(f"v1a,{other} v1a,{signature}"), 1_700_000_000)
    for wrong in (
        hook(f"v1a,{signature}", b"{}"),
        hook(f"v1,{signature}"),
        hook(f"v1a,{other}"),
        hook("v1a,="),
    ):
        with pytest.raises(SignatureError):
            both.verify(wrong, 1_700_000_000)
    with pytest.raises(ConfigError):
        StandardScheme(["whpk_AAAA"])
