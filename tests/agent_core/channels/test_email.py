"""E-mail beyond what all channels do: forged messages, loops, threads, what is cut away, and what is never answered."""

from __future__ import annotations

import asyncio
import json
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_core.channels import mail
from agent_core.channels.schemes import sns
from agent_core.errors import AgentError, MalformedError, SignatureError
from agent_core.messages import Text
from agent_core.security.webhook import Webhook
from tests.agent_core.channels.services.email import GOOD, TOPIC, FakeEmail, certificate
from tests.agent_core.channels.test_talk_back import NOW, Make, Talk, talk

__all__ = ["talk"]  # the fixture

only = pytest.mark.parametrize("talk", [FakeEmail], indirect=True)


def written(text: str = "Where is my order?", **headers: str) -> bytes:
    message = EmailMessage()
    given = {
        "From": "Ada <ada@example.com>",
        "Subject": "My order",
        "Message-ID": "<1@example.com>",
        **headers,
    }
    for name, value in given.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    return message.as_bytes()


async def heard(home: Talk, raw: bytes, **how: Any) -> list[str]:
    answer = await home.post(home.service.received(raw, name="9", now=home.clock.now(), **how))
    assert answer.status_code == 200, answer.text
    await home.settled()
    return [said[-1] for said in home.heard()]


@only
async def test_an_answer_stands_in_the_thread(talk: Make) -> None:
    home = talk("It is **on its way**:\n\n- today\n- tomorrow")
    raw = written(References="<0@example.com> <00@example.com>", Subject="Re: My order")
    assert await heard(home, raw) == ["Where is my order?"]
    [sent] = home.service.messages
    assert sent["mail"]["Subject"] == "Re: My order"
    assert sent["mail"]["In-Reply-To"] == "<1@example.com>"
    assert sent["mail"]["References"] == "<0@example.com> <00@example.com> <1@example.com>"
    html = sent["mail"].get_body(("html",)).get_content()
    assert "<b>on its way</b>" in html
    assert "It is on its way" in sent["text"]


@only
@pytest.mark.parametrize(
    "headers",
    [
        {"Auto_Submitted": "auto-replied"},
        {"Precedence": "bulk"},
        {"List_Id": "<news.example.com>"},
        {"Return_Path": "<>"},
        {"From": "MAILER-DAEMON@example.com"},
        {"From": "do-not-reply@example.com"},
        {"From": "noreply+1234@example.com"},
        {"From": "bounces+1234@example.com"},
        {"X_Auto_Response_Suppress": "DR, AutoReply"},
        {"X_Autorespond": "yes"},
        {"From": "bot@shop.example"},
        {"From": "nobody"},
        {"From": "ada@example.com, eve@example.com"},
    ],
)
async def test_machines_and_nobodies_are_not_answered(talk: Make, headers: dict[str, str]) -> None:
    home = talk()
    assert await heard(home, written(**headers)) == []


@only
@pytest.mark.parametrize(
    ("verdicts", "read"),
    [
        (GOOD, True),
        ({**GOOD, "dmarc": "GRAY"}, True),
        ({**GOOD, "dmarc": "FAIL", "spf": "FAIL"}, False),
        ({**GOOD, "dmarc": "FAIL"}, False),
        ({**GOOD, "dmarc": "GRAY", "dkim": "GRAY"}, False),
        ({**GOOD, "spam": "FAIL"}, False),
        ({**GOOD, "virus": "FAIL"}, False),
        ({}, False),
    ],
)
async def test_only_a_proved_sender_is_read(talk: Make, verdicts: dict[str, str], read: bool) -> None:
    home = talk(*(["Hello."] if read else []))
    assert await heard(home, written(), verdicts=verdicts) == (["Where is my order?"] if read else [])


@only
@pytest.mark.parametrize("envelope", ["eve@evil.example", "ada@example.com.evil.example", "", "<>"])
async def test_a_stranger_with_a_domain_of_their_own_is_nobody_else(talk: Make, envelope: str) -> None:
    home = talk()
    assert await heard(home, written(), verdicts={**GOOD, "dmarc": "GRAY"}, envelope=envelope) == []


