"""The emulated cloud as tests use it: one moto server for the session, adapters on tables and queues of their own."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from agent_core.aws.client import AwsClient, JsonService
from agent_core.aws.credentials import Chain, Given
from agent_core.aws.sigv4 import Credentials
from agent_core.blobs.s3 import S3Blobs
from agent_core.clock import Clock
from agent_core.queues.base import Rules
from agent_core.queues.sqs import SqsQueue
from agent_core.store.dynamodb import DynamoStore
from agent_core.testing import ManualClock
from agent_core.wire.httpcore import HttpcoreWire

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-east-1"
_SCHEMA = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
    ],
    "BillingMode": "PAY_PER_REQUEST",
}


class Emulator:
    """A running server at 127.0.0.1:`port`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._names = count()
        self._control = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def client(self, clock: Clock) -> AwsClient:
        """A client with connections of its own."""
        credentials = Chain((Given(Credentials("testing", "testing")),), clock)
        return AwsClient(HttpcoreWire(), clock, credentials, REGION)

    def name(self) -> str:
        """A name that nothing has yet."""
        return f"n{next(self._names)}"

    def dynamodb(self, clock: Clock) -> JsonService:
        """DynamoDB."""
        return JsonService(
            client=self.client(clock), service="dynamodb", url=f"{self.url}/", target="DynamoDB_20120810"
        )

    def sqs(self, clock: Clock) -> JsonService:
        """SQS."""
        return JsonService(client=self.client(clock), service="sqs", url=f"{self.url}/", target="AmazonSQS")

    def ask(self, service: str, target: str, request: dict[str, object]) -> dict[str, object]:
        """One unsigned call, for what only tests do: make tables, queues and buckets."""
        headers = {
            "x-amz-target": target,
            "content-type": "application/x-amz-json-1.0",
            "authorization": f"AWS4-HMAC-SHA256 Credential=testing/20250101/{REGION}/{service}/aws4_request",
        }
        self._control.request("POST", "/", json.dumps(request), headers)
        answer = self._control.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        found: dict[str, object] = json.loads(body or b"{}")
        return found

    def put(self, path: str) -> None:
        """A PUT to S3."""
        headers = {"authorization": f"AWS4-HMAC-SHA256 Credential=testing/20250101/{REGION}/s3/aws4_request"}
        self._control.request("PUT", path, headers=headers)
        answer = self._control.getresponse()
        body = answer.read()
        assert answer.status == 200, body

    def blobs(self, clock: Clock, *, prefix: str = "") -> S3Blobs:
        """Blobs in a new bucket. Whoever opens them closes them."""
        bucket = f"bucket-{self.name()}"
        self.put(f"/{bucket}")
        return S3Blobs(self.client(clock), f"{self.url}/{bucket}", prefix=prefix)

    def queue(self, clock: Clock, rules: Rules) -> SqsQueue:
        """A new queue with these rules, and its dead-letter queue. Whoever opens it closes it."""
        dead_url, more = "", {}
        if rules.max_receives:
            dead_url = self._make_queue(rules.for_dead(), {})
            target = f"arn:aws:sqs:{REGION}:123456789012:{dead_url.rpartition('/')[2]}"
            policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(rules.max_receives)}
            more = {"RedrivePolicy": json.dumps(policy)}
        return SqsQueue(self.sqs(clock), self._make_queue(rules, more), rules, dead_url=dead_url)

    def _make_queue(self, rules: Rules, more: dict[str, str]) -> str:
        attributes = {
            "VisibilityTimeout": str(rules.visibility_seconds),
            "DelaySeconds": str(rules.delay_seconds),
            "MessageRetentionPeriod": str(rules.retention_seconds),
            **({"FifoQueue": "true"} if rules.fifo else {}),
            **more,
        }
        name = self.name() + (".fifo" if rules.fifo else "")
        made = self.ask("sqs", "AmazonSQS.CreateQueue", {"QueueName": name, "Attributes": attributes})
        return str(made["QueueUrl"])

    def set_time(self, now: float) -> None:
        """SQS goes by this time from now on."""
        self._control.request("POST", "/clock", str(now))
        self._control.getresponse().read()

    @contextmanager
    def table(self) -> Iterator[str]:
        """A new table, gone afterwards."""
        name = self.name()
        self.ask("dynamodb", "DynamoDB_20120810.CreateTable", {"TableName": name, **_SCHEMA})
        try:
            yield name
        finally:
            self.ask("dynamodb", "DynamoDB_20120810.DeleteTable", {"TableName": name})

    @contextmanager
    def store(self, clock: Clock) -> Iterator[DynamoStore]:
        """A store on a new table. Whoever opens it closes it."""
        with self.table() as name:
            yield DynamoStore(self.dynamodb(clock), name)


class ServedClock(ManualClock):
    """A manual clock that the emulator goes by too."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__()
        self._emulator = emulator
        emulator.set_time(self.now())

    def advance(self, seconds: float) -> None:
        """Move on, here and there."""
        super().advance(seconds)
        self._emulator.set_time(self.now())


@contextmanager
def running() -> Iterator[Emulator]:
    """A server that ends with the context, and with this process whatever happens to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.aws.server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the emulator did not start: python -m tests.aws.server"
        yield Emulator(int(json.loads(line)["port"]))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
