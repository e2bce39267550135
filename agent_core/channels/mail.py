"""The MIME side of e-mail: what somebody wrote, without what they quoted; and an answer in the same thread."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parseaddr
from functools import partial
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

UNREADABLE = (ValueError, TypeError, IndexError, AttributeError, LookupError, RecursionError)
"""What Python's parser raises on mail that keeps to no rule; ValueError has the errors of encodings in it."""

_MACHINES = re.compile(
    r"(?:mailer-daemon|postmaster|bounces?|(?:no|do[._-]?not)[._-]?reply)(?:[+=._-].*)?", re.IGNORECASE
)
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
    except UNREADABLE as error:
        raise MalformedError(f"the mail can't be read: {type(error).__name__}") from None
    if not isinstance(message, EmailMessage):
        raise MalformedError("the mail can't be read")
    return message


def header(message: EmailMessage, name: str) -> str:
    """A header's value in one line; "" where there is none, or none that can be read."""
    try:
        return _clean(" ".join(str(message.get(name, "")).split())[:2000])
    except UNREADABLE:
        return ""


def address(text: str) -> str:
    """The address in `Name <name@example.com>`, in small letters; "" where there is none."""
    found = parseaddr(text)[1].lower()
    return found if re.fullmatch(r"[^@\s,<>\"]{1,64}@[a-z0-9.-]{3,250}", found) else ""


def sender(message: EmailMessage) -> str:
    """The address that it is from, in small letters; "" where it is not from exactly one."""
    try:
        found = [one.addr_spec for field in message.get_all("From", []) for one in field.addresses]
    except UNREADABLE:
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
        or any(
            header(message, name) for name in ("List-Id", "List-Unsubscribe", "X-Autoreply", "X-Autorespond")
        )
        or header(message, "Return-Path") == "<>"
        or bool({"all", "autoreply", "oof"} & set(re.findall(r"[a-z]+", _suppressed(message))))
        or message.get_content_type() == "multipart/report"
        or _MACHINES.fullmatch(sender(message).partition("@")[0]) is not None
    )


def _suppressed(message: EmailMessage) -> str:
    """What Exchange says should not be answered to it by a machine."""
    return header(message, "X-Auto-Response-Suppress").lower()


def thread(message: EmailMessage) -> tuple[str, list[str]]:
    """The id of the mail that the thread began with, and all ids that an answer refers to."""
    own = _IDS.findall(header(message, "Message-ID"))[:1]
    before = _IDS.findall(header(message, "References")) or _IDS.findall(header(message, "In-Reply-To"))[:1]
    ids = [*before[:1], *before[1:][-20:], *own]
    return (ids[0] if ids else ""), ids


def parts(message: EmailMessage) -> tuple[Part, ...]:
    """What was written, what was quoted cut away, and the files."""
    found: list[Part] = []
    body = _tried(lambda: message.get_body(preferencelist=("plain", "html")))
    if body is not None:
        words = _clean(_content(body))
        if body.get_content_subtype() == "html":
            words = page_text(words, "")
        words = own_words(words)
        if words:
            found.append(Text(words))
    files: list[Any] = _tried(lambda: list(message.iter_attachments())) or []
    for file in files[:MOST_FILES]:
        data = _tried(partial(file.get_payload, decode=True))
        if isinstance(data, bytes) and data:
            name = _tried(file.get_filename) or ""
            found.append(media_part(file.get_content_type(), data=data, name=_clean(str(name))[:200]))
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
    text = _clean(letter.text)
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
    message.set_content(render(text, PLAIN))
    lines = render(text, HTML).replace("\n", "<br>\n")
    message.add_alternative(f"<!doctype html><html><body>{lines}</body></html>", subtype="html")
    return message.as_bytes(policy=WHOLE_LINES)


def _content(body: Any) -> str:
    try:
        return str(body.get_content())
    except UNREADABLE:  # a charset that nobody knows
        data = _tried(partial(body.get_payload, decode=True))
        return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""


def _tried(what: Callable[[], Any]) -> Any:
    """What a part of a mail says; None where it can't be read: that must not lose the rest of it."""
    try:
        return what()
    except UNREADABLE:
        return None


def _clean(text: str) -> str:
    """Text that can be stored: Python's parser leaves halves of characters where bytes were no text."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")
