"""Every knob, in one frozen object. The only file that reads the environment.

A field `max_body_bytes` is set by `SAMPAN_MAX_BODY_BYTES`; those of the model have their plain names
(`MODEL_ENDPOINT`, `MODEL_NAME`, `MODEL_API_KEY`, `OPENAI_API_KEY`, `ANTHROPIC_API_KEY`), so that a deployment needs no
code change, and those of AWS the names that its own tools know. docs/settings.md lists all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent_core.errors import ConfigError
from agent_core.messages import DataClass

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]

PLAIN = (
    *("model_endpoint", "model_name", "model_api_key", "openai_api_key", "anthropic_api_key"),
    *("aws_region", "aws_endpoint_url", "aws_endpoint_url_dynamodb", "aws_endpoint_url_s3"),
    "aws_endpoint_url_bedrock_runtime",
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token"),
    *("aws_profile", "aws_shared_credentials_file"),
    *("aws_container_credentials_relative_uri", "aws_container_credentials_full_uri"),
    *("aws_container_authorization_token", "aws_container_authorization_token_file"),
    *("aws_lambda_function_name", "is_local"),
)
CHANNEL_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
LISTS = ("plugins", "origins", "openid_algorithms", "openid_scopes", "openid_acr")
SECRET = (
    *("model_api_key", "openai_api_key", "anthropic_api_key", "callback_secret"),
    *("api_key", "openid_client_secret", "seal_keys", "audit_keys"),
    *("aws_secret_access_key", "aws_session_token", "aws_container_authorization_token"),
)


_SECRET_OPTION = re.compile("secret|token|key|password")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process is told from outside."""

    agents: str = "agents"
    """Folder, or importable package, whose modules define agents."""

    default_agent: str = "assistant"
    """Agent that answers when a request names none."""

    data: str = ".sampan"
    """Folder of the embedded store and blobs."""

    store: str = "sqlite"
    """Store: `sqlite` (in the data folder), `dynamodb` (any DynamoDB API) or `memory` (gone with the process)."""

    table: str = ""
    """DynamoDB table, for `SAMPAN_STORE=dynamodb`."""

    bucket: str = ""
    """S3 bucket of the blobs; unset, they lie in the data folder."""

    queue_url: str = ""
    """URL of the SQS queue that wakes workers."""

    dead_queue_url: str = ""
    """URL of that queue's dead-letter queue."""

    aws_region: str = ""
    """AWS region of table, queue and bucket."""

    aws_endpoint_url: str = ""
    """Base URL of an AWS-compatible service; unset, AWS itself."""

    aws_endpoint_url_dynamodb: str = ""
    """The same for DynamoDB alone."""

    aws_endpoint_url_s3: str = ""
    """The same for S3 alone."""

    aws_endpoint_url_bedrock_runtime: str = ""
    """The same for the models of Amazon Bedrock alone."""

    aws_access_key_id: str = ""
    """Key id to sign AWS calls with; set by AWS Lambda itself."""

    aws_secret_access_key: str = ""
    """Secret of that key id."""

    aws_session_token: str = ""
    """Session token of temporary AWS credentials."""

    aws_profile: str = "default"
    """Profile of the shared credentials file."""

    aws_shared_credentials_file: str = "~/.aws/credentials"
    """File with AWS profiles, used where no key is set."""

    aws_container_credentials_relative_uri: str = ""
    """Path of the container's credentials; set by ECS."""

    aws_container_credentials_full_uri: str = ""
    """URL of the container's credentials; set by EKS, and by Lambda with SnapStart."""

    aws_container_authorization_token: str = ""
    """Authorization for the container's credentials."""

    aws_container_authorization_token_file: str = ""
    """File with that authorization, read anew each time."""

    aws_instance_metadata: bool = False
    """Whether an EC2 instance's metadata service (IMDSv2) is asked for credentials."""

    queue: Literal["", "sqlite", "sqs", "memory"] = ""
    """Queue that wakes workers: `sqlite`, `sqs` or `memory`; unset, `sampan run` takes the store's kind."""

    host: str = "127.0.0.1"
    """Address to listen on."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""

    model_endpoint: str = ""
    """Base URL of an OpenAI-compatible endpoint; overrides every agent's model."""

    model_name: str = ""
    """Model, as `provider:model` or the endpoint's own name; overrides every agent's model."""

    model_api_key: str = ""
    """Key for the model's endpoint."""

    openai_api_key: str = ""
    """Key for OpenAI's own endpoint; never sent to another one."""

    anthropic_api_key: str = ""
    """Key for Anthropic's own endpoint; never sent to another one."""

    model_window: Annotated[int, Meta(ge=0)] = 0
    """Tokens of prompt and reply that the models behind an API take; 0 for what their provider's mostly take."""

    model_first_byte_seconds: Seconds = 60.0
    """How long a model may think before its first byte."""

    model_chunk_seconds: Seconds = 30.0
    """How long a streaming model may pause."""

    model_total_seconds: Seconds = 300.0
    """How long one model call may take in all."""

    model_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    """How often a model call is tried again after a passing fault."""

    local_threads: Positive = 1
    """Threads of the embedded model; more than one hurts when the machine has other work."""

    local_max_tokens: Positive = 256
    """Longest reply of the embedded model, in tokens."""

    wire: Literal["", "asyncio", "httpcore", "aiohttp"] = ""
    """HTTP client for models and cloud stores; unset, `sampan run` takes aiohttp, all else asyncio, quick to load."""

    plugins: tuple[str, ...] = ()
    """Plugins by entry-point name that wrap every agent, first in the list first in line (comma-separated)."""

    plugin_seconds: Seconds = 10.0
    """How long one hook of a plugin may take."""

    tool_seconds: Seconds = 60.0
    """How long one tool call may take unless the tool says otherwise."""

    tool_result_bytes: Positive = 16 * 1024
    """Bytes of a tool's result that the model sees; the rest is kept as a blob."""

    lease_seconds: Seconds = 30.0
    """How long a worker holds a session without renewing its lease."""

    sweep_seconds: Seconds = 60.0
    """How often a server looks for work that was left lying: dead workers' runs, undelivered replies."""

    callback_secret: str = ""
    """Secret that signs callbacks (Standard Webhooks: `whsec_` and base64); without it there are none."""

    hooks: bool = False
    """Whether tenants are told what happens, by the webhooks that `sampan hooks` sets up."""

    local_callbacks: bool = False
    """Whether callbacks may go to this machine itself, by http: for development."""

    channels: dict[str, dict[str, str]] = {}
    """Channels that are on (comma-separated), each `kind` or `name=kind`; its options are `SAMPAN_<NAME>_<OPTION>`."""

    public_url: str = ""
    """Base URL under which others reach this service; unset, what their requests say."""

    websocket_url: str = ""
    """URL of the stage of an API Gateway WebSocket API; set, what its clients are told is pushed there."""

    origins: tuple[str, ...] = ()
    """Sites whose pages may open a WebSocket, besides our own: `https://app.example.com` (comma-separated), or `*`."""

    auth: Literal["", "on", "off", "gateway"] = ""
    """Who must show a key: `on` everybody, `off` nobody, `gateway` who API Gateway's authorizer does not vouch for;
    unset, everybody unless `SAMPAN_HOST` is this machine alone."""

    api_key: str = ""
    """Key that commands send to the server of `--url`."""

    aws_lambda_function_name: str = ""
    """Set by AWS Lambda itself: there everybody must show a key."""

    is_local: bool = False
    """Set by `serverless invoke local`: there nobody is asked for a key."""

    openid_issuer: str = ""
    """OpenID issuer whose tokens are taken besides keys: `https://login.example.com`."""

    openid_audience: str = ""
    """Audience of access tokens for this service; unset, none is taken."""

    openid_algorithms: tuple[str, ...] = ("RS256", "ES256")
    """Signatures that tokens may have (comma-separated)."""

    openid_tenant_claim: str = ""
    """Claim that names the tenant; unset, all are of the tenant `default`."""

    openid_user_claim: str = "sub"
    """Claim that names the user."""

    openid_scope_claim: str = "scope"
    """Claim with the scopes of an access token."""

    openid_client_id: str = ""
    """This service's id at the issuer; set, the console can be logged in to there."""

    openid_client_secret: str = ""
    """Secret of that id, where the issuer gave one."""

    openid_scopes: tuple[str, ...] = ("agents:run", "runs:read", "runs:decide")
    """What who logs in to the console by the issuer may do (comma-separated)."""

    openid_acr: tuple[str, ...] = ()
    """Values of a token's claim `acr` that mean a second factor (comma-separated); it counts for five minutes."""

    seal_keys: str = ""
    """Keys that seal secrets in the store: base64 of 32 bytes each, or `kms:alias/NAME`; newest first."""

    stepup: str = ""
    """`required`: what admins do needs a second factor, whoever does it; unset, it is asked of those who have one."""

    audit_keys: str = ""
    """Keys that sign the audit log, newest first, 32 characters or more each; unset, its hashes are plain."""

    key_rate: str = ""
    """Requests of one key, unless it has a rate of its own: `60/minute`, `5/second`, `100/30` (seconds)."""

    tenant_rate: str = ""
    """Requests of all keys of a tenant together."""

    tenant_concurrency: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Requests of a tenant that may be under way at the same time; 0 for any number."""

    body_seconds: Seconds = 30.0
    """How long a client may pause in the middle of its request."""

    max_body_bytes: Positive = 8 * 1024 * 1024
    """Largest request body."""

    max_batch_bytes: Positive = 1024 * 1024 * 1024
    """Largest batch, as lines of JSON; they are streamed, so `max_body_bytes` does not hold for them."""

    max_header_bytes: Positive = 16 * 1024
    """Largest sum of request headers."""

    prices: str = ""
    """JSON file of own prices, merged over the built-in ones."""

    data_class: DataClass = "internal"
    """Data class of messages that name none."""

    run_days: Seconds = 90.0
    """How many days a run, its journal and its idempotency key are kept; sessions stay until erased."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings from the environment; `overrides` win. Raises ConfigError that names the variable."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in cls.__struct_fields__:
            text = environ.get(variable(field))
            if text is not None and text != "":
                values[field] = text.split(",") if field in LISTS else text
        if "channels" in values:
            values["channels"] = _channels(values["channels"], environ)
        values.update({name: value for name, value in overrides.items() if value is not None})
        for field, value in values.items():
            try:
                msgspec.convert({field: value}, cls, strict=False)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"{variable(field)}={_shown(field, value)} can't be used: {error}"
                ) from None
        return msgspec.convert(values, cls, strict=False)

    def secrets(self) -> tuple[str, ...]:
        """The values that must be seen nowhere: secret settings, and what channels are given as tokens or secrets."""
        own = [getattr(self, field) for field in SECRET]
        for options in self.channels.values():
            own += [value for name, value in options.items() if _SECRET_OPTION.search(name)]
        values = (part for value in own for part in (value.split() if isinstance(value, str) else value))
        return tuple(dict.fromkeys(filter(None, values)))

    def public(self) -> dict[str, Any]:
        """All settings, secrets masked: for people to look at."""
        return {field: _shown(field, getattr(self, field)) for field in self.__struct_fields__}


def _channels(text: str, environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The channels by name, each with its kind and its options as text. Raises ConfigError."""
    channels: dict[str, dict[str, str]] = {}
    own = {variable(field) for field in Settings.__struct_fields__}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, _, kind = entry.partition("=")
        if not CHANNEL_NAME.fullmatch(name) or name in channels:
            raise ConfigError(
                f"SAMPAN_CHANNELS={text} can't be used: {name!r} is given twice or no name; a name is small letters,"
                " digits and -, as in `slack` or `shop=stripe`"
            )
        prefix = f"SAMPAN_{name.upper().replace('-', '_')}_"
        options = {
            key.removeprefix(prefix).lower(): value
            for key, value in environ.items()
            if key.startswith(prefix) and key not in own and value
        }
        channels[name] = {**options, "kind": kind or name}
    return channels


def variable(field: str) -> str:
    """The environment variable of a field."""
    return field.upper() if field in PLAIN else f"SAMPAN_{field.upper()}"


def _shown(field: str, value: Any) -> Any:
    if isinstance(value, dict):
        return ",".join(value)  # names alone: a channel's options hold its secrets
    return "***" if field in SECRET and value else value
