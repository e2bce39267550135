"""What a DynamoDB call costs the client in CPU: our store, with signing and retries, against boto3."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import boto3
import msgspec
from botocore.config import Config

from agent_core.aws.client import AwsClient, JsonService
from agent_core.aws.credentials import Chain, Given
from agent_core.aws.sigv4 import Credentials
from agent_core.clock import SystemClock
from agent_core.store.attributes import attributes, item
from agent_core.store.base import Absent, Equals, Fields, Key, Put, Update
from agent_core.store.dynamodb import DynamoStore
from agent_core.wire.aiohttp import AiohttpWire
from agent_core.wire.asyncio import AsyncioWire
from agent_core.wire.base import Wire
from benchmarks.servers import Mock, mock_model
from benchmarks.table import Goal, Report

GOAL = 0.35
REGION = "eu-west-1"
TABLE = "bench"
VERBS = ("get", "put", "transaction of four", "query of ten")
FIELDS: Fields = {
    "v": 1,
    "run_id": "01jxt21q000000000000000006",
    "status": "running",
    "created_at": 1_750_000_000.25,
    "steps": 3,
    "reply": {
        "role": "assistant",
        "parts": [{"type": "text", "text": "The capital of France is Paris. " * 8}],
    },
}
KEY = Key("default/session/local/s", "state")
Do = Callable[[int], Awaitable[Any]]


def run(*, quick: bool = False) -> Report:
    """Blocks of calls of each client in turn; the median of their CPU per call, user and system."""
    blocks, calls = (2, 20) if quick else (15, 100)
    with tempfile.TemporaryDirectory() as folder, mock_model(Path(folder) / "mock.log") as mock:
        found = asyncio.run(_measure(mock, blocks, calls))
    report = Report(
        "dynamodb",
        "CPU per DynamoDB call",
        ("call", "boto3, µs", "asyncio, µs", "aiohttp, µs", "asyncio : boto3", "aiohttp : boto3"),
    )
    for verb in VERBS:
        boto, core, aio = (statistics.median(found[name, verb]) for name in ("boto3", "asyncio", "aiohttp"))
        report.rows.append((verb, boto, core, aio, core / boto, aio / boto))
        report.goals.append(Goal(f"CPU to boto3's, {verb}, over asyncio (functions)", core / boto, GOAL, "x"))
        report.goals.append(Goal(f"CPU to boto3's, {verb}, over aiohttp (servers)", aio / boto, GOAL, "x"))
    report.notes = [
        f"- Client CPU, user and system: the median of {blocks} blocks of {calls} calls each, the clients in turn, "
        "against a server in another process that answers at once over plain HTTP.",
        "- Ours is the whole store, from a record to a record, with signing, conditions and retries; boto3 is its "
        "low-level client (`boto3.client`), given and giving DynamoDB's own attributes, one call after the other.",
    ]
    return report


async def _measure(mock: Mock, blocks: int, calls: int) -> dict[tuple[str, str], list[float]]:
    stores = {"asyncio": _store(AsyncioWire(), mock), "aiohttp": _store(AiohttpWire(), mock)}
    clients = {
        "boto3": _boto3(mock),
        **{name: _ours(store) for name, store in stores.items()},
    }
    for place in range(10):
        await stores["asyncio"].write(Put(Key("query", f"{place:03}"), FIELDS))
    await stores["asyncio"].write(Put(KEY, FIELDS))
    found: dict[tuple[str, str], list[float]] = {(name, verb): [] for name in clients for verb in VERBS}
    for block in range(blocks + 1):
        for verb in VERBS:
            for name, verbs in clients.items():
                began = time.process_time()
                for number in range(calls):
                    await verbs[verb](number)
                if block:  # the first one warms up
                    found[name, verb].append((time.process_time() - began) / calls * 1e6)
    for store in stores.values():
        await store.close()
    return found


def _store(wire: Wire, mock: Mock) -> DynamoStore:
    clock = SystemClock()
    client = AwsClient(wire, clock, Chain((Given(Credentials("testing", "testing")),), clock), REGION)
    url = f"http://127.0.0.1:{mock.port}/"
    return DynamoStore(
        JsonService(client=client, service="dynamodb", url=url, target="DynamoDB_20120810"), TABLE
    )


def _ours(store: DynamoStore) -> dict[str, Do]:
    async def transact(number: int) -> None:
        await store.write(
            Put(Key(f"run/{number}", "run"), FIELDS, when=(Absent(),), expires_at=2e9),
            Update(KEY, {"lease_until": 1.5}, {"fence": 1}, when=(Equals("fence", 1),)),
            Put(Key("pending", str(number)), FIELDS),
            Put(Key("due", str(number)), FIELDS),
        )

    return {
        "get": lambda _: store.get(KEY),
        "put": lambda number: store.write(Put(Key("put", str(number)), FIELDS)),
        "transaction of four": transact,
        "query of ten": lambda _: store.query("query"),
    }


def _boto3(mock: Mock) -> dict[str, Do]:
    client = boto3.client(
        "dynamodb",
        region_name=REGION,
        endpoint_url=f"http://127.0.0.1:{mock.port}",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(retries={"mode": "standard"}),
    )
    body = msgspec.json.encode(FIELDS)

    def row(partition: str, sort: str) -> dict[str, Any]:
        made = item(Key(partition, sort), attributes(body), 1, 0.0)
        return dict(msgspec.json.decode(msgspec.json.encode(made)))

    now, missing = {":now": {"N": "1.5"}}, "attribute_not_exists(pk) OR e <= :now"
    # Made before: a user of boto3 pays for that as well.
    rows = [row("put", str(number)) for number in range(1000)]

    def put_of(number: int) -> dict[str, Any]:
        return {
            "TableName": TABLE,
            "Item": rows[number],
            "ConditionExpression": missing,
            "ExpressionAttributeValues": now,
        }

    update = {
        "TableName": TABLE,
        "Key": {"pk": {"S": KEY.partition}, "sk": {"S": KEY.sort}},
        "UpdateExpression": "SET lease_until = :0, fence = if_not_exists(fence, :zero) + :1",
        "ConditionExpression": "fence = :1",
        "ExpressionAttributeValues": {":0": {"N": "1.5"}, ":1": {"N": "1"}, ":zero": {"N": "0"}},
    }

    async def get(_: int) -> None:
        client.get_item(TableName=TABLE, Key=update["Key"], ConsistentRead=True)

    async def put(number: int) -> None:
        client.put_item(**put_of(number))

    async def transact(number: int) -> None:
        puts = [{"Put": put_of(place)} for place in (number, number + 1, number + 2)]
        client.transact_write_items(TransactItems=[puts[0], {"Update": update}, *puts[1:]])

    async def query(_: int) -> None:
        client.query(
            TableName=TABLE,
            KeyConditionExpression="pk = :p",
            ExpressionAttributeValues={":p": {"S": "query"}},
            ConsistentRead=True,
            Limit=101,
        )

    return dict(zip(VERBS, (get, put, transact, query), strict=True))
