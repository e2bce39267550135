"""What is fuzzed: every verifier, header parser, decryptor and reader of webhooks.

An input is a webhook as bytes: its URL, its headers as lines, its body, parted by NUL. A target gets what a
fuzzer made of it; that may be refused by a declared error, or accepted where it still says what was signed. All else
is a bug.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from agent_core.channels.catalog import make_channels
from agent_core.channels.markdown import PLAIN, render
from agent_core.channels.payload import read_json, read_xml
from agent_core.channels.slack import MRKDWN
from agent_core.channels.split import split
from agent_core.channels.telegram import HTML
from agent_core.errors import MalformedError, SignatureError
from agent_core.security.webhook import Webhook
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.base import Request, Response
from agent_core.wire.scripted import Answer
from tests.agent_core.channels.test_events import (
    EXPECTED,
    OPTIONS,
    SNS_CERTIFICATE,
    TEAMS_KEYS,
    body_of,
    read,
)

PUBLIC_URL = "https://api-id.execute-api.us-east-1.amazonaws.com"


class Seed(NamedTuple):
    """A good webhook of the events, and when it was signed."""

    hook: Webhook
    now: float
    kind: str


def seeds(*names: str) -> dict[str, Seed]:
    """Webhooks of events/ by name, all where none is named."""
    found = {}
    for name in names or sorted(EXPECTED):
        event = read(name)
        query = event["rawQueryString"]
        hook = Webhook(
            method=event["requestContext"]["http"]["method"],
            url=PUBLIC_URL + event["rawPath"] + (f"?{query}" if query else ""),
            headers=tuple((key, value) for key, value in event["headers"].items() if key != "host"),
            body=body_of(event),
        )
        found[name] = Seed(hook, EXPECTED[name].now, name.partition(".")[0])
    return found


def packed(hook: Webhook) -> bytes:
    """A webhook as a fuzzer's input."""
    lines = "\n".join(f"{name}: {value}" for name, value in hook.headers)
    return b"\0".join([hook.url.encode(), lines.encode("latin-1"), hook.body])


def unpacked(data: bytes, method: str) -> Webhook:
    """A fuzzer's input as a webhook, whatever it holds."""
    url, _, rest = data.partition(b"\0")
    lines, _, body = rest.partition(b"\0")
    headers = tuple(
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(":") for line in lines.decode("latin-1").split("\n"))
        if colon
    )
    return Webhook(method=method, url=url.decode("latin-1"), headers=headers, body=body)


Same = Callable[[Webhook, Webhook], bool]


def of_header(hook: Webhook, *names: str) -> list[str]:
    return [value for key, value in hook.headers if key in names]


def same_signed(*names: str) -> Same:
    """These headers and the body are as they were."""

    def same(good: Webhook, given: Webhook) -> bool:
        return of_header(good, *names) == of_header(given, *names) and good.body == given.body

    return same


def same_stripe(good: Webhook, given: Webhook) -> bool:
    """The same time, and the right signature among those that are there."""
    [right], [shown] = of_header(good, "stripe-signature"), of_header(given, "stripe-signature")
    return set(right.split(",")) <= set(shown.split(",")) and good.body == given.body


def same_standard(good: Webhook, given: Webhook) -> bool:
    [right], [shown] = of_header(good, "webhook-signature"), of_header(given, "webhook-signature")
    rest = same_signed("webhook-id", "webhook-timestamp")
    return right in shown.split() and rest(good, given)


def same_twilio(good: Webhook, given: Webhook) -> bool:
    """The same address (with its port or without) and the same text that Twilio signs of the fields."""
    addresses = [urlsplit(hook.url) for hook in (good, given)]
    places = [(part.hostname, part.path, part.query) for part in addresses]
    fields = [sorted(set(parse_qsl(hook.body.decode(), keep_blank_values=True))) for hook in (good, given)]
    signed = ["".join(name + value for name, value in pairs) for pairs in fields]
    return places[0] == places[1] and signed[0] == signed[1]


def same_teams(good: Webhook, given: Webhook) -> bool:
    """The same token, for the same address: it does not cover the rest of the body."""
    addresses = [json.loads(hook.body)["serviceUrl"] for hook in (good, given)]
    names = ("authorization",)
    return of_header(good, *names) == of_header(given, *names) and addresses[0] == addresses[1]


