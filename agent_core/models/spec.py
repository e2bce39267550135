"""Which model is meant: what a model string and the settings say together."""

from __future__ import annotations

import msgspec


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model: provider, the provider's name for it, and where to reach it ("" for the provider's usual endpoint)."""

    provider: str
    model: str
    endpoint: str = ""
    api_key: str = ""

    @property
    def name(self) -> str:
        """What prices and logs know the model by."""
        return f"{self.provider}:{self.model}"

    def __repr__(self) -> str:
        """Without the key."""
        at = f"@{self.endpoint}" if self.endpoint else ""
        return f"ModelSpec({self.provider}{at}:{self.model})"
