"""The deployed service from outside: over HTTP, through the queues, by the clock; deployed anew, and removed.

One test, whose steps go in order over one deployment. Each function has the rights of its role and no other:
the emulator refuses what a role does not allow.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection, connect

from agent_core.aws.services import make_client, sqs
from agent_core.clock import SystemClock
from agent_core.queues.sqs import SqsQueue, rules_of
from agent_core.settings import Settings
from agent_core.wire.httpcore import HttpcoreWire
from tests.e2e.aws.account import Account
from tests.e2e.aws.conftest import ECHO, ROOT, Cloud, until


def the_readme_shows_what_is_printed_and_answered(cloud: Cloud) -> None:
    """But for ports, ids, times and the model that answers."""
    for page in ("README.md", "README.zh-CN.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        ((printed, asked, answer),) = re.findall(
            r"^```console\n\$ make deploy-local\n(.*?)^\$ (curl .*?)^(\{.*?)^```$",
            text,
            re.MULTILINE | re.DOTALL,
        )
        assert without_numbers(printed) == without_numbers(cloud.said)
        assert asked.split() == re.findall(r"curl .*?}'", printed, re.DOTALL)[0].split()
        real = cloud.http.post("/api/v1/agent", json={"message": "What is the capital of France?"}).json()
        assert list(json.loads(answer)) == list(real)
        assert json.loads(answer)["status"] == real["status"] == "succeeded"


def without_numbers(words: str) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", "HOST", re.sub(r"execute-api/[0-9a-f]{8}", "execute-api/ID", words))


def an_answer_comes_back_and_is_in_the_table(cloud: Cloud) -> None:
    """HTTP, function, model, table."""
    answer = cloud.http.post("/api/v1/agent", json={"message": "Hello", "session_id": "greeting"})
    assert answer.status_code == 200, answer.text + cloud.log()[-3000:]
    run = answer.json()
    assert run["reply"]["text"] == "You said: Hello"
    items = cloud.client("dynamodb").scan(TableName=cloud.outputs["TableName"])["Items"]
    assert run["run_id"] in json.dumps(items)
    assert all("pk" in item and "sk" in item for item in items)
    assert any("ttl" in item for item in items)


def the_same_key_is_answered_once(cloud: Cloud) -> None:
    asked = {"message": "Only once", "session_id": "keyed"}
    first, second = [
        cloud.http.post("/api/v1/agent", json=asked, headers={"Idempotency-Key": "k1"}).json()
        for _ in range(2)
    ]
    assert first["run_id"] == second["run_id"]
    assert cloud.model.asked.count("Only once") == 1


def a_conversation_goes_on(cloud: Cloud) -> None:
    for words in ("one", "two"):
        cloud.http.post("/api/v1/agent", json={"message": words, "session_id": "long"}).raise_for_status()
    assert cloud.session("long") == ["one", "You said: one", "two", "You said: two"]


def a_run_for_later_is_worked_on_by_the_worker(cloud: Cloud) -> None:
    """HTTP, queue, worker; then HTTP for what became of it."""
    answer = cloud.http.post(
        "/api/v1/agent", json={"message": "Later", "session_id": "later"}, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    address = answer.headers["location"]
    run = until(lambda: (found := cloud.http.get(address).json())["status"] == "succeeded" and found)
    assert run["reply"]["text"] == "You said: Later"
    until(lambda: "ESM: Lambda shop-local-worker processed 1 SQS messages" in cloud.log())


def a_connection_is_answered_frame_by_frame(cloud: Cloud) -> None:
    """$connect, $default, and the answer pushed back over the connection; `ping` and `resume`, too."""
    with connect(cloud.state["websocket"], open_timeout=30) as socket:
        socket.send(
            json.dumps({"action": "send", "message": "Over the wire", "session_id": "ws", "ref": "a"})
        )
        events = frames(socket, "reply")
        assert events[0]["type"] == "run"
        assert (
            "".join(event["data"]["text"] for event in events if event["type"] == "text")
            == "You said: Over the wire"
        )
        assert events[-1]["data"]["status"] == "succeeded"
        socket.send(json.dumps({"action": "ping"}))
        assert frames(socket, "pong")[-1]["type"] == "pong"
    with connect(cloud.state["websocket"], open_timeout=30) as again:
        run_id, first_text = events[0]["run_id"], next(event for event in events if event["type"] == "text")
        again.send(json.dumps({"action": "resume", "run_id": run_id, "last_event_id": first_text["id"]}))
        assert frames(again, "reply")[-1]["data"]["reply"]["text"] == "You said: Over the wire"
    assert cloud.session("ws") == ["Over the wire", "You said: Over the wire"]


def frames(socket: ClientConnection, last: str) -> list[dict[str, Any]]:
    """What comes, up to the first frame of that type."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != last:
        found.append(json.loads(socket.recv(timeout=40)))
        assert found[-1]["type"] != "error", found[-1]
    return found


