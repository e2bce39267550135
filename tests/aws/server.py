"""A moto server on a free port of loopback whose time is set by the tests: `python -m tests.aws.server`.

Calls of DynamoDB and SQS go one after the other: moto locks nothing, and the real ones are atomic. POST /clock with the
seconds since 1970 sets the time that SQS goes by; without it, time passes.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.aws.faithful import put_right, set_time

_one_at_a_time = threading.Lock()


class Quiet(WSGIRequestHandler):
    """No line for each request, and connections that stay open."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass


class Timed:
    """The dispatcher of moto, behind the clock and the lock."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/clock":
            set_time(float(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))))
            start_response("200 OK", [("content-length", "0")])
            return [b""]
        if "HTTP_X_AMZ_TARGET" in environ:
            with _one_at_a_time:
                return [b"".join(self._app(environ, start_response))]
        return self._app(environ, start_response)


def main() -> None:
    """Serve until the standard input closes: with whoever started us."""
    put_right()
    server = make_server(
        "127.0.0.1",
        0,
        Timed(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=Quiet,
    )
    print(json.dumps({"port": server.server_port}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
