"""E-mail by Amazon SES: what comes in is told by SNS, answers go out in the same thread.

https://docs.aws.amazon.com/ses/latest/dg/receiving-email-action-sns.html
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from agent_core.aws.client import STALE, THROTTLED, CredentialsSource
from agent_core.aws.credentials import Chain, Given, credentials_of
from agent_core.aws.sigv4 import Credentials, Scope, sign
from agent_core.channels import mail
from agent_core.channels.base import Channel, Event, Letter, Options, Receipt, acknowledged
from agent_core.channels.calls import json_of, refused
from agent_core.channels.payload import read_object, text_at
from agent_core.channels.schemes import sns
from agent_core.clock import Clock
from agent_core.errors import ChannelError, ConfigError, MalformedError, SignatureError
from agent_core.security.webhook import Webhook
from agent_core.settings import Settings
from agent_core.wire.base import Request, Timeouts, Wire
from agent_core.wire.retry import retry_after

CERTIFICATE_TIMEOUTS = Timeouts(connect=2.0, first_byte=3.0, between_chunks=3.0, total=5.0)
MOST_CERTIFICATES = 10


class EmailOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for e-mail."""

    topic: tuple[str, ...] = ()
    """ARN of the SNS topic that SES tells of mail; only messages of it are believed."""

    sender: str = ""
    """The address that answers come from, `Name <bot@example.com>`, verified in SES; unset, nobody is answered."""

    authenticated: bool = True
    """Whether only mail is read whose sender is proved: DMARC, or DKIM and SPF of the domain where it has none."""

    access_key_id: str = ""
    """Key id that signs calls of SES; unset, the credentials of the process, such as a function's role."""

    secret_access_key: str = ""
    """Secret of that key id."""

    api: str = ""
    """Base URL of SES's API; unset, that of the topic's region."""

    local: str = ""
    """Base URL of an emulated SNS, whose certificates are believed besides AWS's own: for tests."""


