"""Amazon SES and SNS: mail that was received, told by a signed message; the API that sends mail.

The certificate is made here, and lies at an address of this fake, which the channel's option `local` lets it believe.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services import Hook, Speaker

TOPIC = "arn:aws:sns:eu-west-1:123456789012:mail"
GOOD = dict.fromkeys(("spam", "virus", "spf", "dkim", "dmarc"), "PASS")
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        *("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    ),
}


@cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key().public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1))
        .not_valid_after(datetime(2020, 1, 1) + timedelta(days=20_000))
        .sign(key(), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


class FakeEmail(Speaker):
    """Knows no mail again."""

    kind = "email"
    limit = 100_000
    groups = False
    LIMITED = Said(429, {"message": "Maximum sending rate exceeded."}, {"retry-after": "30"})
    REFUSED = Said(
        400, {"message": "Email address is not verified."}, {"x-amzn-errortype": "MessageRejected"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.confirmed = 0

    def settings(self) -> dict[str, str]:
        return {"topic": TOPIC, "sender": "Shop <bot@shop.example>", "api": self.url, "local": self.url} | {
            "access_key_id": "AKIDEXAMPLE",
            "secret_access_key": "wJalrXUtnFEMI",
        }

    def hook(self, text: str, *, name: str, who: str, group: str, file: str, now: float) -> Hook:
        message = EmailMessage()
        message["From"] = f"{who.title()} <{who}@example.com>"
        message["To"] = "bot@shop.example"
        message["Subject"] = "My order"
        message["Message-ID"] = f"<{name}@example.com>"
        message["References"] = f"<first-of-{who}@example.com>"
        message.set_content(text)
        if file:
            kind, data = self.files[file]
            message.add_attachment(
                data, maintype=kind.partition("/")[0], subtype=kind.partition("/")[2], filename=file
            )
        return self.received(message.as_bytes(), name=name, now=now)

    def received(
        self,
        raw: bytes,
        *,
        name: str,
        now: float,
        verdicts: Mapping[str, str] = GOOD,
        plain: bool = False,
        envelope: str = "ada@example.com",
    ) -> Hook:
        told = {
            "notificationType": "Received",
            "mail": {"messageId": f"ses-{name}", "source": envelope, "destination": ["bot@shop.example"]},
            "receipt": {
                "action": {"type": "SNS", "topicArn": TOPIC, "encoding": "UTF-8" if plain else "BASE64"},
                **{f"{kind}Verdict": {"status": status} for kind, status in verdicts.items()},
            },
            "content": raw.decode() if plain else base64.b64encode(raw).decode(),
        }
        return self.message("Notification", json.dumps(told), now=now, name=name)

    def message(self, kind: str, text: str, *, now: float, name: str = "1", **more: Any) -> Hook:
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        fields = {
            "Type": kind,
            "MessageId": f"sns-{name}",
            "TopicArn": TOPIC,
            "Message": text,
            "Timestamp": stamp,
            "SignatureVersion": "2",
            "SigningCertURL": f"{self.url}/SimpleNotificationService-1.pem",
            **more,
        }
        return self.signed(fields)

    def signed(self, fields: dict[str, Any]) -> Hook:
        names = SIGNED[fields["Type"]]
        text = "".join(f"{name}\n{fields[name]}\n" for name in names if name in fields).encode()
        digest = hashes.SHA256() if fields["SignatureVersion"] == "2" else hashes.SHA1()
        signature = key().sign(text, padding.PKCS1v15(), digest)
        body = json.dumps({**fields, "Signature": base64.b64encode(signature).decode()}).encode()
        return Hook(
            body, {"content-type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": fields["Type"]}
        )

    def unsigned(self, hook: Hook) -> Hook:
        other = base64.b64encode(bytes(256)).decode()
        return Hook(json.dumps({**json.loads(hook.body), "Signature": other}).encode(), hook.headers)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        self.calls.append(f"{method} {path.partition('?')[0]}")
        if path.endswith(".pem"):
            return Said(200, certificate())
        if path.startswith("/?Action=ConfirmSubscription"):
            self.confirmed += 1
            return Said(200, b"<ConfirmSubscriptionResponse/>")
        if path != "/v2/email/outbound-emails" or method != "POST":
            return Said(404, {"message": "Not found"})
        scope = (
            r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/eu-west-1/ses/aws4_request, SignedHeaders=[a-z0-9;-]+, "
        )
        if not re.match(scope, headers.get("authorization", "")):
            return Said(403, {"message": "Missing token"}, {"x-amzn-errortype": "MissingAuthenticationToken"})
        asked = json.loads(body)
        raw = base64.b64decode(asked["Content"]["Raw"]["Data"])
        mail = message_from_bytes(raw, policy=policy.default)
        [to] = asked["Destination"]["ToAddresses"]
        assert mail["To"] == to
        assert mail["From"] == asked["FromEmailAddress"] == "Shop <bot@shop.example>"
        assert mail["Auto-Submitted"] == "auto-replied"
        text = mail.get_body(("plain",)).get_content().replace("\r\n", "\n").rstrip()
        number = self.add(text, mail=mail, raw=raw, where=f"{to} {mail['References']}")
        return Said(200, {"MessageId": number})

    def reached(self) -> list[str]:
        return [message["where"].partition(" ")[0] for message in self.messages]
