"""The emulated clouds as tests use them: a moto server and a ministack for the session, and adapters on tables and
queues of their own.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import IO

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
MINISTACK = ROOT / ".make" / "emulator" / "bin" / "python"
PATIENCE = 60.0
"""Seconds for a server to start."""

_SCHEMA = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "AttributeDefinitions": [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
    ],
    "BillingMode": "PAY_PER_REQUEST",
}


class Emulator:
    """A running moto server at 127.0.0.1:`port`."""

    account = "123456789012"

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._names = count()
        self._control = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def client(self, clock: Clock) -> AwsClient:
        """A client with connections of its own."""
        credentials = Chain((Given(Credentials("testing", "testing")),), clock)
        return AwsClient(HttpcoreWire(), clock, credentials, REGION)

    def close(self) -> None:
        """Let go of the connection for what only tests do."""
        self._control.close()

    def name(self) -> str:
        """A name that nothing has yet."""
        return f"name-{next(self._names)}"

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
        self._control.close()  # an emulator closes what was quiet for a while, in the moment it is used again
        self._control.request("POST", "/", json.dumps(request), headers)
        answer = self._control.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        found: dict[str, object] = json.loads(body or b"{}")
        return found

    def put(self, path: str) -> None:
        """A PUT to S3."""
        headers = {"authorization": f"AWS4-HMAC-SHA256 Credential=testing/20250101/{REGION}/s3/aws4_request"}
        self._control.close()
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
            target = f"arn:aws:sqs:{REGION}:{self.account}:{dead_url.rpartition('/')[2]}"
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


class Ministack(Emulator):
    """A running ministack; its time is set through its own input and output."""

    account = "000000000000"

    def __init__(self, port: int, lines_in: IO[str], lines_out: IO[str]) -> None:
        super().__init__(port)
        self._in, self._out = lines_in, lines_out

    def set_time(self, now: float) -> None:
        """SQS goes by this time from now on."""
        print(now, file=self._in, flush=True)
        assert self._out.readline(), "ministack has ended"


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
    """A moto server that ends with the context, and with this process whatever happens to it."""
    with (
        _started([sys.executable, "-m", "tests.aws.server"]) as (port, _, _),
        closing(Emulator(port)) as emulator,
    ):
        yield emulator


@contextmanager
def running_ministack() -> Iterator[Ministack]:
    """A ministack, likewise."""
    assert MINISTACK.exists(), "ministack is not installed here: scripts/setup.sh cloud"
    with _started([str(MINISTACK), str(ROOT / "tests/aws/ministack_server.py")]) as started:
        _await_answer(started[0])
        with closing(Ministack(*started)) as emulator:
            yield emulator


def _await_answer(port: int) -> None:
    end, pause = time.monotonic() + PATIENCE, threading.Event()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < end, "ministack did not start"
            pause.wait(0.05)
        else:
            return


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[int, IO[str], IO[str]]]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Timer(PATIENCE, process.kill)
    late.start()
    try:
        line = process.stdout.readline()
        late.cancel()
        assert line, f"the emulator did not start: {' '.join(command)}"
        yield int(json.loads(line)["port"]), process.stdin, process.stdout
    finally:
        late.cancel()
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        process.stdout.close()
