"""A store in one DynamoDB table, or in any that speaks its API: partition key `pk`, sort key `sk`, both texts.

Each verb is one call, which the service carries out whole or not at all. Two things a call can't say on the service's
side: what the version of a replaced record was (a Put writes all of an item and reads none of it), and that an Update
of an expired record begins anew. So a call goes out with what this process believes of the record, on condition that
it is so; where it is not, the service's refusal shows the record as it stands, and the call goes out once more. New
records and those read or written lately by this process take one call.
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agent_core.aws.client import AwsError, JsonService
from agent_core.errors import ConditionError, InputError, StoreBusyError, StoreError, TooLargeError
from agent_core.store.apply import Prepared, Row, holds, prepare
from agent_core.store.attributes import (
    ALIVE,
    EXPIRES,
    GONE,
    PARTITION,
    REVISION,
    SORT,
    TTL,
    Item,
    State,
    Terms,
    attributes,
    expiry,
    fields_of,
    item,
    key_of,
    name_of,
    state_of,
)
from agent_core.store.base import (
    MAX_PAGE,
    Check,
    Condition,
    Delete,
    Fields,
    Key,
    Page,
    Put,
    Record,
    Scan,
    Update,
    Version,
    Write,
    check_key,
    check_query,
)

MAX_TRANSACTION = 4 * 1024 * 1024
"""Bytes of one transaction: DynamoDB's limit."""

_TRIES = 8
_REMEMBERED = 10_000
"""Records whose state is kept in mind, as a guess."""

_PASSING = frozenset({"TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"})
"""Reasons of a cancelled transaction that pass."""

Known = dict[Key, State | None]


