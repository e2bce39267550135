"""S3's pages, links and refusals."""

from __future__ import annotations

import hashlib
import http.client
from urllib.parse import urlsplit

import pytest

from agent_core.aws.client import AwsClient
from agent_core.aws.credentials import Chain, Given
from agent_core.aws.services import bucket_url
from agent_core.aws.sigv4 import Credentials
from agent_core.blobs.s3 import S3Blobs
from agent_core.errors import InputError, StoreError
from agent_core.settings import Settings
from agent_core.testing import ManualClock, ScriptedWire
from agent_core.wire.scripted import Answer
from tests.aws.emulator import Emulator


def blobs_over(wire: ScriptedWire) -> S3Blobs:
    clock = ManualClock(jump=True)
    client = AwsClient(wire, clock, Chain((Given(Credentials("A", "s")),), clock), "eu-west-1")
    return S3Blobs(client, "https://b.s3.test", prefix="ours/")


async def test_a_link_opens_the_blob_without_credentials(emulator: Emulator) -> None:
    blobs = emulator.blobs(ManualClock())
    ref = await blobs.put("Tenant", "s/1", b"data", "text/plain")
    link = urlsplit(await blobs.link("Tenant", ref, 60))
    await blobs.close()
    connection = http.client.HTTPConnection(link.netloc, timeout=10)
    connection.request("GET", f"{link.path}?{link.query}")
    answer = connection.getresponse()
    assert (answer.status, answer.read(), answer.headers["content-type"]) == (200, b"data", "text/plain")
    connection.close()


@pytest.mark.parametrize("seconds", [0, 604_801])
async def test_a_link_has_an_end(seconds: int) -> None:
    with pytest.raises(InputError):
        await blobs_over(ScriptedWire()).link("t", "s/" + "a" * 64, seconds)


async def test_an_erasure_goes_through_all_pages() -> None:
    first = b"<R><Key>ours/t-t/s-s/1</Key><Key>ours/t-t/s-s/2</Key><NextContinuationToken>a+/=</NextContinuationToken>"
    wire = ScriptedWire(
        [Answer(body=first), Answer(), Answer(body=b"<R><Key>ours/t-t/s-s/3</Key></R>"), Answer()]
    )
    await blobs_over(wire).erase("t", "s")
    wire.assert_used_up()
    listed, deleted, more, last = wire.requests
    assert listed.url == "https://b.s3.test/?list-type=2&prefix=ours/t-t/s-s/"
    assert more.url == "https://b.s3.test/?list-type=2&continuation-token=a%2B/%3D&prefix=ours/t-t/s-s/"
    assert b"<Key>ours/t-t/s-s/2</Key>" in deleted.body
    assert deleted.headers["x-amz-checksum-sha256"]
    assert b"<Key>ours/t-t/s-s/3</Key>" in last.body


async def test_what_could_not_be_removed_is_told() -> None:
    refused = b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    with pytest.raises(StoreError, match="AccessDenied"):
        await blobs_over(ScriptedWire([Answer(body=b"<Key>k</Key>"), Answer(body=refused)])).erase("t", "s")


async def test_a_damaged_blob_is_no_blob() -> None:
    with pytest.raises(StoreError, match="damaged"):
        await blobs_over(ScriptedWire([Answer(body=b"other bytes")])).get("t", "s/" + "a" * 64)


async def test_a_missing_bucket_is_no_missing_blob() -> None:
    body = b"<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>"
    with pytest.raises(StoreError, match="NoSuchBucket"):
        await blobs_over(ScriptedWire([Answer(status=404, body=body)])).get("t", "s/" + "a" * 64)


def test_a_prefix_needs_no_quoting() -> None:
    with pytest.raises(InputError):
        S3Blobs(blobs_over(ScriptedWire())._client, "https://b", prefix="a b/")


def test_where_a_bucket_is() -> None:
    assert bucket_url(Settings(bucket="b"), "eu-west-1") == "https://b.s3.eu-west-1.amazonaws.com"
    assert bucket_url(Settings(bucket="a.b"), "cn-north-1") == "https://s3.cn-north-1.amazonaws.com.cn/a.b"
    own = Settings(bucket="b", aws_endpoint_url="http://127.0.0.1:9000/")
    assert bucket_url(own, "eu-west-1") == "http://127.0.0.1:9000/b"


VERSIONED = b"<VersioningConfiguration><Status>%b</Status></VersioningConfiguration>"


async def keep_versions(blobs: S3Blobs, status: bytes) -> None:
    """Have the bucket keep versions from now on, or no longer."""
    body = VERSIONED % status
    await blobs._send("PUT", "", {}, body, hashlib.sha256(body).hexdigest(), query="versioning=")


@pytest.mark.parametrize("emulated", ["emulator", "ministack"])
@pytest.mark.parametrize("suspended", [False, True])
async def test_a_tenant_is_erased_in_all_versions(
    request: pytest.FixtureRequest, emulated: str, suspended: bool
) -> None:
    emulator: Emulator = request.getfixturevalue(emulated)
    blobs = emulator.blobs(ManualClock(jump=True))
    await keep_versions(blobs, b"Enabled")
    for tenant in ("acme", "other"):
        for media_type in ("text/plain", "text/html"):
            await blobs.put(tenant, "s", b"data", media_type)
        await blobs.erase(tenant, "s")
        await blobs.put(tenant, "s", b"more", "text/plain")
    if suspended:
        await keep_versions(blobs, b"Suspended")
        await blobs.put("acme", "s", b"data", "text/plain")
    # One of the emulators forgets older versions of what is written while no versions are kept.
    assert len(await blobs._versions("t-acme/")) >= (2 if suspended else 4)
    others = await blobs._versions("t-other/")
    await blobs.erase_all("acme")
    await blobs.erase_all("acme")
    assert await blobs._versions("t-acme/") == []
    assert await blobs._versions("t-other/") == others
    assert [blob.data async for _, blob in blobs.all("other")] == [b"more"]
    await blobs.close()


@pytest.mark.parametrize("code", ["NotImplemented", "MethodNotAllowed"])
async def test_an_engine_without_versions_is_erased_too(code: str) -> None:
    refusal = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
    wire = ScriptedWire([Answer(body=b"<R></R>"), Answer(status=405, body=refusal)])
    await blobs_over(wire).erase_all("t")
    wire.assert_used_up()
    assert wire.requests[1].url == "https://b.s3.test/?prefix=ours/t-t/&versions="


async def test_who_may_not_see_versions_is_told_so() -> None:
    refusal = b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>"
    wire = ScriptedWire([Answer(body=b"<R></R>"), Answer(status=403, body=refusal)])
    with pytest.raises(StoreError, match="AccessDenied"):
        await blobs_over(wire).erase_all("t")
