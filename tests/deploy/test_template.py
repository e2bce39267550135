"""What `serverless package` makes of serverless.yml: CloudFormation that is sound, safe and complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_core.settings import Settings, variable
from agent_core.store.attributes import PARTITION, SORT, TTL

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = {"api", "webhook", "dashboard", "websocket", "stream", "worker", "schedule"}
STAGES = ("dev", "prod", "local")
Template = dict[str, Any]


def serverless(*arguments: str, folder: Path = ROOT, **environ: str) -> str:
    """Run the command with keys that open nothing."""
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "PYTHON": sys.executable}
    program = ROOT / "node_modules" / ".bin" / "serverless"
    assert program.exists(), (
        "the serverless command is not installed: make test does it (scripts/setup.sh cloud)"
    )
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env={**os.environ, **keys, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def new_project(folder: Path) -> Path:
    """A project of its own: the command keeps what it makes in `.serverless`, where another would find it."""
    made = [sys.executable, "-m", "agent_core.cli", "new", str(folder)]
    subprocess.run(made, cwd=folder.parent, check=True, capture_output=True, timeout=60)
    (folder / ".make").mkdir()
    (folder / ".make" / "package").symlink_to(ROOT / ".make" / "package")  # the wheels, fetched beforehand
    return folder


@pytest.fixture(scope="module", params=STAGES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged service of one stage, with a model, a callback secret and somebody to tell of alarms."""
    made = tmp_path_factory.mktemp(request.param)
    serverless(
        *("package", "--stage", request.param, "--package", str(made)),
        folder=new_project(tmp_path_factory.mktemp("project") / "sampan"),
        MODEL_NAME="openai:gpt-5-mini",
        MODEL_API_KEY="sk-of-the-shell",
        SAMPAN_CALLBACK_SECRET="whsec_c2VjcmV0",
        ALARM_EMAIL="ops@example.com",
    )
    return made


@pytest.fixture
def stage(folder: Path) -> str:
    return folder.name.rstrip("0123456789")


@pytest.fixture
def template(folder: Path) -> Template:
    text = (folder / "cloudformation-template-update-stack.json").read_text(encoding="utf-8")
    found: Template = json.loads(text)
    return found


