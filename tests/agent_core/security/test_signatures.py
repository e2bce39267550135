"""Standard Webhooks: the published vectors and their mutations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_core.errors import ConfigError
from agent_core.security.signatures import standard_headers, standard_valid


def _cases(shared_data: Path) -> list[tuple[str, dict, str]]:
    found = json.loads((shared_data / "webhook_vectors.json").read_text())
    vectors = found if isinstance(found, list) else found["vectors"]
    cases = []
    for vector in vectors:
        if vector["provider"] != "standard-webhooks":
            continue
        cases.append(("as published", vector, vector["expect"]))
        for mutation in vector["mutations"]:
            headers = {**vector["headers"], **mutation.get("headers", {})}
            headers.pop(mutation.get("drop", ""), None)
            changed = {**vector, **mutation, "headers": headers}
            cases.append((mutation["why"], changed, mutation["expect"]))
    return cases


def test_every_vector_and_mutation_as_expected(shared_data: Path) -> None:
    cases = _cases(shared_data)
    assert len(cases) == 9
    for why, vector, expect in cases:
        given = ([vector["secret"]], vector["headers"], vector["body"].encode(), vector["now"])
        if expect == "config-error":
            with pytest.raises(ConfigError):
                standard_valid(*given)
        else:
            assert standard_valid(*given) == (expect == "valid"), why


def test_what_we_sign_is_valid_and_what_was_changed_is_not() -> None:
    secret, other = "whsec_" + "A" * 32, "whsec_" + "B" * 32
    headers = standard_headers(secret, "run_1", 1_700_000_000, b"{}")
    assert standard_valid([other, secret], headers, b"{}", 1_700_000_100)
    assert not standard_valid([secret], headers, b"{ }", 1_700_000_100)
    assert not standard_valid([other], headers, b"{}", 1_700_000_100)