class Always:
    """A wire that gives the same whatever is asked: an address may be fuzzed, too."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def send(self, request: Request) -> Response:
        return Response(status=200, body=self._body)


class Verifier:
    """A channel's verification, of one seed. Without `same`, it must be the seed's message that comes out."""

    def __init__(self, name: str, same: Same | None) -> None:
        [self._seed] = seeds(name).values()
        kind = self._seed.kind
        wire = Always(SNS_CERTIFICATE) if kind == "email" else ScriptedWire([Answer(body=TEAMS_KEYS)] * 2)
        options = {**OPTIONS[kind], "kind": kind}
        clock = ManualClock(self._seed.now)
        self._channel = make_channels({kind: options}, wire=wire, clock=clock)[kind]
        self._same = same
        self._loop = asyncio.new_event_loop()
        self._said = self.verified(self._seed.hook)
        assert self._said is not None, "the seed must be good"

    def verified(self, hook: Webhook) -> bytes | None:
        try:
            return self._loop.run_until_complete(self._channel.verify(hook))
        except (SignatureError, MalformedError):
            return None

    def __call__(self, data: bytes) -> None:
        hook = unpacked(data, self._seed.hook.method)
        said = self.verified(hook)
        if said is not None:
            good = said == self._said if self._same is None else self._same(self._seed.hook, hook)
            assert good, f"accepted: {hook}"


def same_handshake(good: Webhook, given: Webhook) -> bool:
    """WhatsApp's: who knows the token may say what it likes besides."""
    names = ("hub.mode", "hub.verify_token")
    queries = [dict(parse_qsl(hook.query_string)) for hook in (good, given)]
    return all(queries[0][name] == queries[1].get(name) for name in names)


def same_plain(good: Webhook, given: Webhook) -> bool:
    """WeChat's plain mode signs the query alone."""
    names = ("signature", "timestamp", "nonce")
    queries = [dict(parse_qsl(hook.query_string)) for hook in (good, given)]
    return all(queries[0][name] == queries[1].get(name) for name in names)


def readers() -> Callable[[bytes], None]:
    """Whatever a channel reads, verified or not: nothing but a declared error comes of it."""
    channels = [
        make_channels(
            {kind: {**options, "kind": kind}}, wire=ScriptedWire(), clock=ManualClock(1_700_000_000.0)
        )[kind]
        for kind, options in sorted(OPTIONS.items())
    ]

    def target(data: bytes) -> None:
        for method in ("POST", "GET"):
            hook = unpacked(data, method)
            for channel in channels:
                try:
                    receipt = channel.read(hook, hook.body)
                except (SignatureError, MalformedError):
                    continue
                msgspec.json.encode(receipt)  # what comes of it can be stored
                assert all(event.parts for event in receipt.events)

    return target


def payloads(data: bytes) -> None:
    """JSON and XML: what we read is what the standard library reads, or it is refused."""
    try:
        value = read_json(data)
    except MalformedError:
        pass
    else:
        assert value == json.loads(data)
    try:
        fields = read_xml(data)
    except MalformedError:
        return
    assert b"<!DOCTYPE" not in data or b"<![CDATA[" in data or b"<!--" in data or b"<?" in data
    assert all(isinstance(text, str) for text in fields.values())


def answers(data: bytes) -> None:
    """What a model may write: cut in pieces that fit, in every dialect."""
    text = data.decode("utf-8", "replace")[:2000]
    for piece in split(text, 60):
        assert 0 < len(piece) <= 60 or "```" in piece or "~~~" in piece
        for dialect in (PLAIN, MRKDWN, HTML):
            render(piece, dialect)


def verifier(name: str, same: Same | None) -> Callable[[], Callable[[bytes], None]]:
    return lambda: Verifier(name, same)


OTHERS = ("readers", "payloads", "answers")

TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "slack": verifier("slack", same_signed("x-slack-signature", "x-slack-request-timestamp")),
    "stripe": verifier("stripe", same_stripe),
    "standard": verifier("standard", same_standard),
    "telegram": verifier(
        "telegram",
        lambda good, given: same_signed("x-telegram-bot-api-secret-token")(
            good, Webhook(headers=given.headers, body=good.body)
        ),
    ),
    "discord": verifier("discord", same_signed("x-signature-ed25519", "x-signature-timestamp")),
    "feishu": verifier("feishu", None),
    "feishu.card": verifier("feishu.card", same_signed("x-lark-signature", "x-lark-request-timestamp")),
    "wecom": verifier("wecom", None),
    "wechat": verifier("wechat", same_plain),
    "twilio": verifier("twilio", same_twilio),
    "whatsapp": verifier("whatsapp.handshake", same_handshake),
    "teams": verifier("teams", same_teams),
    "email": verifier("email", None),
    "readers": readers,
    "payloads": lambda: payloads,
    "answers": lambda: answers,
}


VERIFIED = {"whatsapp": "whatsapp.handshake"}
"""The event that is the seed of a target, where it is not of the same name."""


def corpus(target: str) -> Iterator[bytes]:
    """Inputs to begin with: the target's good webhook, or all of them."""
    names = [] if target in OTHERS else [VERIFIED.get(target, target)]
    for seed in seeds(*names).values():
        yield seed.hook.body if target in ("payloads", "answers") else packed(seed.hook)


def write_corpus(target: str, folder: Path) -> None:
    """Have a folder hold them, as a fuzzer wants it."""
    for number, data in enumerate(corpus(target)):
        (folder / f"seed-{number}").write_bytes(data)