def of_kind(template: Template, kind: str) -> dict[str, Template]:
    return {
        name: resource["Properties"]
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def functions(template: Template) -> dict[str, Template]:
    found = of_kind(template, "AWS::Lambda::Function")
    return {name.removesuffix("LambdaFunction").lower(): properties for name, properties in found.items()}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_cfn_lint_finds_nothing(folder: Path) -> None:
    lint(folder)


def lint(folder: Path) -> None:
    """W3005: the command itself says DependsOn where a reference says it already."""
    program = str(Path(sys.executable).parent / "cfn-lint")
    templates = [str(folder / f"cloudformation-template-{kind}-stack.json") for kind in ("create", "update")]
    done = subprocess.run(
        [program, "-i", "W3005", "--", *templates], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout


def test_the_streaming_route_of_the_docs_is_sound(tmp_path: Path) -> None:
    """The YAML of docs/aws.md, put where it says, in a project of its own."""
    page = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
    (route,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    project = new_project(tmp_path / "shop")
    file = project / "deploy" / "aws" / "functions.yml"
    before, url, after = file.read_text(encoding="utf-8").partition("  url:\n")
    file.write_text(before + route + url + after, encoding="utf-8")
    serverless("package", "--package", str(tmp_path / "made"), folder=project)
    lint(tmp_path / "made")
    made = json.loads((tmp_path / "made" / "cloudformation-template-update-stack.json").read_text())
    (method,) = of_kind(made, "AWS::ApiGateway::Method").values()
    assert method["Integration"]["ResponseTransferMode"] == "STREAM"
    assert method["Integration"]["Uri"]["Fn::Join"][1][-1] == "/response-streaming-invocations"


def test_every_handler_is_a_function_and_the_other_way_round(template: Template) -> None:
    found = functions(template)
    assert set(found) == FUNCTIONS
    assert {properties["Handler"] for properties in found.values()} == {
        f"handlers.{name}.handler" for name in FUNCTIONS
    }


def test_all_run_from_one_package_on_one_runtime(template: Template, stage: str) -> None:
    found = functions(template).values()
    assert len({json.dumps(properties["Code"]) for properties in found}) == 1
    runtimes = {(properties["Runtime"], *properties["Architectures"]) for properties in found}
    assert len(runtimes) == 1
    if stage != "local":
        assert runtimes == {("python3.13", "arm64")}


def test_no_role_has_a_star(template: Template) -> None:
    """No action with a star, no resource that is everything; each function has a role of its own."""
    roles = of_kind(template, "AWS::IAM::Role")
    used = {json.dumps(properties["Role"]) for properties in functions(template).values()}
    assert used == {json.dumps({"Fn::GetAtt": [name, "Arn"]}) for name in roles}
    assert len(roles) == len(FUNCTIONS)
    for name, properties in roles.items():
        for policy in properties["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                assert statement["Effect"] == "Allow"
                actions = listed(statement["Action"])
                assert actions
                assert not [action for action in actions if "*" in action], name
                for resource in listed(statement["Resource"]):
                    assert isinstance(resource, dict), f"{name}: {resource}"
                    assert resource != {"Fn::Sub": "*"}
        assert "ManagedPolicyArns" not in properties


def test_whoever_runs_the_engine_may_call_models(template: Template) -> None:
    """Those that push replies are those that run it."""
    roles = {name: json.dumps(role) for name, role in of_kind(template, "AWS::IAM::Role").items()}
    callers = {name for name, role in roles.items() if "bedrock:InvokeModelWithResponseStream" in role}
    assert callers == {name for name, role in roles.items() if "execute-api:ManageConnections" in role}
    assert "ApiRole" in callers


def test_only_the_worker_takes_from_the_queues(template: Template) -> None:
    takers = {
        name
        for name, properties in of_kind(template, "AWS::IAM::Role").items()
        if "sqs:ReceiveMessage" in json.dumps(properties)
    }
    assert takers == {"WorkerRole"}


def test_each_function_writes_its_own_log_alone(template: Template) -> None:
    for name, properties in of_kind(template, "AWS::IAM::Role").items():
        statements = properties["Policies"][0]["PolicyDocument"]["Statement"]
        (log,) = [one for one in statements if "logs:PutLogEvents" in listed(one["Action"])]
        assert log["Resource"] == {"Fn::GetAtt": [f"{name.removesuffix('Role')}LogGroup", "Arn"]}


def test_logs_do_not_stay_for_ever(template: Template, stage: str) -> None:
    groups = of_kind(template, "AWS::Logs::LogGroup")
    assert len(groups) == len(FUNCTIONS) + 1
    assert {group["RetentionInDays"] for group in groups.values()} == {90 if stage == "prod" else 14}


def test_the_table_is_what_the_store_needs(template: Template, stage: str) -> None:
    ((name, table),) = of_kind(template, "AWS::DynamoDB::Table").items()
    assert table["KeySchema"] == [
        {"AttributeName": PARTITION, "KeyType": "HASH"},
        {"AttributeName": SORT, "KeyType": "RANGE"},
    ]
    assert table["TimeToLiveSpecification"] == {"AttributeName": TTL, "Enabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["SSESpecification"] == {"SSEEnabled": True}
    kept = template["Resources"][name]
    assert (
        kept["DeletionPolicy"] == kept["UpdateReplacePolicy"] == ("Retain" if stage == "prod" else "Delete")
    )


def test_the_bucket_is_private_and_encrypted(template: Template, stage: str) -> None:
    bucket = template["Resources"]["Bucket"]["Properties"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert {rule["Status"] for rule in bucket["LifecycleConfiguration"]["Rules"]} == {"Enabled"}
    (statement,) = template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Effect"] == "Deny"
    assert template["Parameters"]["OnlyTls"]["Default"] == ("false" if stage == "local" else "true")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_a_failed_message_comes_again_and_then_to_the_dead_letters(template: Template) -> None:
    queues = of_kind(template, "AWS::SQS::Queue")
    timeout = functions(template)["worker"]["Timeout"]
    working = {name: queue for name, queue in queues.items() if "RedrivePolicy" in queue}
    assert set(working) == {"WorkQueue", "WorkFifoQueue"}
    assert all(queue["SqsManagedSseEnabled"] for queue in queues.values())
    for queue in working.values():
        assert queue["VisibilityTimeout"] >= 6 * timeout
        dead = queues[queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]]
        assert dead["MessageRetentionPeriod"] == 14 * 86_400
        assert dead.get("FifoQueue", False) == queue.get("FifoQueue", False)
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 15


def test_the_worker_says_which_of_a_batch_failed(template: Template) -> None:
    sources = of_kind(template, "AWS::Lambda::EventSourceMapping").values()
    queues = {source["EventSourceArn"]["Fn::GetAtt"][0] for source in sources}
    assert queues == {"WorkQueue", "WorkFifoQueue"}
    for source in sources:
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert source["ScalingConfig"]["MaximumConcurrency"] >= 2


def test_the_http_api_is_throttled_and_logged(template: Template) -> None:
    stage = template["Resources"]["HttpApiStage"]["Properties"]
    assert stage["DefaultRouteSettings"]["ThrottlingRateLimit"] >= 100
    assert stage["DefaultRouteSettings"]["ThrottlingBurstLimit"] >= 100
    line = json.loads(stage["AccessLogSettings"]["Format"])
    assert {"requestId", "route", "status", "ms"} <= set(line)
    assert not [value for value in line.values() if "header" in value or "authorizer" in value]
    assert "AllowOrigins" in template["Resources"]["HttpApi"]["Properties"]["CorsConfiguration"]
    socket = template["Resources"]["WebsocketsDeploymentStage"]["Properties"]
    assert socket["DefaultRouteSettings"]["ThrottlingRateLimit"] >= 100


def test_routes_lead_to_their_functions(template: Template) -> None:
    kinds = {name: api["ProtocolType"] for name, api in of_kind(template, "AWS::ApiGatewayV2::Api").items()}
    found = {
        (kinds[route["ApiId"]["Ref"]], route["RouteKey"]): route["Target"]["Fn::Join"][1][1]["Ref"]
        for route in of_kind(template, "AWS::ApiGatewayV2::Route").values()
    }
    assert found == {
        ("HTTP", "$default"): "HttpApiIntegrationApi",
        ("HTTP", "ANY /webhooks/{proxy+}"): "HttpApiIntegrationWebhook",
        ("HTTP", "ANY /console"): "HttpApiIntegrationDashboard",
        ("HTTP", "ANY /console/"): "HttpApiIntegrationDashboard",
        ("HTTP", "ANY /console/{proxy+}"): "HttpApiIntegrationDashboard",
        ("WEBSOCKET", "$connect"): "WebsocketWebsocketsIntegration",
        ("WEBSOCKET", "$disconnect"): "WebsocketWebsocketsIntegration",
        ("WEBSOCKET", "$default"): "WebsocketWebsocketsIntegration",
    }
    (rule,) = of_kind(template, "AWS::Events::Rule").values()
    assert rule["ScheduleExpression"] == "rate(1 minute)"


def test_the_stream_streams(template: Template) -> None:
    (url,) = of_kind(template, "AWS::Lambda::Url").values()
    assert url["InvokeMode"] == "RESPONSE_STREAM"
    variables = functions(template)["stream"]["Environment"]["Variables"]
    assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/var/task/streaming"


def test_functions_are_told_only_what_there_is_to_tell(template: Template) -> None:
    known = {variable(field) for field in Settings.__struct_fields__} | {"AWS_LAMBDA_EXEC_WRAPPER"}
    for name, properties in functions(template).items():
        variables = properties["Environment"]["Variables"]
        assert set(variables) <= known, name
        assert variables["SAMPAN_STORE"] == "dynamodb"
        assert variables["SAMPAN_TABLE"] == {"Ref": "Table"}
        assert variables["SAMPAN_QUEUE_URL"] == {"Ref": "WorkQueue"}
        assert variables["MODEL_NAME"] == "openai:gpt-5-mini"
        assert "${WebsocketsApi}" in variables["SAMPAN_WEBSOCKET_URL"]["Fn::Sub"]
        assert "AWS_ENDPOINT_URL" not in variables


def test_in_production_keys_come_by_reference(folder: Path, template: Template, stage: str) -> None:
    key = functions(template)["api"]["Environment"]["Variables"]["MODEL_API_KEY"]
    if stage == "prod":
        assert key == "{{resolve:secretsmanager:sampan-prod:SecretString:MODEL_API_KEY}}"
        assert not [
            path for path in folder.iterdir() if "sk-of-the-shell" in path.read_text(encoding="utf-8")
        ]
    else:
        assert key == "sk-of-the-shell"


def test_people_hear_of_what_goes_wrong(template: Template, stage: str) -> None:
    alarms = of_kind(template, "AWS::CloudWatch::Alarm")
    assert {"FunctionErrorsAlarm", "FunctionThrottlesAlarm", "DeadLettersAlarm", "QueueAgeAlarm"} <= set(
        alarms
    )
    for name, alarm in alarms.items():
        assert alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}], name
        assert len(alarm["AlarmDescription"]) > 20, name
    watched = json.dumps(alarms["FunctionErrorsAlarm"]["Metrics"])
    assert all(f'"{name.capitalize()}LambdaFunction"' in watched for name in FUNCTIONS)
    assert template["Parameters"]["AlarmEmail"]["Default"] == ("ops@example.com" if stage == "prod" else "")
    assert template["Resources"]["AlarmMail"]["Condition"] == "HasAlarmEmail"


def test_the_dashboard_is_json_and_shows_every_function(template: Template) -> None:
    body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(body)["widgets"]
    assert len(widgets) >= 10
    # Up to here a dashboard costs nothing.
    assert sum(len(widget["properties"]["metrics"]) for widget in widgets) <= 50
    assert all(f"${{{name.capitalize()}LambdaFunction}}" in body for name in FUNCTIONS)


def test_snapshots_and_tracing_are_as_the_stage_says(template: Template, stage: str) -> None:
    found = functions(template)
    with_snapshot = {name for name, properties in found.items() if "SnapStart" in properties}
    assert with_snapshot == ({"api", "webhook", "websocket"} if stage == "prod" else set())
    assert len(of_kind(template, "AWS::Lambda::Alias")) == len(with_snapshot)
    assert not [name for name, properties in found.items() if "TracingConfig" in properties]


def test_everything_has_its_tags(template: Template, stage: str) -> None:
    for properties in functions(template).values():
        assert {"Key": "stage", "Value": stage} in properties["Tags"]
        assert {"Key": "service", "Value": "sampan"} in properties["Tags"]
