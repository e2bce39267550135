"""Channels are joined to the engine: what comes in by the gateway, what goes out by the post."""

from __future__ import annotations

from agent_core.channels.catalog import make_channels
from agent_core.channels.gateway import Gateway
from agent_core.channels.guests import KIND, Guests
from agent_core.channels.live import Live
from agent_core.channels.media import Fetcher
from agent_core.channels.post import Post
from agent_core.channels.questions import Questions
from agent_core.engine.due import ASK
from agent_core.engine.engine import Engine
from agent_core.engine.kit import Kit
from agent_core.errors import ConfigError
from agent_core.settings import Settings
from agent_core.wire.base import Wire


def connect(kit: Kit, engine: Engine, settings: Settings, wire: Wire) -> Gateway:
    """Have the channels of the settings answered; raises ConfigError.

    The wire must be one that does not try again by itself: the post repeats what may be repeated, and no more.
    """
    channels = make_channels(settings.channels, wire=wire, clock=kit.clock)
    for name, channel in channels.items():
        agent = channel.options.agent
        if agent and agent not in kit.agents:
            known = ", ".join(sorted(kit.agents))
            raise ConfigError(f"channel {name}: there is no agent {agent!r}; there are: {known}")
    post = Post(channels, kit.store, kit.clock)
    kit.deliverers.update(dict.fromkeys(channels, post))
    kit.attendants.update(dict.fromkeys(channels, Live(post, channels, kit.clock)))
    kit.due[KIND] = post.tell_code
    questions = Questions(post, channels, kit.store, kit.clock, settings.public_url)
    kit.asks.update(name for name, channel in channels.items() if channel.buttons)
    kit.due[ASK] = questions.ask
    kit.fetch.append(Fetcher(channels, kit.clock))
    guests = Guests(kit.store, kit.clock, engine.see_to)
    return Gateway(channels, engine, guests, settings.data_class)
