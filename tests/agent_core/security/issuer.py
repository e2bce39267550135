"""A small OpenID issuer on loopback: it has keys, a login page that knows everybody, and signs tokens."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
CLIENT, SECRET, AUDIENCE = "console", "s3cret/ with signs", "https://agents.example.com"


class Issuer:
    """What it knows. `now` is its clock; `user` who sits before its login page; `asked` counts its pages."""

    def __init__(self) -> None:
        self.url = ""
        self.now = 0.0
        self.user = "ada"
        self.nonce: str | None = None
        self.down = False
        self.asked: Counter[str] = Counter()
        self.keys: list[Any] = [KEY]
        self.codes: dict[str, dict[str, str]] = {}

    def token(self, *, key: Any = None, alg: str = "RS256", header: Any = None, **claims: Any) -> str:
        """A signed token; a claim None is left out."""
        key = key or self.keys[-1]
        said = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": self.user,
            "iat": int(self.now),
            "exp": int(self.now) + 300,
            **claims,
        }
        shown = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({"alg": alg, "kid": key.kid, **(header or {})}, shown, key, algorithms=[alg])

    def rotate(self) -> None:
        """A new key; the old one is published no more."""
        self.keys = [ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig"})]

    def answer(
        self, method: str, path: str, query: dict[str, str], form: dict[str, str], headers: Any
    ) -> Any:
        self.asked[path] += 1
        if self.down:
            return 503, {}
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/login?tenant=x",
                "token_endpoint": f"{self.url}/token",
            }
        if path == "/keys":
            return 200, KeySet(self.keys).as_dict(private=False)
        if path == "/login":
            assert query["response_type"] == "code"
            assert query["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(8)
            self.codes[code] = query
            back = urlencode({"code": code, "state": query["state"]})
            return 302, f"{query['redirect_uri']}?{back}"
        if path == "/token" and method == "POST":
            return self._exchange(form, headers)
        return 404, {}

    def _exchange(self, form: dict[str, str], headers: Any) -> Any:
        known = self.codes.pop(form["code"], None)
        pair = base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode()
        proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        right = (
            known is not None
            and pair == f"{CLIENT}:s3cret%2F%20with%20signs"
            and known["code_challenge"] == proof.decode()
            and known["redirect_uri"] == form["redirect_uri"]
        )
        if not right or known is None:
            return 400, {"error": "invalid_grant"}
        nonce = self.nonce or known["nonce"]
        return 200, {
            "id_token": self.token(alg=self._alg, aud=known["client_id"], nonce=nonce),
            "token_type": "Bearer",
        }

    @property
    def _alg(self) -> str:
        return "RS256" if self.keys[-1].key_type == "RSA" else "ES256"


@contextlib.contextmanager
def running() -> Iterator[Issuer]:
    """An issuer that listens."""
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._do({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._do(dict(parse_qsl(body)))

        def _do(self, form: dict[str, str]) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, said = issuer.answer(self.command, parts.path, query, form, self.headers)
            body = b"" if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            if isinstance(said, str):
                self.send_header("Location", said)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
