"""The MIME side of e-mail: what somebody wrote, without what they quoted; and an answer in the same thread."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parseaddr
from html import escape
from typing import Any

from agent_core.channels.base import Letter
from agent_core.channels.markdown import PLAIN, Dialect, render
from agent_core.channels.media import media_part
from agent_core.errors import MalformedError
from agent_core.messages import Part, Text
from agent_core.tools.pages import page_text

MOST_FILES = 20
WHOLE_LINES = policy.SMTP.clone(max_line_length=998)
"""Headers up to the longest line that SMTP carries: folded earlier, Python encodes a long id, and the thread breaks."""

_IDS = re.compile(r"<[^<>\s]{1,250}>")
_REPLY = re.compile(
    r"^(?:On .{5,200} wrote:|Am .{5,200} schrieb .{1,200}:|Le .{5,200} a écrit\s?:|El .{5,200} escribió:"
    r"|在.{3,200}写道[:：]|-{2,} ?Original Message ?-{2,}|-{2,} ?原始邮件 ?-{2,}|_{20,}|From: .{3,200})\s*$",
    re.MULTILINE,
)
_SIGNATURE = re.compile(r"^-- ?$", re.MULTILINE)

HTML = Dialect(
    escape=lambda text: escape(text, quote=False),
    bold=lambda words: f"<b>{words}</b>",
    italic=lambda words: f"<i>{words}</i>",
    strike=lambda words: f"<s>{words}</s>",
    quote=lambda words: f"<blockquote>{words}</blockquote>",
    code=lambda code: f"<code>{escape(code, quote=False)}</code>",
    block=lambda _, code: f"<pre>{escape(code, quote=False)}</pre>",
    link=lambda words, url: f'<a href="{escape(url)}">{words}</a>',
)


def read(raw: bytes) -> EmailMessage:
    """The message; raises MalformedError."""
    try:
        message = message_from_bytes(raw, policy=policy.default)
        message.get("Subject"), message.get("From")
    except (ValueError, TypeError, IndexError, AttributeError, LookupError, RecursionError) as error:
        raise MalformedError(f"the mail can't be read: {type(error).__name__}") from None
    if not isinstance(message, EmailMessage):
        raise MalformedError("the mail can't be read")
    return message


def header(message: EmailMessage, name: str) -> str:
    """A header's value in one line; "" where there is none, or none that can be read."""
    try:
        return " ".join(str(message.get(name, "")).split())[:2000]
    except (ValueError, TypeError, IndexError, AttributeError, LookupError):
        return ""


def address(text: str) -> str:
    """The address in `Name <name@example.com>`, in small letters; "" where there is none."""
    found = parseaddr(text)[1].lower()
    return found if re.fullmatch(r"[^@\s,<>\"]{1,64}@[a-z0-9.-]{3,250}", found) else ""


def sender(message: EmailMessage) -> str:
    """The address that it is from, in small letters; "" where it is not from exactly one."""
    try:
        found = [one.addr_spec for field in message.get_all("From", []) for one in field.addresses]
    except (ValueError, TypeError, IndexError, AttributeError, LookupError):
        return ""
    return address(found[0]) if len(found) == 1 else ""


def automatic(message: EmailMessage) -> bool:
    """Whether a machine wrote it: such mail is never answered, or two machines would write to each other for ever.

    RFC 3834
    """
    submitted = header(message, "Auto-Submitted").lower()
    return (
        (submitted not in ("", "no"))
        or header(message, "Precedence").lower() in ("bulk", "junk", "list", "auto_reply")
        or any(message.get(name) is not None for name in ("List-Id", "List-Unsubscribe", "X-Autoreply"))
        or header(message, "Return-Path") == "<>"
        or sender(message).partition("@")[0] in ("mailer-daemon", "postmaster", "noreply", "no-reply")
    )


def thread(message: EmailMessage) -> tuple[str, list[str]]:
    """The id of the mail that the thread began with, and all ids that an answer refers to."""
    own = _IDS.findall(header(message, "Message-ID"))[:1]
    before = _IDS.findall(header(message, "References")) or _IDS.findall(header(message, "In-Reply-To"))[:1]
    ids = [*before[:1], *before[1:][-20:], *own]
    return (ids[0] if ids else ""), ids


def parts(message: EmailMessage) -> tuple[Part, ...]:
    """What was written, what was quoted cut away, and the files."""
    found: list[Part] = []
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        words = _content(body)
        if body.get_content_subtype() == "html":
            words = page_text(words, "")
        words = own_words(words)
        if words:
            found.append(Text(words))
    for file in list(message.iter_attachments())[:MOST_FILES]:
        data = file.get_payload(decode=True)
        if isinstance(data, bytes) and data:
            found.append(
                media_part(file.get_content_type(), data=data, name=(file.get_filename() or "")[:200])
            )
    return tuple(found)


def own_words(text: str) -> str:
    """The text without the mail that it answers, and without the signature below it."""
    text = text.replace("\r\n", "\n")
    for end in (_REPLY, _SIGNATURE):
        if (cut := end.search(text)) and text[: cut.start()].strip():
            text = text[: cut.start()]
    lines = text.split("\n")
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith(">")):
        lines.pop()
    return "\n".join(lines).strip() or text.strip()


def answer(letter: Letter, sent_from: str) -> bytes:
    """The answer as MIME: text, and the same as simple HTML, in the thread of the mail it answers."""
    options: Mapping[str, str] = letter.options
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = sent_from
    message["To"] = letter.address
    subject = options.get("subject", "")
    message["Subject"] = subject if subject.lower().startswith("re:") else f"Re: {subject}".strip()
    domain = address(sent_from).rpartition("@")[2]
    message["Message-ID"] = f"<{hashlib.sha256(letter.id.encode()).hexdigest()[:32]}@{domain}>"
    if options.get("message_id"):
        message["In-Reply-To"] = options["message_id"]
        message["References"] = options.get("references", options["message_id"])
    message["Auto-Submitted"] = "auto-replied"
    message.set_content(render(letter.text, PLAIN))
    lines = render(letter.text, HTML).replace("\n", "<br>\n")
    message.add_alternative(f"<!doctype html><html><body>{lines}</body></html>", subtype="html")
    return message.as_bytes(policy=WHOLE_LINES)


def _content(body: Any) -> str:
    try:
        return str(body.get_content())
    except (LookupError, ValueError, KeyError):  # a charset that nobody knows
        data = body.get_payload(decode=True)
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""