class DynamoStore:
    """All four verbs over the table, which must be there; `service` signs and sends. Reads are consistent."""

    def __init__(self, service: JsonService, table: str) -> None:
        self._service = service
        self._clock = service.client.clock
        self._table = table
        self._seen: dict[Key, State] = {}

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""
        check_key(key)
        request = {"TableName": self._table, "Key": key_of(key), "ConsistentRead": True}
        found = (await self._call("GetItem", request)).get("Item")
        return self._record(found, self._clock.now()) if found else None

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse)."""
        check_query(partition, prefix, after, limit)
        request = self._query(partition, prefix, reverse)
        if after and not after.startswith(prefix):
            if (after > prefix) is not reverse:  # past all of them
                return Page(())
        elif after:
            request["ExclusiveStartKey"] = key_of(Key(partition, after))
        records: list[Record] = []
        size, now = 0, self._clock.now()
        while True:
            # One more than wanted tells whether there are more.
            request["Limit"] = limit + 1 - len(records)
            body = await self._send("Query", request)
            answer = _decode(body)
            found = answer.get("Items", [])
            records += [record for one in found if (record := self._record(one, now))]
            if len(records) > limit:
                return Page(tuple(records[:limit]), after=records[limit - 1].key.sort)
            last = answer.get("LastEvaluatedKey")
            if not last:
                return Page(tuple(records))
            size += len(body)
            early = size >= MAX_PAGE or len(found) < request["Limit"]
            if records and early:
                return Page(tuple(records), after=records[-1].key.sort)
            request["ExclusiveStartKey"] = last

    async def scan(self, *, after: Key | None = None) -> Scan:
        """Records of all partitions, also expired ones. It reads the whole table, and costs as much."""
        request: dict[str, Any] = {"TableName": self._table, "ConsistentRead": True}
        if after is not None:
            request["ExclusiveStartKey"] = key_of(after)
        answer = await self._call("Scan", request)
        found = []
        for one in answer.get("Items", []):
            key = Key(one[PARTITION]["S"], one[SORT]["S"])
            found.append(Record(key, fields_of(one), state_of(one).revision))
        last = answer.get("LastEvaluatedKey")
        return Scan(tuple(found), Key(last[PARTITION]["S"], last[SORT]["S"]) if last else None)

    async def scrub(self) -> None:
        """What was deleted is gone from the table; backups and point-in-time recovery keep it for their time."""

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none."""
        await self._write(prepare(writes))

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """Add to counters atomically and return all fields as they are then."""
        written = await self._write(
            prepare([Update(key, add=numbers, when=when, expires_at=expires_at)]), returned=True
        )
        return fields_of(written)

    async def close(self) -> None:
        """Finish what was asked for and let go of the connections."""
        await self._service.client.close()

    # Reading

    def _query(self, partition: str, prefix: str, reverse: bool) -> dict[str, Any]:
        values: Item = {":p": {"S": partition}}
        condition = f"{PARTITION} = :p"
        if prefix:
            values[":s"] = {"S": prefix}
            condition += f" AND begins_with({SORT}, :s)"
        return {
            "TableName": self._table,
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            "ScanIndexForward": not reverse,
        }

    def _record(self, found: Item, now: float) -> Record | None:
        key, state = Key(found[PARTITION]["S"], found[SORT]["S"]), state_of(found)
        self._remember(key, state)
        return None if _expired(state, now) else Record(key, fields_of(found), state.revision)

    # Writing

    async def _write(self, writes: Sequence[Prepared], *, returned: bool = False) -> Item:
        """Try until the guesses are right. The item as it is then where that was asked for."""
        if sum(len(body) for _, body, _ in writes) > MAX_TRANSACTION:
            raise TooLargeError(f"a transaction is over {MAX_TRANSACTION} bytes; put large parts into blobs")
        known: Known = {write.key: self._seen.get(write.key) for write, _, _ in writes}
        for attempt in range(_TRIES):
            now = self._clock.now()
            try:
                if len(writes) == 1 and not isinstance(writes[0].write, Check):
                    answer = await self._write_one(writes[0], known, now, returned)
                else:
                    answer = await self._transact(writes, known, now)
            except AwsError as error:
                self._learn(error, writes, known, now)
            else:
                self._settle(writes, known)
                return answer
            if attempt:  # the first guess may be wrong; after that others write at the same time
                await self._service.client.pause(attempt)
        raise StoreBusyError("others write to the same records all the time", retry_after=1.0)

    async def _write_one(self, prepared: Prepared, known: Known, now: float, returned: bool) -> Item:
        operation, request = self._compile(prepared, known, now)
        if returned and operation == "Update":
            request["ReturnValues"] = "ALL_NEW"
        # Not tried again after a lost answer: it may be done, and then its own condition would fail.
        answer = await self._call(f"{operation}Item", request, idempotent=False)
        if not returned:
            return {}
        found: Item = request["Item"] if operation == "Put" else answer["Attributes"]
        # Put in, the parts are still JSON text; read as it would come back.
        return _decode(_encode(found)) if operation == "Put" else found

    async def _transact(self, writes: Sequence[Prepared], known: Known, now: float) -> Item:
        actions = []
        for prepared in writes:
            operation, request = self._compile(prepared, known, now)
            actions.append({operation: request})
        # Under one token DynamoDB does it once, though a lost answer makes us ask again.
        token = self._clock.new_id()
        await self._call("TransactWriteItems", {"TransactItems": actions, "ClientRequestToken": token})
        return {}

    def _compile(self, prepared: Prepared, known: Known, now: float) -> tuple[str, dict[str, Any]]:
        """The action of a write as DynamoDB names it, and its request."""
        write, terms = prepared.write, Terms(now)
        request: dict[str, Any] = {
            "TableName": self._table,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        state = _believed(write, known, now)
        if isinstance(write, Put) or (isinstance(write, Update) and _begins_anew(write, known, now)):
            body, expires_at = attributes(prepared.body), write.expires_at or 0.0
            body |= {name_of(name): {"N": str(number)} for name, number in prepared.add.items()}
            request["Item"] = item(write.key, body, state.revision + 1 if state else 1, expires_at)
            guess: tuple[str, ...] = ()
            # Not beside a Version, which says the same: a value that no expression uses is refused.
            if not any(isinstance(condition, Version) for condition in write.when):
                guess = (terms.expected(state) if state else GONE,)
            request["ConditionExpression"] = terms.all_of(write.when, *guess)
            return "Put", terms.into(request)
        request["Key"] = key_of(write.key)
        if isinstance(write, Update):
            request["UpdateExpression"] = _update(terms, write, prepared)
            request["ConditionExpression"] = terms.all_of(write.when, ALIVE)
            return "Update", terms.into(request)
        if write.when:
            request["ConditionExpression"] = terms.all_of(write.when)
        elif isinstance(write, Check):
            request["ConditionExpression"] = (
                f"attribute_exists({PARTITION}) OR attribute_not_exists({PARTITION})"
            )
        else:
            del request["ReturnValuesOnConditionCheckFailure"]
        return "Delete" if isinstance(write, Delete) else "ConditionCheck", terms.into(request)

    def _learn(self, error: AwsError, writes: Sequence[Prepared], known: Known, now: float) -> None:
        """What a refusal teaches: who stands in the way. Raises ConditionError, or what else it means."""
        if error.code == "ConditionalCheckFailedException":
            reasons: list[dict[str, Any]] = [
                {"Code": "ConditionalCheckFailed", "Item": error.answer.get("Item")}
            ]
        elif error.code == "TransactionCanceledException":
            reasons = list(
                error.answer.get("CancellationReasons") or error.answer.get("cancellationReasons") or ()
            )
        else:
            raise _told(error.code, error.message, self._table) from error
        codes = [str(reason.get("Code") or "None") for reason in reasons]
        wrong = False
        for index, (code, reason, prepared) in enumerate(zip(codes, reasons, writes, strict=False)):
            if code == "ConditionalCheckFailed":
                wrong = True
                self._explain(index, prepared.write, reason.get("Item") or {}, known, now)
        if wrong:
            return
        for code, reason in zip(codes, reasons, strict=True):
            if code != "None" and code not in _PASSING:
                raise _told(code, str(reason.get("Message") or ""), self._table) from error
        if not _PASSING.intersection(codes):
            raise _told(error.code, error.message, self._table) from error

    def _explain(self, index: int, write: Write, found: Item, known: Known, now: float) -> None:
        state = state_of(found) if found else None
        fields = fields_of(found) if state and not _expired(state, now) else None
        row = Row(_encode(fields), state.revision, 0.0) if state and fields is not None else None
        failed = next((condition for condition in write.when if not holds(condition, row)), None)
        if failed is None and write.when and known[write.key] == state:
            failed = write.when[
                0
            ]  # the guess was right, so it is a condition: on a number that only we can compare
        if failed is not None:
            raise ConditionError(f"{failed} does not hold for {write.key}", index=index, current=fields)
        known[write.key] = state

    def _settle(self, writes: Sequence[Prepared], known: Known) -> None:
        """Keep in mind what the records are now."""
        now = self._clock.now()
        for write, _, _ in writes:
            state = _believed(write, known, now)
            if isinstance(write, Put):
                self._remember(write.key, State(state.revision + 1 if state else 1, write.expires_at))
            elif isinstance(write, Update):
                kept = state.expires_at if state else 0.0
                if _begins_anew(write, known, now):
                    self._remember(write.key, State(1, write.expires_at or 0.0))
                elif state:
                    expires_at = kept if write.expires_at is None else write.expires_at
                    self._remember(write.key, State(state.revision + 1, expires_at))
            elif isinstance(write, Delete):
                self._seen.pop(write.key, None)

    def _remember(self, key: Key, state: State) -> None:
        self._seen.pop(key, None)
        self._seen[key] = state
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    async def _call(
        self, operation: str, request: dict[str, Any], *, idempotent: bool = True
    ) -> dict[str, Any]:
        return _decode(await self._send(operation, request, idempotent=idempotent))

    async def _send(self, operation: str, request: dict[str, Any], *, idempotent: bool = True) -> bytes:
        reads = operation in ("GetItem", "Query", "Scan")
        try:
            return await self._service.call(operation, _encode(request), idempotent=idempotent)
        except AwsError as error:
            if reads:
                raise _told(error.code, error.message, self._table) from error
            raise


def _update(terms: Terms, write: Update, prepared: Prepared) -> str:
    terms.values[":one"], terms.values[":zero"] = {"N": "1"}, {"N": "0"}
    sets = [f"{REVISION} = if_not_exists({REVISION}, :zero) + :one"]
    sets += [
        f"{terms.name(name)} = {terms.value(value)}" for name, value in attributes(prepared.body).items()
    ]
    for field, number in prepared.add.items():
        name = terms.name(name_of(field))
        sets.append(f"{name} = if_not_exists({name}, :zero) + {terms.value({'N': str(number)})}")
    if not write.expires_at:
        removed = "" if write.expires_at is None else f" REMOVE {EXPIRES}, {terms.name(TTL)}"
        return f"SET {', '.join(sets)}{removed}"
    sets += [f"{terms.name(name)} = {terms.value(value)}" for name, value in expiry(write.expires_at).items()]
    return f"SET {', '.join(sets)}"


def _believed(write: Write, known: Known, now: float) -> State | None:
    """What the record is taken to be: what its own condition says, or what was seen."""
    for condition in write.when:
        if isinstance(condition, Version):
            return State(condition.number)
    state = known[write.key]
    return None if state is None or _expired(state, now) else state


def _begins_anew(write: Update, known: Known, now: float) -> bool:
    """Whether the record has expired, so that an Update is the first write of a new one."""
    state = known[write.key]
    return state is not None and _expired(state, now)


def _expired(state: State, now: float) -> bool:
    return 0 < state.expires_at <= now


def _told(code: str, message: str, table: str) -> StoreError | InputError:
    """What a refusal means to our callers."""
    words = message.lower()
    if code in ("ValidationException", "ValidationError"):
        if "size" in words and ("exceed" in words or "larger" in words):
            return TooLargeError(f"a record is too large for DynamoDB: {message}")
        if "operand" in words or "incorrect data type" in words or "type mismatch" in words:
            return StoreError(f"a field is not a number, nothing can be added to it: {message}")
    if code == "ResourceNotFoundException":
        return StoreError(f"there is no DynamoDB table {table!r} in this region")
    return StoreError(f"DynamoDB refused: {code}: {message}")


_encode = msgspec.json.encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def _decode(body: bytes) -> dict[str, Any]:
    try:
        return _decode_object(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StoreError(f"DynamoDB's answer can't be read: {error}") from None