@only
async def test_a_long_id_stays_as_it_is(talk: Make) -> None:
    home = talk("Here.")
    long = f"<{'AM0PR04MB6145' * 6}@eurprd04.prod.outlook.example.com>"
    raw = written().replace(b"<1@example.com>", long.encode())
    await heard(home, raw)
    [sent] = home.service.messages
    assert f"In-Reply-To: {long}\r\n".encode() in sent["raw"]
    assert f"References: {long}\r\n".encode() in sent["raw"]


@only
async def test_a_subscription_of_our_topic_is_confirmed(talk: Make) -> None:
    home = talk()
    now = home.clock.now()
    url = f"{home.service.url}/?Action=ConfirmSubscription&Token=t"
    hook = home.service.message(
        "SubscriptionConfirmation", "You have chosen", now=now, Token="t", SubscribeURL=url
    )
    assert (await home.post(hook)).status_code == 200
    assert home.service.confirmed == 1
    elsewhere = home.service.message(
        "SubscriptionConfirmation", "x", now=now, Token="t", SubscribeURL="https://evil.example/"
    )
    assert (await home.post(elsewhere)).status_code == 401
    assert home.service.confirmed == 1


@only
async def test_what_aws_did_not_sign_is_refused(talk: Make) -> None:
    home = talk()
    service, now = home.service, home.clock.now()
    good = json.loads(service.received(written(), name="1", now=now).body)

    async def status(**changed: Any) -> int:
        from tests.agent_core.channels.services import Hook

        return (await home.post(Hook(json.dumps({**good, **changed}).encode(), {}))).status_code

    for changed in (
        {"Message": good["Message"].replace("ses-1", "ses-2")},
        {"Subject": "more"},
        {"MessageId": "other"},
        {"Timestamp": "2023-11-14T22:13:21.000Z"},
        {"TopicArn": TOPIC.replace("mail", "other")},
        {"Signature": "AAAA"},
        {"Signature": "no base64"},
        {"SignatureVersion": "1"},
        {"SignatureVersion": "3"},
        {"SigningCertURL": "https://evil.example/x.pem"},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem"},
        {"SigningCertURL": "https://sns.s3-us-west-2.amazonaws.com/SimpleNotificationService-1.pem"},
        {"SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem"},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com/x.pem"},
        {"SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem?x"},
        {"SigningCertURL": "http://sns.eu-west-1.amazonaws.com/x.pem"},
        {"SigningCertURL": f"{service.url}/x.txt"},
        {"Type": "UnsubscribeConfirmation"},
        {"Message": None},
    ):
        assert await status(**changed) == 401, changed
    other = json.loads(
        service.message("Notification", "{}", now=now, TopicArn=TOPIC.replace("mail", "evil")).body
    )
    from tests.agent_core.channels.services import Hook

    assert (await home.post(Hook(json.dumps(other).encode(), {}))).status_code == 401
    for seconds in (-301, 3601):
        old = service.received(written(), name="1", now=now - seconds)
        assert (await home.post(old)).status_code == 401
    first = service.signed({**{k: v for k, v in good.items() if k != "Signature"}, "SignatureVersion": "1"})
    assert await home.settled() == []
    home.model.add("Hello.")
    assert (await home.post(first)).status_code == 200  # SHA-1, of a topic that was made long ago
    assert await home.settled() == ["Hello."]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("Yes.\n\nOn Mon, 1 Jan 2024 at 10:00, Bob <bob@x.example> wrote:\n> Really?\n", "Yes."),
        ("Ja.\n\nAm 01.01.2024 um 10:00 schrieb Bob:\n> Wirklich?", "Ja."),
        ("好的。\n\n在 2024年1月1日，Bob 写道：\n> 真的吗？", "好的。"),
        ("Yes.\n-----Original Message-----\nFrom: Bob\n", "Yes."),
        ("Yes.\n\n-- \nAda, Head of Books", "Yes."),
        ("Yes.\n> Really?\n> Yes.", "Yes."),
        ("> You said this\nand I say that", "> You said this\nand I say that"),
        ("> only a quotation", "> only a quotation"),
        ("On Monday I wrote: nothing.\nMore.", "On Monday I wrote: nothing.\nMore."),
    ],
)
def test_what_was_quoted_is_cut_away(text: str, own: str) -> None:
    assert mail.own_words(text) == own


