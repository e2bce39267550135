"""Which channels there are: a line for each kind. `sampan` finds others by `module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import get_type_hints

import msgspec

from agent_core.channels.base import Channel, Options, option_variable
from agent_core.clock import Clock
from agent_core.errors import ConfigError
from agent_core.wire.base import Wire

KINDS = {
    "dingtalk": "agent_core.channels.dingtalk:DingTalk",
    "discord": "agent_core.channels.discord:Discord",
    "email": "agent_core.channels.email:Email",
    "feishu": "agent_core.channels.feishu:Feishu",
    "generic": "agent_core.channels.generic:Generic",
    "github": "agent_core.channels.github:GitHub",
    "line": "agent_core.channels.line:Line",
    "slack": "agent_core.channels.slack:Slack",
    "standard": "agent_core.channels.standard:Standard",
    "stripe": "agent_core.channels.stripe:Stripe",
    "teams": "agent_core.channels.teams:Teams",
    "telegram": "agent_core.channels.telegram:Telegram",
    "twilio": "agent_core.channels.twilio:Twilio",
    "wechat": "agent_core.channels.wechat:WeChat",
    "wecom": "agent_core.channels.wecom:WeCom",
    "whatsapp": "agent_core.channels.whatsapp:WhatsApp",
}
"""Imported when they are on, so that a channel costs nothing where it is off."""


def make_channels(wanted: Mapping[str, Mapping[str, str]], *, wire: Wire, clock: Clock) -> dict[str, Channel]:
    """The channels that are on, by name; `wanted` holds the options of each as text, its kind among them.

    Raises ConfigError that names the variable: what is not set up rightly does not start.
    """
    channels: dict[str, Channel] = {}
    for name, values in wanted.items():
        kind = _kind(name, values["kind"])
        try:
            channels[name] = kind(name, read_options(name, kind.Options, values), wire=wire, clock=clock)
        except ConfigError as error:
            raise ConfigError(f"channel {name}: {error.detail}") from error
    return channels


def _kind(name: str, wanted: str) -> type[Channel]:
    path = KINDS.get(wanted, wanted)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise ConfigError(
            f"channel {name}: there is no kind {wanted!r}; there are: {', '.join(sorted(KINDS))},"
            " or `module:Class` of your own"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"channel {name}: {wanted!r} can't be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Channel)):
        raise ConfigError(f"channel {name}: {wanted!r} is no subclass of Channel")
    return found


def read_options(name: str, kind: type[Options], values: Mapping[str, str]) -> Options:
    """The options as the channel declares them. Raises ConfigError."""
    hints = get_type_hints(kind)
    several = {field for field, hint in hints.items() if hint == tuple[str, ...]}
    given = {
        field: (text.replace(",", " ") if field == "allow" else text).split() if field in several else text
        for field, text in values.items()
        if field != "kind"
    }
    for field, value in given.items():
        if field not in kind.__struct_fields__:
            known = ", ".join(option_variable(name, known) for known in kind.__struct_fields__)
            raise ConfigError(f"there is no {option_variable(name, field)}; there are: {known}")
        try:
            msgspec.convert(value, hints[field], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{option_variable(name, field)} can't be used: {error}") from None
    return msgspec.convert(given, kind, strict=False)