class Email(Channel):
    """An address that mail is received for."""

    Options = EmailOptions
    limit = 100_000

    def __init__(self, name: str, options: EmailOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        self._topics = self.secrets("topic")
        region = [sns.region(topic) for topic in self._topics]
        if not all(region):
            raise ConfigError("the topic is no ARN of SNS, such as arn:aws:sns:eu-west-1:123456789012:mail")
        if options.sender and not mail.address(options.sender):
            raise ConfigError("the sender is no e-mail address")
        self._api = options.api.rstrip("/") or f"https://email.{region[0]}.amazonaws.com"
        self._region = region[0]
        self._certificates: dict[str, bytes] = {}
        self._source: CredentialsSource | None = None

    async def verify(self, hook: Webhook) -> bytes:
        """The message of SNS, signed by AWS, of our topic; a new subscription of that is confirmed."""
        message = sns.read(hook)
        sns.expect(message, self._topics, self.clock.now())
        certificate = await self._certificate(message["SigningCertURL"], message["TopicArn"])
        sns.check(message, certificate)
        if message["Type"] == "SubscriptionConfirmation":
            await self._confirm(message["SubscribeURL"], message["TopicArn"])
            return b"{}"
        return str(message["Message"]).encode()

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """One mail of a person, where SES received it whole and found no harm in it."""
        told = read_object(body)
        if text_at(told, "notificationType") != "Received":
            return Receipt(ack=acknowledged())
        message = mail.read(self._raw(told))
        who = mail.sender(message)
        own = mail.address(self.options.sender)
        if not who or who == own or mail.automatic(message) or not self._sound(told, who):
            return Receipt(ack=acknowledged())
        root, ids = mail.thread(message)
        options = {
            "subject": mail.header(message, "Subject")[:500],
            "message_id": ids[-1] if ids else "",
            "references": " ".join(ids),
        }
        event = Event(
            id=text_at(told, "mail", "messageId"),
            parts=mail.parts(message),
            sender=who,
            thread=root,
            address=who if own else "",
            options={name: value for name, value in options.items() if value},
        )
        return Receipt(events=(event,) if event.parts else (), ack=acknowledged())

    def _sound(self, told: Mapping[str, Any], who: str) -> bool:
        """Whether SES found neither spam nor a virus, and who it is from proved.

        SPF and DKIM alone prove the domain of the envelope and of whoever signed, which may be a stranger's own: they
        count where the envelope is of the domain that people see, and never against DMARC.
        """

        def verdict(name: str) -> str:
            return text_at(told, "receipt", f"{name}Verdict", "status")

        if "FAIL" in (verdict("spam"), verdict("virus")):
            return False
        envelope = mail.address(text_at(told, "mail", "source")).rpartition("@")[2]
        aligned = envelope == who.rpartition("@")[2] and verdict("dkim") == verdict("spf") == "PASS"
        proved = verdict("dmarc") == "PASS" or (verdict("dmarc") == "GRAY" and aligned)
        return proved or not self.options.authenticated

    def _raw(self, told: Mapping[str, Any]) -> bytes:
        content = text_at(told, "content")
        if not content:
            raise MalformedError(
                "the notification has no mail in it: have the rule's SNS action publish it (up to 150 KB)"
            )
        if text_at(told, "receipt", "action", "encoding").upper() != "BASE64":
            return content.encode("utf-8", "surrogateescape")
        try:
            return base64.b64decode(content, validate=True)
        except binascii.Error:
            raise MalformedError("the mail's content is not the base64 that it is said to be") from None

    async def send(self, letter: Letter) -> str:
        """Send one mail. SES can't tell whether it knows it already."""
        raw = base64.b64encode(mail.answer(letter, self.options.sender)).decode()
        body = msgspec.json.encode(
            {
                "FromEmailAddress": self.options.sender,
                "Destination": {"ToAddresses": [letter.address]},
                "Content": {"Raw": {"Data": raw}},
            }
        )
        request = Request(
            method="POST",
            url=f"{self._api}/v2/email/outbound-emails",
            headers={"content-type": "application/json"},
            body=body,
        )
        credentials = await self._credentials().current()
        now = self.clock.now()
        answer = await self.wire.send(sign(request, credentials, Scope(self._region, "ses"), now))
        if answer.status == 200:
            return text_at(json_of(answer, "SES"), "MessageId")
        code = answer.headers.get("x-amzn-errortype", "").partition(":")[0]
        if code in STALE:
            self._credentials().forget(credentials)
        what = f"SES's SendEmail says {code or 'nothing'} {answer.body[:200].decode('utf-8', 'replace')}:"
        if code in STALE or code in THROTTLED:
            raise ChannelError(
                f"{what} answered {answer.status}", retry_after=retry_after(answer.headers, now)
            )
        raise refused(answer, now, what)

    def _credentials(self) -> CredentialsSource:
        """Those of the process: a function's role, or what the environment says."""
        options = self.options
        if self._source is None and options.access_key_id:
            own = Credentials(options.access_key_id, options.secret_access_key)
            self._source = Chain((Given(own),), self.clock)
        if self._source is None:
            self._source = credentials_of(Settings.from_env(), self.wire, self.clock)
        return self._source

    async def _certificate(self, url: str, topic: str) -> bytes:
        """The certificate at AWS's address, kept: there are few, and each lives for months. Raises SignatureError."""
        if not sns.is_certificate(url, topic, self.options.local):
            raise SignatureError("the certificate does not lie with SNS")
        if url not in self._certificates:
            answer = await self.wire.send(Request(method="GET", url=url, timeouts=CERTIFICATE_TIMEOUTS))
            if answer.status != 200:
                raise refused(answer, self.clock.now(), "SNS's certificate")
            if not sns.loads(answer.body):
                raise ChannelError("SNS's certificate can't be read")
            if len(self._certificates) >= MOST_CERTIFICATES:
                self._certificates.clear()
            self._certificates[url] = answer.body
        return self._certificates[url]

    async def _confirm(self, url: str, topic: str) -> None:
        """Say yes to the subscription that AWS was asked for."""
        if not sns.is_api(url, topic, self.options.local):
            raise SignatureError("the subscription is not confirmed at SNS")
        answer = await self.wire.send(Request(method="GET", url=url, timeouts=CERTIFICATE_TIMEOUTS))
        if answer.status != 200:
            raise refused(answer, self.clock.now(), "SNS's ConfirmSubscription")
