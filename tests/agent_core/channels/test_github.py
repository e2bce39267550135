"""GitHub beyond what all channels do: who is spoken to, review threads, the limits it says by a 403, apps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import RSAKey

from agent_core.app import build_app
from agent_core.channels.github import GitHub, GitHubOptions
from agent_core.errors import ChannelRefusedError, ConfigError, StoreBusyError
from agent_core.messages import Text
from agent_core.settings import Settings
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer
from tests.agent_core.channels.fakes import Said
from tests.agent_core.channels.services.github import FakeGitHub
from tests.agent_core.channels.test_talk_back import NOW, Make, talk

__all__ = ["talk"]  # the fixture

OPTIONS = GitHubOptions(secret=("It's-a-Secret",), token="t", login="sampan-bot")
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
).decode()


class AppGitHub(FakeGitHub):
    """Gives tokens of an installation to who shows that it is the app."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = set()
        self.now = 0.0

    def settings(self) -> dict[str, str]:
        told = {"app_id": "4711", "private_key": PEM.replace("\n", "\\n"), "token": ""}
        return super().settings() | told

    def _installed(self, path: str, token: str) -> Said:
        claims = jwt.decode(token, RSAKey.import_key(PEM), algorithms=["RS256"]).claims
        assert claims["iss"] == "4711"
        assert claims["exp"] - claims["iat"] <= 600
        assert path == "/app/installations/77/access_tokens"
        self.tokens = {f"ghs_{len(self.calls)}"}
        return Said(201, {"token": next(iter(self.tokens)), "expires_at": "2030-01-01T00:00:00Z"})


@pytest.fixture
def quiet() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def comment(body: str, **more: Any) -> dict[str, Any]:
    return {"action": "created", "comment": {"id": 5, "body": body, **more}}


@pytest.mark.parametrize("talk", [FakeGitHub], indirect=True)
async def test_headers_are_not_signed_so_what_was_said_is_known_by_its_own_id(talk: Make) -> None:
    home = talk("Here.")
    said = comment("@sampan-bot where is it?")
    for delivery in ("1", "forged"):
        hook = home.service.event("issue_comment", said, who="ada", delivery=delivery)
        assert (await home.post(hook)).status_code == 200
        await home.settled()
    hook.headers["x-github-event"] = "pull_request_review_comment"
    await home.post(hook)
    await home.settled()
    assert len(home.service.messages) == len(home.heard()) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://raw.githubusercontent.com/octo/private/main/.env",
        "https://github.com/octo/private/raw/main/.env",
        "https://github.com/user-attachments/../octo/private/raw/main/.env",
        "https://github.com/user-attachments/%2e%2e/octo/private/raw/main/.env",
        "https://api.github.com/user/emails",
        "https://api.github.com/repos/octo/private/contents/.env",
        "http://github.com/user-attachments/assets/1",
        "https://github.com@evil.example/user-attachments/assets/1",
        "https://github.com.evil.example/user-attachments/assets/1",
    ],
)
async def test_a_comment_does_not_have_our_token_open_private_files(url: str) -> None:
    wire = ScriptedWire()
    channel = GitHub("github", OPTIONS, wire=wire, clock=ManualClock(NOW))
    [part] = channel._parts(f"look ![x]({url})")
    assert part == Text(f"look ![x]({url})")
    with pytest.raises(ChannelRefusedError, match="does not lie with GitHub"):
        await channel.fetch(url)
    assert wire.requests == []


async def test_only_a_picture_is_taken_for_one() -> None:
    url = "https://github.com/user-attachments/assets/1"
    wire = ScriptedWire([Answer(headers={"content-type": "text/plain"}, body=b"SECRET=1")])
    channel = GitHub("github", OPTIONS, wire=wire, clock=ManualClock(NOW))
    with pytest.raises(ChannelRefusedError, match="no picture"):
        await channel.fetch(url)


