"""A DynamoDB table in memory that answers at once: `python -m benchmarks.table_double PORT`.

It does what a store asks of it (get, put, delete, update, query, transactions) and nothing of what it could refuse:
conditions are not evaluated. It is for measuring a client, never for showing that one is right.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Any

import msgspec

_SET = re.compile(r"([#\w.]+) = (?:if_not_exists\([#\w.]+, (:\w+)\) \+ )?(:\w+)")
_RANGE = re.compile(r"sk (>=|<=|>|<|=) (:\w+)|sk BETWEEN (:\w+) AND (:\w+)|begins_with\(sk, (:\w+)\)")

Item = dict[str, Any]


class Table:
    """Items by partition and sort key, in DynamoDB's own form."""

    def __init__(self) -> None:
        self._partitions: dict[str, dict[str, Item]] = {}

    def do(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call."""
        match operation:
            case "GetItem":
                found = self._partition(request["Key"]).get(request["Key"]["sk"]["S"])
                return {"Item": found} if found else {}
            case "Query":
                found = self._query(request)
                return {"Items": found, "Count": len(found), "ScannedCount": len(found)}
            case "TransactWriteItems":
                for item in request["TransactItems"]:
                    for kind, write in item.items():
                        self._write(kind, write)
            case "PutItem" | "DeleteItem" | "UpdateItem":
                self._write(operation.removesuffix("Item"), request)
                if "ReturnValues" in request:
                    return {"Attributes": self._partition(request["Key"])[request["Key"]["sk"]["S"]]}
            case _:
                raise ValueError(f"{operation} is not among what a store asks")
        return {}

    def _partition(self, key: Item) -> dict[str, Item]:
        return self._partitions.setdefault(key["pk"]["S"], {})

    def _write(self, kind: str, write: dict[str, Any]) -> None:
        if kind == "Put":
            self._partition(write["Item"])[write["Item"]["sk"]["S"]] = write["Item"]
        elif kind == "Delete":
            self._partition(write["Key"]).pop(write["Key"]["sk"]["S"], None)
        elif kind == "Update":
            item = self._partition(write["Key"]).setdefault(write["Key"]["sk"]["S"], dict(write["Key"]))
            _update(item, write)

    def _query(self, request: dict[str, Any]) -> list[Item]:
        values = {name: value["S"] for name, value in request["ExpressionAttributeValues"].items()}
        partition, _, condition = request["KeyConditionExpression"].partition(" AND ")
        items = self._partitions.get(values[partition.split()[-1]], {})
        keys = sorted(key for key in items if _within(key, condition, values))
        if request.get("ScanIndexForward") is False:
            keys.reverse()
        return [items[key] for key in keys[: request.get("Limit")]]


def _within(key: str, condition: str, values: dict[str, str]) -> bool:
    for operator, bound, least, most, prefix in _RANGE.findall(condition):
        if prefix and not key.startswith(values[prefix]):
            return False
        if least and not values[least] <= key <= values[most]:
            return False
        if operator:
            order = (key > values[bound]) - (key < values[bound])
            if order not in {">=": (0, 1), "<=": (-1, 0), ">": (1,), "<": (-1,), "=": (0,)}[operator]:
                return False
    return True


def _update(item: Item, write: dict[str, Any]) -> None:
    names, values = write.get("ExpressionAttributeNames", {}), write["ExpressionAttributeValues"]
    sets, _, removed = write["UpdateExpression"].partition(" REMOVE ")
    for field, start, value in _SET.findall(sets):
        name, given = names.get(field, field), values[value]
        if start:
            before = item.get(name, values[start])["N"]
            given = {"N": str(float(before) + float(given["N"])).removesuffix(".0")}
        item[name] = given
    for field in removed.split(", ") if removed else ():
        item.pop(names.get(field, field), None)


class Connection(asyncio.Protocol):
    """One client's connection: requests with a length, one after the other."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answers go there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(headers.get(b"content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            # The operation stands in the header as `DynamoDB_20120810.GetItem`; its capitals are in the head alone.
            operation = re.search(rb"DynamoDB_20120810\.(\w+)", head)
            assert operation is not None
            self._answer(operation[1].decode(), rest[:length])

    def _answer(self, operation: str, body: bytes) -> None:
        answer = msgspec.json.encode(self._table.do(operation, msgspec.json.decode(body)))
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: %d\r\n\r\n%b"
            % (len(answer), answer)
        )


async def main(port: int) -> None:
    """Serve on loopback."""
    table = Table()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(table), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