def large_parts_lie_in_the_bucket(cloud: Cloud) -> None:
    words = "large " * 20_000
    answer = cloud.http.post("/api/v1/agent", json={"message": words, "session_id": "large"})
    assert answer.status_code == 200, answer.text
    stored = cloud.client("s3").list_objects_v2(Bucket=cloud.outputs["BucketName"])
    assert stored["KeyCount"] >= 1
    assert cloud.http.delete("/api/v1/sessions/large").status_code in (200, 204)


def a_batch_with_poison(cloud: Cloud) -> None:
    """Good records are answered; the others come again, end as dead letters, and are brought back."""
    queue = cloud.client("sqs")
    work, dead = cloud.outputs["WorkQueueUrl"], cloud.outputs["DeadQueueUrl"]
    # What failed comes again after a pause of our own, not after the half hour of the queue; here with fewer tries.
    asked = queue.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
    dead_arn = asked["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": "2"})
    queue.set_queue_attributes(QueueUrl=work, Attributes={"RedrivePolicy": policy})
    cloud.model.broken.add("outage")
    bodies = [
        json.dumps({"message": "First of the batch", "session_id": "b1"}),
        "no JSON at all",
        json.dumps({"message": "In the outage", "session_id": "b2"}),
        json.dumps({"message": "Last of the batch", "session_id": "b3"}),
    ]
    entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
    assert len(queue.send_message_batch(QueueUrl=work, Entries=entries)["Successful"]) == 4

    until(lambda: count(cloud, dead) == 2, seconds=90)
    assert cloud.session("b1") == ["First of the batch", "You said: First of the batch"]
    assert cloud.session("b3") == ["Last of the batch", "You said: Last of the batch"]
    assert cloud.model.asked.count("First of the batch") == cloud.model.asked.count("Last of the batch") == 1

    cloud.model.broken.clear()
    assert asyncio.run(redrive(cloud)) == 2
    said = until(lambda: (found := cloud.session("b2"))[-1:] == ["You said: In the outage"] and found)
    assert said.count("You said: In the outage") == 1


