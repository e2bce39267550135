"""The client and the services that the settings describe: region, endpoints, credentials, connections of their own."""

from __future__ import annotations

from agent_core.aws.client import AwsClient, JsonService
from agent_core.aws.credentials import credentials_of
from agent_core.clock import Clock
from agent_core.errors import ConfigError
from agent_core.settings import Settings
from agent_core.wire.base import Wire


def make_client(settings: Settings, clock: Clock, wire: Wire) -> AwsClient:
    """A client over a wire that does not retry, which it closes. Raises ConfigError where no region is set."""
    if not settings.aws_region:
        raise ConfigError(
            "AWS_REGION is not set: name the region of the table, queue or bucket, such as eu-west-1"
        )
    return AwsClient(wire, clock, credentials_of(settings, wire, clock), settings.aws_region)


def dynamodb(settings: Settings, client: AwsClient) -> JsonService:
    """DynamoDB, or what speaks its API at the endpoint of the settings."""
    url = settings.aws_endpoint_url_dynamodb or settings.aws_endpoint_url or _own("dynamodb", client.region)
    return JsonService(
        client=client, service="dynamodb", url=f"{url.rstrip('/')}/", target="DynamoDB_20120810"
    )


def sqs(client: AwsClient, queue_url: str) -> JsonService:
    """SQS where the queue is: the queue's own URL says which host speaks its API."""
    scheme, _, rest = queue_url.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("http", "https") or not host:
        raise ConfigError(f"{queue_url!r} is no URL of a queue: it starts with https:// or http://")
    return JsonService(client=client, service="sqs", url=f"{scheme}://{host}/", target="AmazonSQS")


def bedrock_url(settings: Settings) -> str:
    """Where Bedrock answers for its models."""
    own = settings.aws_endpoint_url_bedrock_runtime or settings.aws_endpoint_url
    return own or _own("bedrock-runtime", settings.aws_region)


def bucket_url(settings: Settings, region: str) -> str:
    """Where the bucket is, without a slash at the end: under its own host on AWS, else by path."""
    bucket = settings.bucket
    if endpoint := settings.aws_endpoint_url_s3 or settings.aws_endpoint_url:
        return f"{endpoint.rstrip('/')}/{bucket}"
    if "." in bucket:  # no certificate covers a name with dots
        return f"{_own('s3', region)}/{bucket}"
    return _own(f"{bucket}.s3", region)


def _own(service: str, region: str) -> str:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://{service}.{region}.{suffix}"
