"""What a model call costs: own prices first, then the facts in prices/ (one file per provider, read when needed)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from agent_core.costs.match import Rule, matches
from agent_core.costs.rates import Rate, rate_at
from agent_core.errors import ConfigError
from agent_core.messages import Usage

FACTS = Path(__file__).with_name("prices")

FREE = ("local", "scripted")
"""Providers that run in this process: their price is known, and it is nothing."""

_FREE = (msgspec.convert({"input": 0, "output": 0}, Rate),)

Rates = tuple[Rate, ...]

# provider@endpoint:model, where the endpoint has colons of its own (scheme, port) and the model may have some too.
_WITH_ENDPOINT = re.compile(
    r"(?P<provider>[^@:]+)@(?P<endpoint>https?://(?:\[[^\]]+\]|[^/:@\s]+)(?::\d+)?(?:/[^:\s]*)?):(?P<model>\S+)"
)


class Provider(msgspec.Struct, frozen=True):
    """A line of prices/index.json. `endpoint` is a regular expression over its URLs, `match` its other names."""

    id: str
    endpoint: str
    match: Rule | None = None
    fallback: tuple[str, ...] = ()


class _Index(msgspec.Struct, frozen=True):
    providers: tuple[Provider, ...]


class _Model(msgspec.Struct, frozen=True):
    id: str
    match: Rule
    rates: Rates


class _Models(msgspec.Struct, frozen=True):
    models: tuple[_Model, ...]


class Prices:
    """What models cost. `own` is a JSON file, or its content: {"openai:gpt-5-mini": {"input": 0.25, "output": 2}}.

    A name may end in `*`; an exact name wins over a beginning, a longer beginning over a shorter one. docs/costs.md
    explains the fields. Raises ConfigError where own prices can't be used.
    """

    def __init__(self, own: str | Path | Mapping[str, Any] = "") -> None:
        self._own = _read_own(own)
        # Names come from settings, agents and providers' answers: many in a long life, so the memory is bounded.
        self._rates = lru_cache(maxsize=1024)(self._find)

    def cost(self, model_name: str, usage: Usage, at: float, *, batch: bool = False) -> int | None:
        """Nano-dollars for one call of a model ("provider:model", "provider@endpoint:model") at a time.

        A call through a provider's `batch` endpoint costs half: so it is at OpenAI and Anthropic.
        None where the price is not known. `at` is in seconds since 1970.
        """
        rates = self._rates(model_name)
        cost = rate_at(rates, at).cost(usage) if rates else None
        return (cost + 1) // 2 if batch and cost is not None else cost

    def known(self, model_name: str) -> bool:
        """Whether the model has a price."""
        return bool(self._rates(model_name))

    def _find(self, model_name: str) -> Rates:
        own = self._own.get(model_name)
        if own is not None:
            return own
        starts = [key for key in self._own if key.endswith("*") and model_name.startswith(key[:-1])]
        if starts:
            return self._own[max(starts, key=len)]
        provider, endpoint, model = split_name(model_name)
        if endpoint:
            found = _provider_of_endpoint(endpoint)
        elif provider in FREE and model:
            return _FREE
        else:
            found = _provider_of_name(provider)
        return _facts(found, model) if found and model else ()


def split_name(model_name: str) -> tuple[str, str, str]:
    """Provider, endpoint ("" for the provider's own) and model of a name; no model where it can't be told."""
    found = _WITH_ENDPOINT.fullmatch(model_name)
    if found is not None:
        return found["provider"], found["endpoint"], found["model"]
    provider, _, model = model_name.partition(":")
    return (provider, "", model) if "@" not in provider else (provider, "", "")


def _read_own(own: str | Path | Mapping[str, Any]) -> dict[str, Rates]:
    if own == "":
        return {}
    where = "own prices" if isinstance(own, Mapping) else f"SAMPAN_PRICES={own}"
    kind = dict[str, Rate | Rates]
    try:
        if isinstance(own, Mapping):
            given = msgspec.convert(dict(own), kind)
        else:
            given = msgspec.json.decode(Path(own).read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{where} can't be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{where} can't be used: {error}") from error
    rates = {name: (rate,) if isinstance(rate, Rate) else rate for name, rate in given.items()}
    for name, several in rates.items():
        if not several:
            raise ConfigError(f"{where} can't be used: {name} has no price")
    return rates


@lru_cache(maxsize=1)
def _providers() -> tuple[Provider, ...]:
    return msgspec.json.decode((FACTS / "index.json").read_bytes(), type=_Index).providers


@lru_cache(maxsize=8)
def _models(provider_id: str) -> tuple[_Model, ...]:
    return msgspec.json.decode((FACTS / f"{provider_id}.json").read_bytes(), type=_Models).models


def _provider_of_name(name: str) -> Provider | None:
    name = name.lower()
    exact = next((provider for provider in _providers() if provider.id == name), None)
    if exact is not None:
        return exact
    return next(
        (provider for provider in _providers() if provider.match and matches(provider.match, name)), None
    )


def _provider_of_endpoint(endpoint: str) -> Provider | None:
    return next((provider for provider in _providers() if re.match(provider.endpoint, endpoint)), None)


def _facts(provider: Provider, model: str) -> Rates:
    """The rates of the first model that matches, of the provider or of those whose prices it takes over."""
    for provider_id in (provider.id, *provider.fallback):
        for entry in _models(provider_id):
            if matches(entry.match, model):
                return entry.rates
    return ()