@pytest.mark.parametrize("talk", [FakeGitHub], indirect=True)
@pytest.mark.parametrize(
    ("kind", "payload", "heard"),
    [
        ("issue_comment", comment("Hey @Sampan-Bot, where is it?"), "Hey where is it?"),
        (
            "issues",
            {"action": "opened", "issue": {"number": 1, "title": "Lost", "body": "@sampan-bot Where is it?"}},
            "Lost\n\n Where is it?",
        ),
        ("issue_comment", comment("Where is it?"), None),
        ("issue_comment", comment("@sampan-bots are many"), None),
        ("issue_comment", comment("mail me at x@sampan-botnet.example"), None),
        ("issue_comment", {"action": "edited", "comment": {"id": 5, "body": "@sampan-bot hi"}}, None),
        ("issue_comment", comment("@sampan-bot hi") | {"sender": {"login": "ci", "type": "Bot"}}, None),
        (
            "issue_comment",
            comment("@sampan-bot hi") | {"sender": {"login": "sampan-bot", "type": "User"}},
            None,
        ),
        ("push", {"ref": "refs/heads/main", "issue": None}, None),
    ],
)
async def test_who_names_it_is_answered(
    talk: Make, kind: str, payload: Mapping[str, Any], heard: str | None
) -> None:
    home = talk(*(["Here."] if heard else []))
    answer = await home.post(home.service.event(kind, payload, who="ada", delivery="1"))
    assert answer.status_code == 200
    assert await home.settled() == (["Here."] if heard else [])
    assert home.heard() == ([[heard]] if heard else [])


@pytest.mark.parametrize("talk", [FakeGitHub], indirect=True)
async def test_a_question_in_a_review_is_answered_in_its_thread(talk: Make) -> None:
    home = talk("Fine.", "Still.")
    pull = {"pull_request": {"number": 9}, "issue": None}
    for number, more in (("1", {}), ("2", {"in_reply_to_id": 5, "id": 6})):
        payload = comment("@sampan-bot is this right?", **more) | pull
        await home.post(
            home.service.event("pull_request_review_comment", payload, who="ada", delivery=number)
        )
        await home.settled()
    assert [(one["issue"], one["thread"]) for one in home.service.messages] == [(9, "5"), (9, "5")]


@pytest.mark.parametrize("talk", [FakeGitHub], indirect=True)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "30"}, 30),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(1_700_000_000 + 45)}, 45),
    ],
)
async def test_a_limit_may_be_a_403(talk: Make, headers: dict[str, str], seconds: int) -> None:
    home = talk("Patience.")
    home.service.next_answers = [Said(403, {"message": "You have exceeded a secondary rate limit"}, headers)]
    await home.say("Hi")
    assert await home.settled() == []
    home.clock.advance(seconds * 2)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts == ["Patience."]


@pytest.mark.parametrize("talk", [FakeGitHub], indirect=True)
async def test_a_comment_is_known_again_where_many_were_written(talk: Make) -> None:
    """The process died before it knew that the comment was there; it stands on the third page."""
    clock = ManualClock(NOW, jump=True)
    store = FaultyStore(MemoryStore(clock))
    home = talk("Only once.", store=store, clock=clock)
    for number in range(230):
        home.service.add("Me too.", body="Me too.", issue=1, id=number)
    store.plan(Fault(4, StoreBusyError("locked"), "write"))
    await home.say("Hi")
    await home.settled()
    store.check_used_up()
    clock.advance(400)
    assert (await home.app.engine.sweep()).pushed == 1
    assert home.service.texts.count("Only once.") == 1
    assert len([call for call in home.service.calls if call.startswith("GET")]) == 3


@pytest.mark.parametrize("talk", [AppGitHub], indirect=True)
async def test_an_app_answers_with_tokens_of_its_installation(talk: Make) -> None:
    home = talk("One.", "Two.", "Three.")
    for number in ("1", "2"):
        await home.say("Hi", name=number)
        await home.settled()
    asked = [call for call in home.service.calls if "access_tokens" in call]
    assert len(asked) == 1  # kept for its hour
    home.service.tokens = set()  # taken back
    await home.say("Hi", name="3")
    assert await home.settled() == ["One.", "Two.", "Three."]
    assert len([call for call in home.service.calls if "access_tokens" in call]) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "github_pat_0123456789"}, "the login is not set"),
        ({"app_id": "1", "login": "x"}, "private key"),
    ],
)
def test_what_is_not_set_up_does_not_start(options: dict[str, str], words: str) -> None:
    own = {"kind": "github", "secret": "long-enough-secret", **options}
    from agent_core import Agent
    from agent_core.models.scripted import ScriptedModel

    with pytest.raises(ConfigError, match=words):
        build_app(
            Settings(store="memory", channels={"github": own}),
            agents=[Agent(name="assistant", model=ScriptedModel([]))],
        )
