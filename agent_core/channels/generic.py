"""Any service that signs by HMAC, as the options say: its events become messages to an agent."""

from __future__ import annotations

import hashlib
from typing import Literal

from agent_core.channels.base import Channel, Event, Options, Receipt
from agent_core.channels.payload import read_json, text_at
from agent_core.channels.schemes.hmacs import HmacScheme, Rule
from agent_core.clock import Clock
from agent_core.errors import ConfigError, MalformedError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from agent_core.wire.base import Wire


class GenericOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set for a service that signs by HMAC."""

    secret: tuple[str, ...] = ()
    """Secret of the signatures; several while it is changed."""

    header: str = "x-signature"
    """Header that carries the signature."""

    prefix: str = ""
    """What stands before the signature in its header, such as `sha256=`."""

    digest: Literal["sha1", "sha256", "sha512"] = "sha256"
    """Hash of the HMAC."""

    encoding: Literal["hex", "base64"] = "hex"
    """How the signature is written."""

    timestamp: str = ""
    """Header that carries the time in seconds since 1970, if the service signs one."""

    signed: str = "{body}"
    """What is signed, such as `{timestamp}.{body}`."""

    id_header: str = ""
    """Header that carries the id of an event."""

    id_field: str = ""
    """Path of the id in a JSON body, such as `event.id`; without either, the body itself tells events apart."""

    session: str = ""
    """Path in a JSON body of what makes one conversation, such as `customer.id`; unset, each event is its own."""


class Generic(Channel):
    """A service without a channel of its own."""

    Options = GenericOptions
    people = False

    def __init__(self, name: str, options: GenericOptions, *, wire: Wire, clock: Clock) -> None:
        super().__init__(name, options, wire=wire, clock=clock)
        if "{body}" not in options.signed:
            raise ConfigError("SIGNED must hold {body}: a signature that leaves it out vouches for nothing")
        rule = Rule(
            header=options.header.lower(),
            prefix=options.prefix,
            digest=options.digest,
            encoding=options.encoding,
            timestamp=options.timestamp.lower(),
            signed=options.signed,
        )
        self._scheme = HmacScheme(rule, self.secrets("secret"))

    async def verify(self, hook: Webhook) -> bytes:
        """The body, signed as the options say."""
        return self._scheme.verify(hook, self.clock.now())

    def read(self, hook: Webhook, body: bytes) -> Receipt:
        """The body as it is, as one message."""
        options: GenericOptions = self.options
        value = read_json(body) if options.id_field or options.session else None
        name = hashlib.sha256(body).hexdigest()
        if options.id_header:
            name = hook.header(options.id_header.lower())
        elif options.id_field:
            name = text_at(value, *options.id_field.split("."))
            if not name:
                raise MalformedError(f"the body has no id at {options.id_field}")
        return Receipt(events=(machine_event(name, body, text_at(value, *options.session.split("."))),))


def machine_event(name: str, body: bytes, session: str = "") -> Event:
    """An event of a machine: its body is the message, and nobody waits for an answer."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    return Event(id=name, parts=(Text(text),), group=session, thread="")
