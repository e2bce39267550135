"""An OpenAI-shaped endpoint on loopback that says what it was told, and can be out of order for a while."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ModelServer:
    """`url` is what MODEL_ENDPOINT takes. Messages with one of the `broken` words get 503."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict[str, Any]) -> tuple[int, str, bytes]:
        """Status, content type and body of one request."""
        words = _text(request["messages"][-1]["content"])
        self.asked.append(words)
        if any(word in words for word in self.broken):
            return 503, "application/json", b'{"error": {"message": "out of order"}}'
        said, usage = f"You said: {words}", {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        if not request.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
            return 200, "application/json", _encode({"id": "c1", "choices": [choice], "usage": usage})
        pieces: list[dict[str, Any]] = [{"content": f"{word} "} for word in said.split(" ")[:-1]]
        pieces.append({"content": said.split(" ")[-1]})
        chunks: list[dict[str, Any]] = [
            {"id": "c1", "choices": [{"index": 0, "delta": piece}]} for piece in pieces
        ]
        chunks.append(
            {"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
        )
        lines = [b"data: " + _encode(chunk) for chunk in chunks] + [b"data: [DONE]"]
        return 200, "text/event-stream", b"".join(line + b"\n\n" for line in lines)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, kind, body = server.answer(request)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _encode(value: object) -> bytes:
    return json.dumps(value).encode()
