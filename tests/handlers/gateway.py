"""A stand-in for API Gateway's management API on loopback: it takes what is signed rightly and small enough."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

REGION = "eu-west-1"
STAGE = "dev"
KEY, SECRET, TOKEN = "AKIDEXAMPLE", "a secret", "a token"
FRAME_BYTES = 32 * 1024
ENVIRON = {
    "AWS_REGION": REGION,
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
}


class Gateway:
    """What came for each connection, and who has left. `before` is called with each frame before it is answered."""

    def __init__(self) -> None:
        self.port = 0
        self.open: set[str] = set()
        self.frames: list[tuple[str, bytes]] = []
        self.refused: list[str] = []
        self.statuses: list[int] = []
        """Answers to give next instead of taking the frame."""
        self.before: Callable[[str, dict[str, Any]], None] = lambda connection, frame: None

    @property
    def url(self) -> str:
        """The URL of the API's stage."""
        return f"http://127.0.0.1:{self.port}/{STAGE}"

    def said(self, connection: str) -> list[dict[str, Any]]:
        """The frames that a client saw, the parts of large ones put together."""
        whole, parts = [], {}
        for to, body in self.frames:
            if to != connection:
                continue
            frame = json.loads(body)
            if frame["type"] == "part":
                texts = parts.setdefault(frame["of"], [])
                texts.append(frame["text"])
                assert frame["number"] == len(texts)
                if frame["number"] < frame["count"]:
                    continue
                frame = json.loads("".join(texts))
            whole.append(frame)
        return whole

    def take(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
        """The status and the error's name for one request."""
        prefix = f"/{STAGE}/@connections/"
        if method != "POST" or not path.startswith(prefix):
            return 404, "NotFoundException"
        if not signed(method, f"http://{headers['host']}{path}", headers, body):
            self.refused.append(path)
            return 403, "InvalidSignatureException"
        connection = unquote(path.removeprefix(prefix))
        if self.statuses:
            status = self.statuses.pop(0)
            return status, {429: "LimitExceededException"}.get(status, "InternalFailure")
        if len(body) >= FRAME_BYTES:
            return 413, "PayloadTooLargeException"
        if connection not in self.open:
            return 410, "GoneException"
        self.before(connection, json.loads(body))
        self.frames.append((connection, body))
        return 200, ""


def signed(method: str, url: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether botocore makes the same signature of what came, with the keys that we know."""
    given = headers.get("authorization", "")
    names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    asked = AWSRequest(method, url, headers={n: headers[n] for n in names if n != "host"}, data=body)
    asked.context["timestamp"] = headers.get("x-amz-date", "")
    auth = SigV4Auth(Credentials(KEY, SECRET, TOKEN), "execute-api", REGION)
    signature = auth.signature(auth.string_to_sign(asked, auth.canonical_request(asked)), asked)
    scope = f"{headers.get('x-amz-date', '')[:8]}/{REGION}/execute-api/aws4_request"
    return (
        given.startswith(f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, ")
        and given.endswith(f"Signature={signature}")
        and headers.get("x-amz-security-token") == TOKEN
        and {"host", "x-amz-date", "x-amz-security-token"} <= set(names)
    )


@contextmanager
def running() -> Iterator[Gateway]:
    """A gateway on a free port of loopback, in a thread."""
    gateway = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, name = gateway.take("POST", self.path, headers, body)
            answer = json.dumps({"message": name}).encode() if name else b""
            self.send_response(status)
            if name:
                self.send_header("x-amzn-errortype", name)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    gateway.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def event(kind: str, connection: str = "L0SM9cOFvHcCIhw=", body: Any = None, **more: Any) -> dict[str, Any]:
    """An event of the WebSocket API, as API Gateway makes it."""
    route = {"CONNECT": "$connect", "MESSAGE": "$default", "DISCONNECT": "$disconnect"}[kind]
    made: dict[str, Any] = {
        "requestContext": {
            "routeKey": route,
            "eventType": kind,
            "connectionId": connection,
            "apiId": "a1b2c3d4e5",
            "domainName": "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com",
            "stage": STAGE,
            "requestId": "L0SM9DtSvHcFjrg=",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "isBase64Encoded": False,
        **more,
    }
    if kind == "MESSAGE":
        made["body"] = body if isinstance(body, str) else json.dumps(body)
    return made


def path_of(connection: str) -> str:
    """Where frames for a connection go."""
    return f"/{STAGE}/@connections/{quote(connection, safe='')}"
