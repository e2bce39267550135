"""Against a real account: `make e2e-aws [REGION=eu-west-1]`. Deploys a stage of its own, asks, and removes it again.

Keys, MODEL_NAME or MODEL_ENDPOINT, and MODEL_API_KEY come from the shell. `make test` asks the emulated cloud alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[3]
STAGE = "e2e"
QUESTION = "Count from one to twenty, in words."


class Account:
    """One deployed stage. Each check raises AssertionError, or says what it saw."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.outputs: dict[str, str] = {}
        self.headers: dict[str, str] = {}

    def serverless(self, *arguments: str) -> str:
        program = ROOT / "node_modules" / ".bin" / "serverless"
        command = [str(program), *arguments, "--stage", STAGE, "--region", self.region]
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout + done.stderr

    def deploy(self) -> None:
        said = self.serverless("deploy", "--verbose").partition("Stack Outputs:")[2]
        self.outputs = dict(re.findall(r"^ +(\w+): (\S+)$", said, re.MULTILINE))
        where = {
            "SAMPAN_STORE": "dynamodb",
            "SAMPAN_TABLE": self.outputs["TableName"],
            "AWS_REGION": self.region,
        }
        command = [sys.executable, "-m", "agent_core.cli", "keys", "create", "--expires", "1d"]
        done = subprocess.run(
            command, env={**os.environ, **where}, capture_output=True, text=True, check=True
        )
        self.headers = {"Authorization": f"Bearer {done.stdout.strip()}"}

    def remove(self) -> None:
        bucket = boto3.resource("s3", region_name=self.region).Bucket(self.outputs["BucketName"])
        bucket.objects.all().delete()
        self.serverless("remove")

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=self.region)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.outputs["HttpApiUrl"], timeout=40, headers=self.headers)

    # What is checked

    def an_answer(self) -> str:
        with self.http() as http:
            cold, warm = [
                http.post("/api/v1/agent", json={"message": "Say yes.", "session_id": "e2e"})
                for _ in range(2)
            ]
        assert cold.status_code == warm.status_code == 200, cold.text
        return f"{cold.elapsed.total_seconds():.2f} s cold, {warm.elapsed.total_seconds():.2f} s warm"

    def a_run_for_later(self) -> str:
        with self.http() as http:
            asked = {"message": "Say no.", "session_id": "later", "mode": "async"}
            address = http.post("/api/v1/agent", json=asked).headers["location"]
            status = until(
                lambda: (found := http.get(address).json()["status"]) in ("succeeded", "failed") and found
            )
        assert status == "succeeded", status
        return "worked on by the worker"

    def a_queued_message(self) -> str:
        body = json.dumps({"message": "Say maybe.", "session_id": "queued"})
        self.client("sqs").send_message(QueueUrl=self.outputs["WorkQueueUrl"], MessageBody=body)
        with self.http() as http:
            until(lambda: len(http.get("/api/v1/sessions/queued").json().get("messages", ())) >= 2)
        return "answered"

    def a_stream(self) -> str:
        url = self.outputs["StreamLambdaFunctionUrl"].rstrip("/")
        times: list[float] = []
        start = time.monotonic()
        asked = {"message": QUESTION, "stream": True}
        with httpx.stream(
            "POST", f"{url}/api/v1/agent", json=asked, headers=self.headers, timeout=60
        ) as answer:
            assert answer.status_code == 200, answer.read()
            times += [time.monotonic() - start for line in answer.iter_lines() if line.startswith("data:")]
        assert len(times) > 3, "fewer than four events: nothing was streamed"
        assert times[-1] - times[0] > 0.05, "all events came at once: the answer was buffered"
        return f"first event after {times[0]:.2f} s, last of {len(times)} after {times[-1]:.2f} s"

    def a_connection(self) -> str:
        with connect(self.outputs["ServiceEndpointWebsocket"], additional_headers=self.headers) as socket:
            socket.send(json.dumps({"action": "send", "message": "Say hello."}))
            kinds = []
            while not kinds or kinds[-1] != "reply":
                kinds.append(json.loads(socket.recv(timeout=40))["type"])
                assert kinds[-1] != "error", kinds
        return f"{len(kinds)} frames"

    def a_refusal(self) -> str:
        with httpx.Client(base_url=self.outputs["HttpApiUrl"], timeout=40) as http:
            refused = http.post("/api/v1/agent", json={"message": "Say yes."})
        assert refused.status_code == 401, refused.text
        return "nobody without a key gets in"

    def the_table(self) -> str:
        table, client = self.outputs["TableName"], self.client("dynamodb")
        expiry = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        assert (expiry["TimeToLiveStatus"], expiry["AttributeName"]) == ("ENABLED", "ttl"), expiry
        backups = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED", backups
        assert client.describe_table(TableName=table)["Table"]["SSEDescription"]["Status"] == "ENABLED"
        return "expires, is backed up and encrypted"

    def the_rights(self) -> str:
        found = self._logged('?AccessDenied ?AccessDeniedException ?"not authorized"')
        assert not found, found[:3]
        return "no function was refused anything"

    def the_clock(self) -> str:
        group = f"/aws/lambda/sampan-{STAGE}-schedule"
        logs = self.client("logs")
        until(lambda: logs.describe_log_streams(logGroupName=group)["logStreams"], seconds=150)
        return "called the schedule"

    def the_starts(self) -> str:
        reports = "\n".join(self._logged("REPORT"))
        starts = sorted(map(float, re.findall(r"Init Duration: ([\d.]+) ms", reports)))
        memory = max(map(int, re.findall(r"Max Memory Used: (\d+) MB", reports)))
        return f"cold starts took {starts[0]:.0f} to {starts[-1]:.0f} ms; at most {memory} MB used"

    def _logged(self, pattern: str) -> list[str]:
        logs, found = self.client("logs"), []
        for group in logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/sampan-{STAGE}-")["logGroups"]:
            events = logs.filter_log_events(logGroupName=group["logGroupName"], filterPattern=pattern)[
                "events"
            ]
            found += [event["message"] for event in events]
        return found


CHECKS = (
    *(
        Account.a_refusal,
        Account.an_answer,
        Account.a_run_for_later,
        Account.a_queued_message,
        Account.a_stream,
    ),
    *(Account.a_connection, Account.the_table, Account.the_clock, Account.the_rights, Account.the_starts),
)


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"it did not come within {seconds:g} s"
        threading.Event().wait(1)
    return found


def check(account: Account) -> int:
    """Ask everything; how much of it did not hold."""
    failed = 0
    for one in CHECKS:
        name = one.__name__.replace("_", " ")
        try:
            print(f"ok      {name}: {one(account)}", flush=True)
        except Exception as error:  # noqa: BLE001 the other checks, and the removal, come all the same
            failed += 1
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--region", default=os.environ.get("AWS_REGION", "us-east-1"))
    parser.add_argument("--keep", action="store_true", help="leave the stage there")
    given = parser.parse_args()
    if not (os.environ.get("MODEL_NAME") or os.environ.get("MODEL_ENDPOINT")):
        parser.error("set MODEL_NAME (and MODEL_API_KEY) or MODEL_ENDPOINT: the functions need a model")
    account = Account(given.region)
    account.deploy()
    try:
        failed = check(account)
    finally:
        if not given.keep:
            account.remove()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
