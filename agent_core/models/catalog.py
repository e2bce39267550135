"""From a model string to a Model: the strings are parsed once, the adapters imported when first asked for."""

from __future__ import annotations

import importlib
import re
from typing import Any

from agent_core.clock import Clock
from agent_core.errors import ConfigError
from agent_core.models.base import Model
from agent_core.models.spec import ModelSpec
from agent_core.settings import Settings
from agent_core.wire.base import Wire

PROVIDERS: dict[str, str] = {
    "anthropic": "agent_core.models.anthropic:build",
    "bedrock": "agent_core.models.bedrock:build",
    "local": "agent_core.models.local:build",
    "openai": "agent_core.models.openai:build",
}
"""Who makes the models of a provider: a dotted path of a function (spec, settings, wire, clock) -> Model."""

# provider@endpoint:model, where the endpoint has colons of its own (scheme, port) and the model may have some too.
_WITH_ENDPOINT = re.compile(
    r"(?P<provider>[\w-]+)@(?P<endpoint>https?://(?:\[[^\]]+\]|[^/:@\s]+)(?::\d+)?(?:/[^:\s]*)?):(?P<model>\S+)"
)
_PLAIN = re.compile(r"(?P<provider>[\w-]+):(?P<model>\S+)")


def parse(text: str) -> ModelSpec:
    """The model that "provider:model" or "provider@https://host/v1:model" names. Raises ConfigError."""
    found = _WITH_ENDPOINT.fullmatch(text) or _PLAIN.fullmatch(text)
    if found is None or "://" in found["model"]:
        raise ConfigError(
            f"model {text!r}: write provider:model (openai:gpt-5-mini, local:smollm2) "
            "or provider@endpoint:model (openai@http://127.0.0.1:11434/v1:qwen3)"
        )
    fields = found.groupdict()
    if fields["provider"] not in PROVIDERS:
        raise ConfigError(
            f"model {text!r}: there is no provider {fields['provider']!r}; known are {', '.join(sorted(PROVIDERS))}"
        )
    endpoint = (fields.get("endpoint") or "").rstrip("/")
    return ModelSpec(provider=fields["provider"], model=fields["model"], endpoint=endpoint)


def resolve(text: str, settings: Settings) -> ModelSpec:
    """The model that an agent names, as the settings override it (MODEL_NAME, MODEL_ENDPOINT, MODEL_API_KEY).

    MODEL_NAME is a whole model string or, with MODEL_ENDPOINT, that server's own name for a model. MODEL_ENDPOINT
    speaks OpenAI's format unless MODEL_NAME names another provider. Raises ConfigError.
    """
    name, endpoint = settings.model_name, settings.model_endpoint.rstrip("/")
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise ConfigError(f"MODEL_ENDPOINT={endpoint}: a URL is needed, such as http://127.0.0.1:11434/v1")
    if name and (_WITH_ENDPOINT.fullmatch(name) or name.partition(":")[0] in PROVIDERS or not endpoint):
        spec = parse(name)
    elif name:
        spec = ModelSpec(provider="openai", model=name)
    elif endpoint:
        # A server that serves one model takes any name; one that serves several needs MODEL_NAME.
        base = parse(text)
        spec = ModelSpec(provider="openai", model=base.model if base.provider == "openai" else "default")
    else:
        spec = parse(text)
    return ModelSpec(
        provider=spec.provider,
        model=spec.model,
        endpoint=spec.endpoint or ("" if spec.provider == "local" else endpoint),
        api_key=settings.model_api_key,
    )


def make_model(spec: ModelSpec, settings: Settings, wire: Wire, clock: Clock) -> Model:
    """The model itself. Raises ConfigError where something it needs is missing; connects to nothing."""
    path, _, name = PROVIDERS[spec.provider].partition(":")
    build: Any = getattr(importlib.import_module(path), name)
    model: Model = build(spec, settings, wire, clock)
    return model
