"""Amazon SNS: a message is signed with a key whose certificate lies with AWS.

https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent_core.channels.payload import read_object
from agent_core.errors import MalformedError, SignatureError
from agent_core.security.webhook import Webhook

WINDOW_SECONDS = 3600.0
"""How old a message may be: AWS tries for an hour by default (delivery policy), and does not sign anew."""

FUTURE_SECONDS = 300.0
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")
_CERTIFICATE = re.compile(r"SimpleNotificationService-[0-9a-zA-Z]{1,64}\.pem")
_FIELDS = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        *("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    ),
}


def read(hook: Webhook) -> dict[str, Any]:
    """The message, nothing of it believed yet; raises SignatureError where it is none that could be signed."""
    try:
        message = read_object(hook.body)
    except MalformedError as error:
        raise SignatureError(f"no message of SNS: {error.detail}") from None
    kind = message.get("Type")
    wanted = _FIELDS.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        raise SignatureError(f"SNS sends {' and '.join(_FIELDS)}, not {str(kind)[:40]!r}")
    names = [*wanted, "Signature", "SignatureVersion", "SigningCertURL"]
    for name in names:
        if not isinstance(message.get(name), str) and not (name == "Subject" and message.get(name) is None):
            raise SignatureError(f"the message has no text {name}")
    if message["SignatureVersion"] not in ("1", "2"):
        raise SignatureError("the signature's version is neither 1 nor 2")
    return message


def region(topic: str) -> str:
    """The region of a topic's ARN; "" where it is none."""
    found = _TOPIC.fullmatch(topic)
    return found[1] if found else ""


def expect(message: Mapping[str, Any], topics: tuple[str, ...], now: float) -> None:
    """Raise SignatureError unless the message says that it is of a topic of ours, and made lately.

    Looked at before anything is fetched for it, so that nobody has us fetch who knows no topic of ours.
    """
    if message["TopicArn"] not in topics:
        raise SignatureError("the topic is not one of ours")
    try:
        at = datetime.fromisoformat(message["Timestamp"].replace("Z", "+00:00")).timestamp()
        base64.b64decode(message["Signature"], validate=True)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise SignatureError(f"the signature can't be checked: {type(error).__name__}") from None
    if not -FUTURE_SECONDS <= now - at <= WINDOW_SECONDS:
        raise SignatureError("the message is too old, or from the future")


def is_certificate(url: str, topic: str, local: str = "") -> bool:
    """Whether a certificate lies with SNS in the topic's region; `local` is another base, for tests."""
    return any(
        url.startswith(base) and _CERTIFICATE.fullmatch(url, len(base)) for base in _bases(topic, local)
    )


def is_api(url: str, topic: str, local: str = "") -> bool:
    """Whether an address calls SNS in the topic's region."""
    return any(url.startswith(f"{base}?Action=") for base in _bases(topic, local))


def _bases(topic: str, local: str) -> list[str]:
    # The region is our own topic's: buckets and other services have names that look like a region's of SNS.
    china = ".cn" if topic.startswith("arn:aws-cn:") else ""
    return [f"https://sns.{region(topic)}.amazonaws.com{china}/", *([f"{local}/"] if local else [])]


def check(message: Mapping[str, Any], certificate: bytes) -> None:
    """Raise SignatureError unless the key of this certificate (PEM) signed the message."""
    # Loaded with the first message: other channels need none of it.
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    signed = "".join(
        f"{name}\n{message[name]}\n" for name in _FIELDS[message["Type"]] if message.get(name) is not None
    )
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
        signature = base64.b64decode(message["Signature"], validate=True)
        text = signed.encode()
    except (ValueError, binascii.Error) as error:
        raise SignatureError(f"the signature can't be checked: {type(error).__name__}") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise SignatureError("the certificate's key is not RSA")
    # SNS's own first version, for topics that were made before there was a second one.
    digest = hashes.SHA256() if message["SignatureVersion"] == "2" else hashes.SHA1()  # noqa: S303
    try:
        key.verify(signature, text, padding.PKCS1v15(), digest)
    except InvalidSignature:
        raise SignatureError("the signature does not match") from None


def loads(certificate: bytes) -> bool:
    """Whether this is a certificate (PEM)."""
    # Loaded with the first message: other channels need none of it.
    from cryptography import x509

    try:
        x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return False
    return True
