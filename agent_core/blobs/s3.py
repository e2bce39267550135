"""Blobs as objects of an S3 bucket, or of any that speaks its API: `<prefix>t-<tenant>/s-<session>/<sha256>`."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator

from agent_core.aws.client import AwsClient, AwsError
from agent_core.aws.sigv4 import CONTENT_HASH, Scope, presign
from agent_core.blobs.base import Blob, check_media_type, plain_name, reference, split_reference
from agent_core.errors import InputError, NotFoundError, StoreError
from agent_core.wire.base import Request, Response, Timeouts

TIMEOUTS = Timeouts(connect=2.0, first_byte=20.0, between_chunks=20.0, total=120.0)
MAX_LINK_SECONDS = 7 * 86_400
"""How long a link may count: S3's limit. It ends earlier where the credentials that signed it do."""

_EMPTY = hashlib.sha256(b"").hexdigest()
_UNTYPED = "x-amz-meta-untyped"
"""Header of an object without a media type: S3 would give it one."""

# Our own keys hold nothing that XML or a URL would write otherwise, so no parser of either is needed.
_KEY = re.compile(r"<Key>([^<]+)</Key>")
_VERSION = re.compile(r"<(Version|DeleteMarker)>(.*?)</\1>", re.DOTALL)
_VERSION_ID = re.compile(r"<VersionId>([^<]+)</VersionId>")
_NO_VERSIONS = ("NotImplemented", "MethodNotAllowed")
"""What an engine says that knows no versions."""

_NEXT = re.compile(r"<NextContinuationToken>([^<]+)</NextContinuationToken>")
_PREFIX = re.compile(r"(?:[a-z0-9_-]+/)*")


