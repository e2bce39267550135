"""Where callbacks may go."""

from __future__ import annotations

import pytest

from agent_core.errors import InputError
from agent_core.security.addresses import check_address


@pytest.mark.parametrize(
    "address", ["https://example.com/x?y", "https://8.8.8.8/", "http://localhost:1/", "http://[::1]:80/"]
)
def test_addresses_that_are_taken(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "", "example.com", "https://", "http://example.com/", "ftp://example.com/", "https://a:b@example.com/",
        "https://10.0.0.1/", "https://169.254.169.254/", "https://[fe80::1]/", "https://localhost/",
        "https://[", "https://[::1", "https://example.com:99999/",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(address: str) -> None:
    with pytest.raises(InputError) as caught:
        check_address(address)
    assert caught.value.field == "$.callback"
