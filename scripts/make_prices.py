"""Makes agent_core/costs/prices/ from the price list of pydantic/genai-prices: `make_prices.py [list.json]`.

What is left out: how to find the usage in an answer (the model adapters know), names, and prices of audio tokens (Usage
does not count them apart). Prices that are a division's endless fraction in the source are cut to nine decimals.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT.parent / "shared" / "data" / "genai_prices_data_slim.json"
TARGET = ROOT / "agent_core" / "costs" / "prices"
NOTICE = {
    "source": "https://github.com/pydantic/genai-prices at 47df840a; changed in form, not in figures",
    "licence": "MIT",
}
NAMES = {
    "input_mtok": "input",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "output_mtok": "output",
}
NINE = Decimal("0.000000001")


def number(value: Decimal) -> int | float:
    """The price as the shortest JSON number of at most nine decimals."""
    cut = value.quantize(NINE).normalize()
    return int(cut) if cut == cut.to_integral_value() else float(cut)


def rate(prices: dict[str, Any], constraint: dict[str, str]) -> dict[str, Any]:
    """One price in our words."""
    made: dict[str, Any] = {}
    over: dict[int, dict[str, Any]] = {}
    for theirs, ours in NAMES.items():
        price = prices.get(theirs)
        if isinstance(price, dict):
            for tier in price["tiers"]:
                over.setdefault(int(tier["start"]), {})[ours] = number(tier["price"])
            price = price["base"]
        if price is not None:
            made[ours] = number(price)
    if "requests_kcount" in prices:
        made["request"] = number(prices["requests_kcount"] / 1000)
    if over:
        made["over"] = [{"tokens": start, **over[start]} for start in sorted(over)]
    if "start_date" in constraint:
        made["since"] = constraint["start_date"]
    if "start_time" in constraint:
        made["between"] = [constraint["start_time"][:5], constraint["end_time"][:5]]
    return made


def rates(prices: Any) -> list[dict[str, Any]]:
    """All prices of a model; of those whose condition holds the last one counts."""
    if isinstance(prices, dict):
        return [rate(prices, {})]
    return [rate(entry["prices"], entry.get("constraint") or {}) for entry in prices]


def lines(head: dict[str, Any], name: str, entries: list[dict[str, Any]]) -> str:
    """JSON with one entry per line: small, and a change of price is a change of one line."""
    body = ",\n".join(json.dumps(entry, separators=(",", ":"), ensure_ascii=False) for entry in entries)
    return f'{json.dumps(head)[:-1]}, "{name}": [\n{body}\n]}}\n'


def main(source: Path, target: Path = TARGET) -> None:
    """Write the index and one file per provider into `target`."""
    providers = json.loads(source.read_text(), parse_float=Decimal, parse_int=Decimal)
    target.mkdir(exist_ok=True)
    index = []
    for provider in providers:
        entry = {"id": provider["id"], "endpoint": provider["api_pattern"]}
        if "provider_match" in provider:
            entry["match"] = provider["provider_match"]
        if "fallback_model_providers" in provider:
            entry["fallback"] = provider["fallback_model_providers"]
        index.append(entry)
        models = [
            {"id": model["id"], "match": model["match"], "rates": rates(model["prices"])}
            for model in provider["models"]
        ]
        (target / f"{provider['id']}.json").write_text(lines(NOTICE, "models", models))
    (target / "index.json").write_text(lines(NOTICE, "providers", index))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE)
