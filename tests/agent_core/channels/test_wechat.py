"""WeChat in plain mode, and what its settings must be."""

from __future__ import annotations

import hashlib
from urllib.parse import urlencode

import httpx
import pytest

from agent_core import Agent, Settings, build_app
from agent_core.app import App
from agent_core.errors import ConfigError
from agent_core.messages import Principal
from agent_core.models.scripted import ScriptedModel
from agent_core.testing import ManualClock
from tests.agent_core.channels.fakes import serving
from tests.agent_core.channels.services.wechat import APP, SECRET, TOKEN, FakeWeChat

NOW = 1_700_000_000.0


def make(*script: str, **options: str) -> App:
    own = {"kind": "wechat", "open": "true", "verification_token": TOKEN, **options}
    return build_app(
        Settings(store="memory", channels={"wechat": own}),
        agents=[Agent(name="assistant", model=ScriptedModel(list(script)))],
        clock=ManualClock(NOW, jump=True),
    )


async def say(app: App, text: str) -> httpx.Response:
    stamp = str(int(NOW))
    digest = hashlib.sha1("".join(sorted((TOKEN, stamp, "nonce"))).encode()).hexdigest()
    query = urlencode({"signature": digest, "timestamp": stamp, "nonce": "nonce", "openid": "ada"})
    body = (
        "<xml><ToUserName><![CDATA[gh_1]]></ToUserName><FromUserName><![CDATA[ada]]></FromUserName>"
        f"<CreateTime>{stamp}</CreateTime><MsgType><![CDATA[text]]></MsgType>"
        f"<Content><![CDATA[{text}]]></Content><MsgId>1</MsgId></xml>"
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app.asgi()), base_url="http://a.test"
    ) as client:
        return await client.post(f"/webhooks/wechat?{query}", content=body)


async def test_plain_mode_is_answered_by_the_app_that_is_named() -> None:
    """The webhook is told "success" at once: the answer is a message of its own."""
    service = FakeWeChat()
    service.writers.add("ada")
    with serving(service) as url:
        app = make("Hello **you**.", app_id=APP, app_secret=SECRET, api=url)
        answer = await say(app, "Hi")
        assert (answer.status_code, answer.text) == (200, "success")
        await app.engine.drain()
    assert service.texts == ["Hello you."]
    assert service.calls == ["/cgi-bin/stable_token", "/cgi-bin/message/custom/send"]


async def test_without_an_app_secret_the_answer_stays_in_the_session() -> None:
    app = make("Hello.")
    assert (await say(app, "Hi")).status_code == 200
    await app.engine.drain()
    page = await app.engine.session(Principal(user="wechat/gh_1/ada"), "wechat")
    assert [message.text for message in page.messages] == ["Hi", "Hello."]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"app_secret": SECRET}, "APP_ID"),
        ({"app_id": APP}, "APP_SECRET"),
        ({"receiver": APP}, "SAMPAN_WECHAT_SECRET"),
    ],
)
def test_what_is_set_by_half_does_not_start(options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make(**options)
