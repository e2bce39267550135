"""Small services on loopback that take what Slack and Telegram take, and refuse what those refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


@dataclass
class Said:
    """An answer of a fake: a status, JSON or bytes, headers."""

    status: int = 200
    value: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.value if isinstance(self.value, bytes) else json.dumps(self.value).encode()


class Service:
    """What the fakes share. `next_answers` are given before anything else is looked at: limits and outages."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.files: dict[str, tuple[str, bytes]] = {}
        self.next_answers: list[Said | None] = []

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages]

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        raise NotImplementedError


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """The service on a free port of loopback; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._reply()

        def do_GET(self) -> None:
            self._reply()

        def do_PATCH(self) -> None:
            self._reply()

        def do_PUT(self) -> None:
            self._reply()

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            planned = service.next_answers.pop(0) if service.next_answers else None
            said = planned or service.answer(self.command, self.path, headers, body)
            self.send_response(said.status)
            kind = "application/octet-stream" if isinstance(said.value, bytes) else "application/json"
            for name, value in {"content-type": kind, **said.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FakeSlack(Service):
    """chat.postMessage, chat.update, conversations.replies and .history, a response_url, files.

    https://docs.slack.dev/reference/methods/chat.postMessage
    """

    TOKEN = "xoxb-of-the-bot"
    CHANNELS = ("C1", "D1")

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        name = path.rpartition("/")[2]
        self.calls.append(name)
        if path.startswith("/api/hook/"):
            return self._response(headers, body)
        if headers.get("authorization") != f"Bearer {self.TOKEN}":
            return Said(value={"ok": False, "error": "not_authed"})
        if path.startswith("/api/files/"):
            kind, data = self.files[name]
            return Said(value=data, headers={"content-type": kind})
        if name.startswith("conversations."):
            return self._history(name, headers, body)
        return self._post(name, headers, body)

    def _post(self, name: str, headers: Mapping[str, str], body: bytes) -> Said:
        if headers.get("content-type") != "application/json; charset=utf-8":
            return Said(value={"ok": False, "error": "invalid_post_type"})
        asked = json.loads(body)
        if asked.get("channel") not in self.CHANNELS:
            return Said(value={"ok": False, "error": "channel_not_found"})
        if not asked.get("text"):
            return Said(value={"ok": False, "error": "no_text"})
        if len(asked["text"]) > 4000:  # more is cut up by Slack wherever it likes
            return Said(value={"ok": False, "error": "msg_too_long"})
        metadata = asked.get("metadata")
        if metadata and not (
            isinstance(metadata["event_type"], str) and isinstance(metadata["event_payload"], dict)
        ):
            return Said(value={"ok": False, "error": "invalid_metadata_format"})
        if name == "chat.update":
            [old] = [message for message in self.messages if message["ts"] == asked["ts"]]
            old.update(asked)
            return Said(value={"ok": True, "ts": old["ts"]})
        if name != "chat.postMessage":
            return Said(value={"ok": False, "error": "unknown_method"})
        self.messages.append({**asked, "ts": f"1700000000.{len(self.messages):06d}"})
        return Said(value={"ok": True, "ts": self.messages[-1]["ts"]})

    def _history(self, name: str, headers: Mapping[str, str], body: bytes) -> Said:
        if headers.get("content-type") != "application/x-www-form-urlencoded":
            return Said(value={"ok": False, "error": "invalid_arguments"})
        asked = {key: values[0] for key, values in parse_qs(body.decode()).items()}
        if name == "conversations.replies" and not asked.get("ts"):
            return Said(value={"ok": False, "error": "invalid_arguments"})
        shown = [
            message
            for message in self.messages
            if message["channel"] == asked["channel"] and message.get("thread_ts") == asked.get("ts")
        ]
        if asked.get("include_all_metadata") != "true":
            shown = [{name: value for name, value in one.items() if name != "metadata"} for one in shown]
        return Said(value={"ok": True, "messages": shown})

    def _response(self, headers: Mapping[str, str], body: bytes) -> Said:
        asked = json.loads(body)
        if "authorization" in headers or asked.get("response_type") not in ("ephemeral", "in_channel"):
            return Said(status=400, value="invalid")
        self.messages.append(asked)
        return Said(value=b"ok")


class FakeTelegram(Service):
    """sendMessage, editMessageText, sendChatAction, getFile and files. https://core.telegram.org/bots/api"""

    TOKEN = "123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11"
    CHATS = (42, -100, -200)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Said:
        if path.startswith(f"/file/bot{self.TOKEN}/"):
            kind, data = self.files[path.rpartition("/")[2]]
            return Said(value=data, headers={"content-type": kind})
        if not path.startswith(f"/bot{self.TOKEN}/"):
            return Said(401, {"ok": False, "error_code": 401, "description": "Unauthorized"})
        name = path.rpartition("/")[2]
        self.calls.append(name)
        asked = json.loads(body)
        if name == "getFile":
            return Said(
                value={
                    "ok": True,
                    "result": {"file_id": asked["file_id"], "file_path": f"docs/{asked['file_id']}"},
                }
            )
        chat = int(asked["chat_id"])
        if chat == -50:
            return Said(
                400,
                {
                    "ok": False,
                    "error_code": 400,
                    "description": "Bad Request: group chat was upgraded to a supergroup chat",
                    "parameters": {"migrate_to_chat_id": -200},
                },
            )
        if chat not in self.CHATS:
            return _bad("chat not found")
        if name == "sendChatAction":
            return (
                Said(value={"ok": True, "result": True})
                if asked["action"] == "typing"
                else _bad("wrong action")
            )
        wrong = _wrong_text(asked)
        if wrong:
            return _bad(wrong)
        if name == "editMessageText":
            old = self.messages[asked["message_id"] - 1]
            if old["text"] == asked["text"]:
                return _bad("message is not modified")
            old.update(text=asked["text"])
            return Said(value={"ok": True, "result": {"message_id": asked["message_id"]}})
        if name != "sendMessage":
            return Said(404, {"ok": False, "error_code": 404, "description": "Not Found"})
        self.messages.append(asked)
        return Said(value={"ok": True, "result": {"message_id": len(self.messages)}})


def _bad(words: str) -> Said:
    return Said(400, {"ok": False, "error_code": 400, "description": f"Bad Request: {words}"})


def _wrong_text(asked: Mapping[str, Any]) -> str:
    """What Telegram would say of the text: empty, too long in UTF-16 units, or no HTML of its kind."""
    if asked.get("parse_mode") != "HTML":
        return "unsupported parse_mode"
    for name in ("message_thread_id", "message_id"):
        if name in asked and not isinstance(asked[name], int):
            return f"{name} must be an integer"
    if "reply_parameters" in asked and not isinstance(asked["reply_parameters"]["message_id"], int):
        return "message_id must be an integer"
    reader = _TelegramHtml()
    reader.feed(asked["text"])
    reader.close()
    if reader.wrong or reader.open:
        return f"can't parse entities: {reader.wrong or reader.open}"
    units = len(reader.shown.encode("utf-16-le")) // 2
    if not reader.shown.strip():
        return "message text is empty"
    return "message is too long" if units > 4096 else ""


class _TelegramHtml(HTMLParser):
    TAGS = ("b", "i", "s", "u", "code", "pre", "a", "blockquote", "tg-spoiler")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.shown = ""
        self.wrong = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.TAGS:
            self.wrong = f"unsupported start tag {tag}"
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong = f"unexpected end tag {tag}"

    def handle_data(self, data: str) -> None:
        self.shown += data