class S3Blobs:
    """All verbs over the objects below `prefix` ("" or `a/b/`) of the bucket at `url`.

    An object appears whole or not at all. `erase` removes what was there when it began.
    """

    def __init__(self, client: AwsClient, url: str, *, prefix: str = "") -> None:
        if not _PREFIX.fullmatch(prefix):
            raise InputError(
                "a prefix is made of small letters, digits, - and _, each part with a slash behind it"
            )
        self._client = client
        self._url = url.rstrip("/")
        self._prefix = prefix

    async def put(self, tenant: str, session: str, data: bytes, media_type: str) -> str:
        """Store the bytes and return their reference."""
        check_media_type(media_type)
        ref = reference(session, data)
        headers = {"content-type": media_type} if media_type.strip() else {_UNTYPED: "true"}
        await self._send("PUT", self._key(tenant, ref), headers, data, split_reference(ref)[1])
        return ref

    async def get(self, tenant: str, ref: str) -> Blob:
        """The bytes again; raises NotFoundError, StoreError where they are damaged."""
        try:
            answer = await self._send("GET", self._key(tenant, ref))
        except AwsError as error:
            if error.code == "NoSuchKey":
                raise NotFoundError(f"no blob {ref}") from None
            raise
        if hashlib.sha256(answer.body).hexdigest() != split_reference(ref)[1]:
            raise StoreError(f"the blob {ref} is damaged: its bytes are not those it is named after")
        untyped = _UNTYPED in answer.headers
        return Blob(answer.body, "" if untyped else answer.headers.get("content-type", ""))

    async def link(self, tenant: str, ref: str, seconds: int) -> str:
        """A URL under which anybody can read the blob for so many seconds, if it is there. Costs no call."""
        if not 1 <= seconds <= MAX_LINK_SECONDS:
            raise InputError(f"a link counts for 1 to {MAX_LINK_SECONDS} seconds, not {seconds}")
        credentials = await self._client.credentials.current()
        scope = Scope(self._client.region, "s3")
        return presign(
            self._at(self._key(tenant, ref)), credentials, scope, self._client.clock.now(), seconds
        )

    async def remove(self, tenant: str, ref: str) -> None:
        """Remove these bytes."""
        await self._send("DELETE", self._key(tenant, ref))

    async def erase(self, tenant: str, session: str) -> None:
        """Remove all bytes of a session; a bucket that keeps versions keeps these."""
        async for keys in self._listed(f"{self._folder(tenant, session)}/"):
            await self._delete([f"<Key>{key}</Key>" for key in keys])

    async def erase_all(self, tenant: str) -> None:
        """Remove all bytes of a tenant, where the bucket keeps versions these too."""
        folder = f"{self._prefix}t-{plain_name(tenant)}/"
        async for keys in self._listed(folder):
            await self._delete([f"<Key>{key}</Key>" for key in keys])
        while versions := await self._versions(folder):
            await self._delete(versions)

    async def all(self, tenant: str) -> AsyncIterator[tuple[str, Blob]]:
        """All bytes of a tenant, each with its name."""
        folder = f"{self._prefix}t-{plain_name(tenant)}/"
        async for keys in self._listed(folder):
            for key in keys:
                try:
                    answer = await self._send("GET", key)
                except AwsError as error:
                    if error.code == "NoSuchKey":  # erased meanwhile
                        continue
                    raise
                untyped = _UNTYPED in answer.headers
                kind = "" if untyped else answer.headers.get("content-type", "")
                yield key.removeprefix(folder), Blob(answer.body, kind)

    async def _listed(self, folder: str) -> AsyncIterator[list[str]]:
        """The keys of all objects of a folder, a page at a time."""
        after = ""
        while True:
            # S3 encodes a token's plus and slash as it does a key's; sent back they must be encoded again.
            more = f"&continuation-token={_quoted(after)}" if after else ""
            listed = (
                await self._send("GET", query=f"list-type=2{more}&prefix={_quoted(folder)}")
            ).body.decode()
            if keys := _KEY.findall(listed):
                yield keys
            found = _NEXT.search(listed)
            if found is None:
                return
            after = found.group(1)

    async def _versions(self, folder: str) -> list[str]:
        """Versions below a folder, and marks of deletion: up to a thousand, as a deletion names them."""
        try:
            listed = (await self._send("GET", query=f"prefix={_quoted(folder)}&versions=")).body.decode()
        except AwsError as error:
            if error.code in _NO_VERSIONS:
                return []
            raise
        found = []
        for _, version in _VERSION.findall(listed):
            key, version_id = _KEY.search(version), _VERSION_ID.search(version)
            if key is not None and version_id is not None:
                found.append(key.group() + version_id.group())
        return found

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    async def _delete(self, names: list[str]) -> None:
        objects = "".join([f"<Object>{name}</Object>" for name in names])
        body = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
        digest = hashlib.sha256(body)
        headers = {
            "content-type": "application/xml",
            "x-amz-checksum-sha256": base64.b64encode(digest.digest()).decode(),
            "x-amz-sdk-checksum-algorithm": "SHA256",
        }
        answer = await self._send("POST", "", headers, body, digest.hexdigest(), query="delete=")
        if b"<Error>" in answer.body:
            code = answer.body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("ascii", "replace")
            raise StoreError(f"S3 did not remove all: {code}")

    async def _send(
        self,
        method: str,
        key: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        digest: str = _EMPTY,
        *,
        query: str = "",
    ) -> Response:
        request = Request(
            method=method,
            url=self._at(key) + (f"?{query}" if query else ""),
            headers={**(headers or {}), CONTENT_HASH: digest},
            body=body,
            timeouts=TIMEOUTS,
        )
        # Every call of ours may be made twice: the same bytes under the same name, and what is gone is gone.
        return await self._client.send(request, "s3", idempotent=True)

    def _at(self, key: str) -> str:
        return f"{self._url}/{_quoted(key)}"

    def _key(self, tenant: str, ref: str) -> str:
        session, digest = split_reference(ref)
        return f"{self._folder(tenant, session)}/{digest}"

    def _folder(self, tenant: str, session: str) -> str:
        return f"{self._prefix}t-{plain_name(tenant)}/s-{plain_name(session)}"


def _quoted(text: str) -> str:
    """A key or a token in a URL; besides what needs no quoting they hold `%`, `+` and `=` alone."""
    return text.replace("%", "%25").replace("+", "%2B").replace("=", "%3D")