def test_html_alone_is_read_as_a_person_sees_it() -> None:
    message = EmailMessage()
    message["From"] = "ada@example.com"
    message.set_content("<p>Where is <b>it</b>?</p><script>evil()</script>", subtype="html")
    [part] = mail.parts(mail.read(message.as_bytes()))
    assert isinstance(part, Text)
    assert "Where is it?" in part.text.replace("**", "")
    assert "evil" not in part.text


def test_a_mail_without_content_says_what_to_set() -> None:
    service = FakeEmail()
    service.url = "http://127.0.0.1:1"
    told = json.loads(json.loads(service.received(b"", name="1", now=NOW).body)["Message"])
    from agent_core.channels.email import Email, EmailOptions
    from agent_core.testing import ManualClock, ScriptedWire

    channel = Email("email", EmailOptions(topic=(TOPIC,)), wire=ScriptedWire(), clock=ManualClock(NOW))
    with pytest.raises(MalformedError, match="have the rule's SNS action publish it"):
        channel.read(Webhook(), json.dumps({**told, "content": ""}).encode())


async def test_nothing_is_fetched_for_what_names_no_topic_of_ours() -> None:
    from agent_core.channels.email import Email, EmailOptions
    from agent_core.testing import ManualClock, ScriptedWire

    service = FakeEmail()
    service.url = "https://sns.eu-west-1.amazonaws.com"
    wire = ScriptedWire()
    channel = Email("email", EmailOptions(topic=(TOPIC,)), wire=wire, clock=ManualClock(NOW))
    for hook in (
        service.message("Notification", "{}", now=NOW, TopicArn=TOPIC.replace("mail", "evil")),
        service.message("Notification", "{}", now=NOW - 3601),
    ):
        with pytest.raises(SignatureError):
            await channel.verify(Webhook(body=hook.body))
    assert wire.requests == []


FILE = (
    b"From: ada@example.com\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain%s\r\n\r\nWhere? \\ud800 \xff\r\n"
    b"--b\r\nContent-Type: image/png\r\nContent-Disposition: attachment; %s\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    "charset",
    [b"", *(b"; charset=" + name for name in (b"idna", b"punycode", b"unicode_escape", b"hex", b"x"))],
)
@pytest.mark.parametrize(
    "name", [b"filename=a.png", b"filename*", b"filename*=utf-8''a%00b", b"filename*0*=x"]
)
def test_a_part_that_cannot_be_read_does_not_lose_the_others(charset: bytes, name: bytes) -> None:
    words, picture = mail.parts(mail.read(FILE % (charset, name)))
    assert isinstance(words, Text)
    assert words.text.startswith("Where?")
    assert "\0" not in repr(picture)
    assert msgspec.json.decode(msgspec.json.encode(words)) is not None


@given(st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_a_mail_or_refused(raw: bytes) -> None:
    try:
        message = mail.read(raw)
    except MalformedError:
        return
    mail.sender(message)
    mail.automatic(message)
    mail.thread(message)
    mail.parts(message)


@given(st.data())
def test_a_changed_message_is_never_taken(data: st.DataObject) -> None:
    service = FakeEmail()
    service.url = "http://127.0.0.1:1"
    good = service.received(written(), name="1", now=NOW).body
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]

    async def check(body: bytes) -> dict[str, Any]:
        message = sns.read(Webhook(body=body))
        sns.expect(message, (TOPIC,), NOW)
        if not sns.is_certificate(message["SigningCertURL"], TOPIC, service.url):
            raise SignatureError("elsewhere")
        sns.check(message, certificate())
        return {
            name: message.get(name)
            for name in ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
        }

    wanted = asyncio.run(check(good))
    try:
        found = asyncio.run(check(changed))
    except AgentError:
        return
    assert found == wanted  # what was changed is not part of what was signed
