"""A process of which a snapshot is taken, and several that are restored from it: `python -m tests.handlers.snapshot`.

A restored process has the memory of the first one, its id and its randomness included; a fork has all but those two, so
they are put back. Each prints a line of JSON. With `--without` nothing is renewed, which shows what would go wrong.
"""

from __future__ import annotations

import json
import os
import random
import sys

import snapshot_restore_py as hooks

from handlers import _shared, api

RESTORED = 4


def main() -> None:
    """Start, take the snapshot, restore."""
    before = list(hooks.get_before_snapshot())
    for function, args, kwargs in reversed(before):
        function(*args, **kwargs)
    assert _shared.app.cache_info().currsize == _shared.asgi.cache_info().currsize == 1, "all is made before"
    first = _shared.app()
    first.clock.new_id()  # so that there is randomness in store
    first.clock.random()
    pid, state = os.getpid(), random.getstate()
    sys.stdout.flush()
    for number in range(RESTORED):
        if os.fork() == 0:
            os.getpid = lambda: pid  # type: ignore[assignment]
            random.setstate(state)
            _restored(number, first)
            os._exit(0)
        os.wait()


def _restored(number: int, first: object) -> None:
    os.environ["AWS_SESSION_TOKEN"] = f"token {number}"
    if "--without" not in sys.argv:
        for function, args, kwargs in hooks.get_after_restore():
            function(*args, **kwargs)
    app = _shared.app()
    event = json.load(open("events/api.hello.json"))  # noqa: SIM115 - the process ends at once
    answer = api.handler(event, None)
    told = {
        "noise": [app.clock.new_id()[10:] for _ in range(3)],
        "chance": app.clock.random(),
        "token": app.settings.aws_session_token,
        "same": app is first,
        "run": json.loads(answer["body"])["run_id"],
        "text": json.loads(answer["body"])["reply"]["text"],
        "agents": sorted(name for name in sys.modules if name.endswith(".assistant")),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
