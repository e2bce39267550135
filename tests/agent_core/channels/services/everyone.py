"""All services that are talked back to."""

from __future__ import annotations

from tests.agent_core.channels.services import Speaker
from tests.agent_core.channels.services.dingtalk import FakeDingTalk
from tests.agent_core.channels.services.discord import FakeDiscord
from tests.agent_core.channels.services.email import FakeEmail
from tests.agent_core.channels.services.feishu import FakeFeishu
from tests.agent_core.channels.services.github import FakeGitHub
from tests.agent_core.channels.services.line import FakeLine
from tests.agent_core.channels.services.slack import SpeakingSlack
from tests.agent_core.channels.services.teams import FakeTeams
from tests.agent_core.channels.services.telegram import SpeakingTelegram
from tests.agent_core.channels.services.twilio import FakeTwilio
from tests.agent_core.channels.services.wechat import FakeWeChat
from tests.agent_core.channels.services.wecom import FakeWeCom
from tests.agent_core.channels.services.whatsapp import FakeWhatsApp

SPEAKERS: list[type[Speaker]] = [
    FakeDiscord,
    FakeFeishu,
    FakeWeCom,
    FakeWeChat,
    FakeDingTalk,
    FakeLine,
    FakeWhatsApp,
    FakeTwilio,
    FakeTeams,
    FakeGitHub,
    FakeEmail,
    SpeakingSlack,
    SpeakingTelegram,
]
