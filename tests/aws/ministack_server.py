"""The other emulated cloud, ministack, with a time that tests set: run by the Python of .make/emulator, not by ours.

It says its port on standard output. Each line of standard input is the time (seconds since 1970) that SQS goes by from
then on, and is answered with an empty line; without one, time passes. It ends with its standard input. Nobody is asked
for permissions here; what roles allow, tests/e2e/aws shows over the same emulator.
"""

import json
import os
import socket
import sys
import threading
import time


class SetTime:
    """Stands in for the module `time` where SQS looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now or time.time()

    def __getattr__(self, name):
        return getattr(time, name)


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what it prints itself is no answer
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It reads all of this when it is imported, and would listen to the whole network otherwise.
    os.environ |= {
        "AUTH": "false",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "ERROR",
        "MINISTACK_HOST": "127.0.0.1",
        "PERSIST_STATE": "0",
        "DOCKER_HOST": "",
    }
    sys.argv[1:] = []
    from ministack.app import main as serve
    from ministack.services import sqs

    sqs.time = clock = SetTime()

    def obey() -> None:
        print(json.dumps({"port": port}), file=out, flush=True)
        for line in sys.stdin:
            clock.now = float(line)
            print(file=out, flush=True)
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()
    serve()


if __name__ == "__main__":
    main()
