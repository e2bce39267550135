"""Our signatures are botocore's, for any request."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_core.aws.sigv4 import CONTENT_HASH, Credentials, Scope, presign, sign
from agent_core.wire.base import Request

PLAIN = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=12
)
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
SEGMENTS = st.lists(
    st.sampled_from(["", ".", "..", "a", "é", "x y", "%2F", "~", "a+b", "*"]) | TEXT, max_size=5
)
QUERIES = st.lists(st.tuples(TEXT.filter(bool), TEXT), max_size=4)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20).map(str.strip)
NAMES = st.sampled_from(
    ["content-type", "x-amz-target", "x-amz-meta-a", "accept", "user-agent", "range", "a-b"]
)
HOSTS = st.sampled_from(
    ["dynamodb.eu-west-1.amazonaws.com", "127.0.0.1:8000", "localhost:443", "a.b:80", "[::1]:4566"]
)
CREDENTIALS = st.builds(Credentials, PLAIN, PLAIN, st.just("") | PLAIN)
SCOPES = st.builds(
    Scope, st.sampled_from(["us-east-1", "eu-west-1"]), st.sampled_from(["dynamodb", "sqs", "s3"])
)
TIMES = st.floats(0, 4e9)


def url(scheme: str, host: str, segments: list[str], query: list[tuple[str, str]]) -> str:
    path = "/" + "/".join(quote(segment, safe="") for segment in segments)
    pairs = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    return f"{scheme}://{host}{path}{'?' if pairs else ''}{pairs}"


def stamp(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y%m%dT%H%M%SZ")


def theirs(request: Request, credentials: Credentials, scope: Scope, at: float) -> dict[str, str]:
    """The headers that botocore would send, with the time given instead of asked for."""
    kind = S3SigV4Auth if scope.service == "s3" else SigV4Auth
    auth = kind(
        TheirCredentials(credentials.access_key, credentials.secret_key, credentials.token or None),
        scope.service,
        scope.region,
    )
    asked = AWSRequest(request.method, request.url, headers=dict(request.headers), data=request.body)
    asked.context["timestamp"] = stamp(at)
    auth._modify_request_before_signing(asked)
    for name in request.headers:  # S3's signer hashes the body itself; the hash that was given must stay
        asked.headers.replace_header(name, request.headers[name])
    signature = auth.signature(auth.string_to_sign(asked, auth.canonical_request(asked)), asked)
    auth._inject_signature_to_request(asked, signature)
    return {name.lower(): value for name, value in asked.headers.items()}


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    scheme=st.sampled_from(["http", "https"]),
    host=HOSTS,
    segments=SEGMENTS,
    query=QUERIES,
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    body=st.binary(max_size=50),
    credentials=CREDENTIALS,
    scope=SCOPES,
    at=TIMES,
)
@settings(max_examples=150, deadline=None)
def test_the_headers_are_those_of_botocore(
    method: str,
    scheme: str,
    host: str,
    segments: list[str],
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
    credentials: Credentials,
    scope: Scope,
    at: float,
) -> None:
    if scope.service == "s3":
        headers = {**headers, CONTENT_HASH: "0" * 64}
    request = Request(method=method, url=url(scheme, host, segments, query), headers=headers, body=body)
    signed = sign(request, credentials, scope, at)
    assert (signed.method, signed.url, signed.body) == (request.method, request.url, request.body)
    assert dict(signed.headers) == theirs(request, credentials, scope, at)


class _Then(S3SigV4QueryAuth):
    """botocore's signer of links, at a time of ours."""

    def add_auth_at(self, request: AWSRequest, at: float) -> None:
        request.context["timestamp"] = stamp(at)
        self._modify_request_before_signing(request)
        signature = self.signature(self.string_to_sign(request, self.canonical_request(request)), request)
        self._inject_signature_to_request(request, signature)


@given(
    host=HOSTS,
    segments=st.lists(st.sampled_from(["a", "é", "%25", "x y", "~"]), min_size=1, max_size=4),
    credentials=CREDENTIALS,
    at=TIMES,
    seconds=st.integers(1, 604_800),
)
@example(host="b.s3.amazonaws.com", segments=["k"], credentials=Credentials("A", "s"), at=0.0, seconds=60)
@settings(max_examples=50, deadline=None)
def test_links_are_those_of_botocore(
    host: str, segments: list[str], credentials: Credentials, at: float, seconds: int
) -> None:
    plain = url("https", host, segments, [])
    asked = AWSRequest("GET", plain)
    given = TheirCredentials(credentials.access_key, credentials.secret_key, credentials.token or None)
    _Then(given, "s3", "eu-west-1", expires=seconds).add_auth_at(asked, at)
    assert presign(plain, credentials, Scope("eu-west-1", "s3"), at, seconds) == asked.url


def test_no_secret_in_a_repr() -> None:
    assert "hidden" not in repr(Credentials("AKID", "hidden", "hidden too"))
