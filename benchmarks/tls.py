"""TLS before a double that speaks plain HTTP: `python -m benchmarks.tls PORT PORT_BEHIND`, as https://localhost:PORT."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import certifi

from benchmarks.machine import ROOT

CERTIFICATE = ROOT / "tests" / "contracts" / "tls" / "localhost.pem"


def bundle(path: Path) -> str:
    """The public authorities and the double's own, in one file: a context loads as many as in production."""
    path.write_text(Path(certifi.where()).read_text() + CERTIFICATE.read_text())
    return str(path)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass  # a measured process is killed once it has answered
    finally:
        writer.close()


async def main(port: int, behind: int) -> None:
    """Serve on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(_pipe(reader, ours), _pipe(theirs, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
