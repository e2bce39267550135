"""What API Gateway does with the connections of a WebSocket API: bring something to one of them.

https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-how-to-call-websocket-api-connections.html
"""

from __future__ import annotations

from urllib.parse import quote

from agent_core.aws.client import AwsClient, AwsError
from agent_core.errors import ConfigError, NotFoundError
from agent_core.wire.base import Request, Timeouts

TIMEOUTS = Timeouts(connect=2.0, first_byte=5.0, between_chunks=5.0, total=10.0)


class ConnectionGoneError(NotFoundError):
    """Nobody is at the other end of the connection any more."""

    slug, title = "connection-gone", "The connection is gone"


class ConnectionsApi:
    """Brings frames to connections by the API at `url`, `https://{api}.execute-api.{region}.amazonaws.com/{stage}`."""

    def __init__(self, client: AwsClient, url: str) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigError(f"SAMPAN_WEBSOCKET_URL={url} is no URL: it starts with https://")
        self._client = client
        self._url = url.rstrip("/")

    async def post(self, connection_id: str, frame: bytes) -> None:
        """Send one frame; a lost answer has it sent again. Raises ConnectionGoneError, StoreError."""
        request = Request(
            method="POST",
            url=f"{self._url}/@connections/{quote(connection_id, safe='')}",
            headers={"content-type": "application/json"},
            body=frame,
            timeouts=TIMEOUTS,
        )
        try:
            await self._client.send(request, "execute-api", idempotent=True)
        except AwsError as error:
            if error.http_status == 410:
                raise ConnectionGoneError(f"nobody is at connection {connection_id}") from None
            raise

    async def close(self) -> None:
        """Let go of the HTTP connections."""
        await self._client.close()
