"""ministack, an emulated AWS, with what it lacks for us. Runs in an environment of its own (requirements/emulator.txt).

`python emulator.py PORT SECONDS` serves on loopback alone, so long at the most; nothing that it holds outlives it. It
asks for permissions: a function whose role does not allow a call is refused it.
"""

import os
import signal
import sys


def main() -> None:
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))  # the alarm ends the process
    # It reads all of this when it is imported, and would listen to the whole network otherwise.
    os.environ |= {
        "AUTH": "true",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": sys.argv[1],
        "MINISTACK_HOST": "127.0.0.1",
        "PERSIST_STATE": "0",
        "DOCKER_HOST": "",
    }
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        os.environ.pop(name, None)
    sys.argv[1:] = []
    from ministack.core import iam_actions

    allow_batches(iam_actions)
    from ministack.app import main as serve
    from ministack.services.cloudformation import provisioners

    kinds = next(
        value
        for value in vars(provisioners).values()
        if isinstance(value, dict) and "create" in value.get("AWS::ApiGatewayV2::Stage", ())
    )
    add_deployment(kinds)
    allow_metric_math(kinds["AWS::CloudWatch::Alarm"])
    sys.exit(serve())


def allow_batches(iam_actions) -> None:
    """Let `sqs:SendMessage` allow SendMessageBatch as well, and the like: AWS knows no permission for batches.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
    """
    extract = iam_actions.extract_iam_action

    def extract_single(service, *rest):
        action = extract(service, *rest)
        return action.removesuffix("Batch") if action and service == "sqs" else action

    iam_actions.extract_iam_action = extract_single


def add_deployment(kinds) -> None:
    """Let CloudFormation make an AWS::ApiGatewayV2::Deployment: the emulator's stages serve what there is anyway."""

    def create(logical_id, props, stack_name):
        name = logical_id[-10:].lower()
        return name, {"DeploymentId": name}

    kinds.setdefault(
        "AWS::ApiGatewayV2::Deployment", {"create": create, "delete": lambda physical_id, props: None}
    )


def allow_metric_math(alarm) -> None:
    """Let an alarm look at several metrics: here it looks at the first, and rings for nobody in any case."""

    def simpler(props):
        props = dict(props)
        for query in props.pop("Metrics", ()):
            if "MetricStat" in query:
                metric = query["MetricStat"]["Metric"]
                return {**props, **metric, "Statistic": "Sum", "Period": query["MetricStat"]["Period"]}
        return props

    create, update = alarm["create"], alarm.get("update")
    alarm["create"] = lambda logical_id, props, *rest: create(logical_id, simpler(props), *rest)
    if update:
        alarm["update"] = lambda physical_id, old, new, *rest: update(
            physical_id, simpler(old), simpler(new), *rest
        )


if __name__ == "__main__":
    main()
