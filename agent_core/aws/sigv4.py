"""AWS Signature Version 4, as pure functions of a request, credentials and the time.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import time
from functools import lru_cache
from hashlib import sha256
from posixpath import normpath
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from agent_core.wire.base import Request

ALGORITHM = "AWS4-HMAC-SHA256"
CONTENT_HASH = "x-amz-content-sha256"
"""Header with the SHA-256 of the body in hex. S3 demands it; given by the caller, the body is not hashed again."""

UNSIGNED = frozenset({"connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
"""Headers that proxies change."""


class Credentials(msgspec.Struct, frozen=True):
    """Who signs. `token` goes with temporary credentials; `expires_at` in seconds since 1970, 0 for never."""

    access_key: str
    secret_key: str
    token: str = ""
    expires_at: float = 0.0

    def __repr__(self) -> str:
        return f"Credentials({self.access_key})"


class Scope(NamedTuple):
    """For what a signature counts: a region and a service's signing name, such as `dynamodb`."""

    region: str
    service: str


def sign(request: Request, credentials: Credentials, scope: Scope, at: float) -> Request:
    """The request with the headers that sign it: x-amz-date, authorization, and x-amz-security-token for a token.

    Header names must be in lower case, the URL as it goes over the wire. `at` is in seconds since 1970.
    """
    stamp = _stamp(int(at))
    host, path, query = _target(request.url, scope.service == "s3")
    headers = {**request.headers, "x-amz-date": stamp}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    signed = sorted(
        [*((name, value) for name, value in headers.items() if name not in UNSIGNED), ("host", host)]
    )
    names = ";".join([name for name, _ in signed])
    lines = "\n".join([f"{name}:{' '.join(value.split())}" for name, value in signed])
    body_hash = headers.get(CONTENT_HASH) or sha256(request.body).hexdigest()
    canonical = f"{request.method}\n{path}\n{query}\n{lines}\n\n{names}\n{body_hash}"
    full, signature = _signature(canonical, credentials.secret_key, scope, stamp)
    headers["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key}/{full}, SignedHeaders={names}, Signature={signature}"
    )
    return Request(
        method=request.method,
        url=request.url,
        headers=headers,
        body=request.body,
        timeouts=request.timeouts,
        repeat=request.repeat,
    )


def presign(url: str, credentials: Credentials, scope: Scope, at: float, seconds: int) -> str:
    """A link to GET from S3 that needs no credentials, for so many seconds (at most 7 days)."""
    stamp = _stamp(int(at))
    parameters = {
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{stamp[:8]}/{scope.region}/{scope.service}/aws4_request",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.token:
        parameters["X-Amz-Security-Token"] = credentials.token
    more = "&".join([f"{name}={quote(value, safe='-_.~')}" for name, value in parameters.items()])
    full_url = f"{url}{'&' if '?' in url else '?'}{more}"
    host, path, query = _target(full_url, True)
    canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    _, signature = _signature(canonical, credentials.secret_key, scope, stamp)
    return f"{full_url}&X-Amz-Signature={signature}"


def _signature(canonical: str, secret: str, scope: Scope, stamp: str) -> tuple[str, str]:
    full = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = f"{ALGORITHM}\n{stamp}\n{full}\n{sha256(canonical.encode()).hexdigest()}"
    return full, hmac.digest(_key(secret, stamp[:8], scope), text.encode(), "sha256").hex()


@lru_cache(maxsize=32)
def _key(secret: str, day: str, scope: Scope) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(maxsize=8)
def _stamp(at: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))


@lru_cache(maxsize=256)
def _target(url: str, plain_path: bool) -> tuple[str, str, str]:
    """Host, canonical path and canonical query. All services but S3 want the path normalised and encoded once more."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.port and parts.port != (443 if parts.scheme == "https" else 80):
        host = f"{host}:{parts.port}"
    path = parts.path or "/"
    if not plain_path:
        path = quote(_normal(path), safe="/~")
    pairs = sorted(
        [(name, value) for name, _, value in (part.partition("=") for part in parts.query.split("&"))]
    )
    query = "&".join([f"{_encoded(name)}={_encoded(value)}" for name, value in pairs]) if parts.query else ""
    return host, path, query


def _normal(path: str) -> str:
    """Without `.`, `..` and doubled slashes (RFC 3986 section 5.2.4); the last slash stays."""
    normal = normpath("/" + path.lstrip("/"))
    return normal + "/" if path.endswith("/") and normal != "/" else normal


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="-_.~")