def count(cloud: Cloud, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = cloud.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(map(int, found.values()))


async def redrive(cloud: Cloud) -> int:
    """Bring all dead letters back, as `docs/aws.md` says, by our own adapter."""
    settings = Settings(aws_region="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    url = cloud.outputs["WorkQueueUrl"]
    service = sqs(make_client(settings, SystemClock(), HttpcoreWire()), url)
    queue = SqsQueue(service, url, rules_of(url), dead_url=cloud.outputs["DeadQueueUrl"])
    try:
        return await queue.redrive()
    finally:
        await queue.close()


def the_fifo_queue_keeps_the_order_of_a_group(cloud: Cloud) -> None:
    entries = [
        {
            "Id": str(number),
            "MessageBody": json.dumps({"message": f"number {number}", "session_id": "fifo"}),
            "MessageGroupId": "fifo",
            "MessageDeduplicationId": f"fifo-{number}",
        }
        for number in range(3)
    ]
    sent = cloud.client("sqs").send_message_batch(QueueUrl=cloud.outputs["WorkFifoQueueUrl"], Entries=entries)
    assert len(sent["Successful"]) == 3
    said = until(lambda: len(found := cloud.session("fifo")) == 6 and found)
    assert said[::2] == ["number 0", "number 1", "number 2"]


def the_function_url_leads_to_the_streaming_function(cloud: Cloud) -> None:
    """The emulator has no streaming runtime, so what the handler gives back comes as it is; see test_runtime.py."""
    url = f"{cloud.state['stream']}/api/v1/agent"
    given = httpx.post(url, json={"message": "By its own URL"}, timeout=60).json()
    assert given["statusCode"] == 200
    assert json.loads(given["body"])["reply"]["text"] == "You said: By its own URL"


def pages_come_from_their_own_function(cloud: Cloud) -> None:
    assert cloud.http.get("/console/").headers["location"] == "/console/chat"
    page = cloud.http.get("/console/chat")
    assert page.status_code == 200, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert "Lambda worker spawned for shop-local-dashboard" in cloud.log()


def webhooks_go_to_their_own_function(cloud: Cloud) -> None:
    answer = cloud.http.post("/webhooks/nobody", json={})
    assert answer.status_code in (401, 403, 404), answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert "Lambda worker spawned for shop-local-webhook" in cloud.log()


def what_a_role_does_not_allow_is_refused(cloud: Cloud) -> None:
    """Or the test above would prove nothing."""
    iam, name = cloud.client("iam"), cloud.client("lambda").get_function(FunctionName="shop-local-webhook")
    role = name["Configuration"]["Role"].rsplit("/", 1)[-1]
    document = iam.get_role_policy(RoleName=role, PolicyName="webhook")["PolicyDocument"]
    assert not re.findall(r'"sqs:(Receive|Delete)\w+"', json.dumps(document))


def the_script_for_real_accounts_asks_the_same(cloud: Cloud) -> None:
    """`make e2e-aws`, as far as an emulated account can be asked."""

    class Emulated(Account):
        def client(self, service: str) -> Any:
            return cloud.client(service)

    account = Emulated("us-east-1")
    account.outputs = {
        **cloud.outputs,
        "HttpApiUrl": cloud.state["url"],
        "ServiceEndpointWebsocket": cloud.state["websocket"],
    }
    assert "s cold" in account.an_answer()
    assert account.a_run_for_later() == "worked on by the worker"
    assert account.a_queued_message() == "answered"
    assert "frames" in account.a_connection()


def a_second_deployment_takes_over(cloud: Cloud) -> None:
    """Another agent in the code: the functions have it, and the sessions are still there."""
    (cloud.project / "agents" / "second.py").write_text(ECHO, encoding="utf-8")
    before = cloud.outputs
    cloud.http.post("/api/v1/agent", json={"message": "one", "session_id": "kept"}).raise_for_status()
    cloud.up()
    assert cloud.outputs == before
    answer = cloud.http.post("/api/v1/agent", json={"message": "Who?", "agent": "second"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["agent"] == "second"
    assert cloud.session("kept") == ["one", "You said: one"]


def the_clock_calls_each_minute(cloud: Cloud) -> None:
    """The rule and its target are asserted, and the call is made here: nobody waits for the next minute."""
    (rule,) = cloud.client("events").list_rules()["Rules"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")
    (target,) = cloud.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
    function = cloud.client("lambda").get_function(FunctionName="shop-local-schedule")["Configuration"]
    assert target["Arn"] == function["FunctionArn"]
    allowed = json.loads(cloud.client("lambda").get_policy(FunctionName="shop-local-schedule")["Policy"])
    assert {"Service": "events.amazonaws.com"} in [one["Principal"] for one in allowed["Statement"]]
    tick = {
        "source": "aws.events",
        "detail-type": "Scheduled Event",
        "time": "2026-11-22T19:00:00Z",
        "detail": {},
    }
    done = cloud.client("lambda").invoke(FunctionName="shop-local-schedule", Payload=json.dumps(tick))
    assert "FunctionError" not in done
    assert set(json.loads(done["Payload"].read())) == {"resumed", "pushed", "given_up", "others"}


def no_function_was_refused_anything(cloud: Cloud) -> None:
    """All of the above was within the rights of the functions' roles."""
    assert not re.findall(r"AccessDenied\w*|is not authorized to perform.*", cloud.log())


def removed_nothing_is_left(cloud: Cloud) -> None:
    empty(cloud)
    cloud.serverless("remove")
    assert cloud.client("lambda").list_functions()["Functions"] == []
    assert cloud.client("dynamodb").list_tables()["TableNames"] == []
    assert cloud.client("sqs").list_queues().get("QueueUrls", []) == []
    roles = [role["RoleName"] for role in cloud.client("iam").list_roles()["Roles"]]
    assert not [name for name in roles if "shop-local" in name]


def empty(cloud: Cloud) -> None:
    """CloudFormation removes no bucket with something in it."""
    s3, bucket = cloud.client("s3"), cloud.outputs["BucketName"]
    for found in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=found["Key"])


STEPS = (
    the_readme_shows_what_is_printed_and_answered,
    an_answer_comes_back_and_is_in_the_table,
    the_same_key_is_answered_once,
    a_conversation_goes_on,
    a_run_for_later_is_worked_on_by_the_worker,
    a_connection_is_answered_frame_by_frame,
    large_parts_lie_in_the_bucket,
    a_batch_with_poison,
    the_fifo_queue_keeps_the_order_of_a_group,
    the_function_url_leads_to_the_streaming_function,
    pages_come_from_their_own_function,
    webhooks_go_to_their_own_function,
    what_a_role_does_not_allow_is_refused,
    the_script_for_real_accounts_asks_the_same,
    a_second_deployment_takes_over,
    the_clock_calls_each_minute,
    no_function_was_refused_anything,
    removed_nothing_is_left,
)


@pytest.mark.timeout(400)
def test_the_deployed_service(cloud: Cloud) -> None:
    for step in STEPS:
        step(cloud)
