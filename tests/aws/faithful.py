"""Where moto differs from DynamoDB and the contract of a store can see it: put right in the server's own process."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from moto.core import utils
from moto.dynamodb import comparisons
from moto.dynamodb.exceptions import ItemSizeTooLarge
from moto.dynamodb.models.dynamo_type import DynamoType, LimitedSizeDict
from moto.dynamodb.models.utilities import bytesize
from moto.sqs.models import Message

MAX_ITEM = 400 * 1024

_set: list[float] = []


def set_time(now: float) -> None:
    """SQS goes by this time from now on."""
    _set[:] = [now]


def _now() -> datetime:
    now = datetime.fromtimestamp(_set[0], UTC) if _set else datetime.now(UTC)
    return now.replace(tzinfo=None)


def _compare(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Values of different types are neither equal nor in any order, and nothing equals an attribute that is missing."""

    def expr(self: Any, item: Any) -> bool:
        left, right = self.lhs.get_type(item), self.rhs.get_type(item)
        return left == right is not None and bool(compare(self.lhs.expr(item), self.rhs.expr(item)))

    return expr


class _Sized(LimitedSizeDict):
    """An item of up to 400 KB; what is replaced does not count (moto adds it, and has a limit of its own)."""

    def __setitem__(self, key: str, value: Any) -> None:
        kept = sum(bytesize(name) + old.size() for name, old in self.items() if name != key)
        added = bytesize(key) + (value.size() if isinstance(value, DynamoType) else bytesize(str(value)))
        if kept + added > MAX_ITEM:
            raise ItemSizeTooLarge
        dict.__setitem__(self, key, value)


def _visible(message: Any) -> bool:
    """A message is there again when its time has come, not after it."""
    return bool(utils.unix_time_millis() >= message.visible_at)


def put_right() -> None:
    """Change moto in this process."""
    utils.utcnow = _now
    Message.visible = property(_visible)
    LimitedSizeDict.__setitem__ = _Sized.__setitem__
    for name, compare in {
        "OpEqual": operator.eq,
        "OpLessThan": operator.lt,
        "OpLessThanOrEqual": operator.le,
        "OpGreaterThan": operator.gt,
        "OpGreaterThanOrEqual": operator.ge,
    }.items():
        getattr(comparisons, name).expr = _compare(compare)
