"""llama.cpp in this process: one model, one thread that works on it, one job after another.

xllamacpp (https://github.com/xorbitsai/xllamacpp) runs llama.cpp's server inside the process. Its three traps are
dealt with here: it always listens for HTTP, so it gets a socket file that is gone before anyone could call; it must
have ended before the interpreter does; and it can be stopped only between batches of a prompt, so batches are small.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from agent_core.errors import ConfigError, ModelError, ModelRefusedError

# Tokens worked on between two chances to stop: about half a second of one core; larger ones are hardly faster.
_BATCH = 64
_PATIENCE = 20.0


class _Job:
    """One request on its way through the worker's thread; its events go back to the loop that asked."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.stopped = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()

    def put(self, event: dict[str, Any] | BaseException | None) -> None:
        """Called in the worker's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.stopped = True  # the loop has ended: nobody waits any more

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Called in the loop; leaving early stops the job."""
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.stopped = True


class Llama:
    """The model of one file. Loaded by the first job; `acquire` and `release` count who uses it."""

    def __init__(self, path: str, threads: int, context: int) -> None:
        self.path = path
        self.threads = threads
        self.context = context
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._users = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """One more model uses it."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One model less; the last one puts out the light. Blocks until the thread has ended."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        self.stop()

    def stop(self) -> None:
        """End the thread and free the model. A job under way is broken off at its next batch or token."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._jobs.put(None)
            # A daemon thread that is stuck may be left behind; one that is not ends within a batch.
            thread.join(_PATIENCE)
            atexit.unregister(self.stop)

    async def run(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The chunks of a streamed chat completion. Raises ConfigError where the model can't be loaded."""
        self._start()
        job = _Job(
            {**body, "stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        )
        self._jobs.put(job)
        events = job.events()
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._stopping = False
                self._jobs = SimpleQueue()
                self._thread = threading.Thread(
                    target=self._work, args=(self._jobs,), name="sampan-llama", daemon=True
                )
                self._thread.start()
                atexit.register(self.stop)

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        """The thread. The server lives and dies in it."""
        server: Any = None
        while (job := jobs.get()) is not None:
            if job.stopped or self._stopping:
                job.put(None)
                continue
            try:
                server = server or self._load()
                server.handle_chat_completions(job.body, lambda event, job=job: self._event(job, event))
                job.put(None)
            except ModelError as error:
                job.put(error)
            except ConfigError as error:
                job.put(error)
            except (ValueError, RuntimeError) as error:
                job.put(ModelRefusedError(str(error)))
        # Here, not at the interpreter's end: freeing it joins threads of llama.cpp's own.
        del server

    def _event(self, job: _Job, event: dict[str, Any]) -> bool:
        """True breaks the job off."""
        if not (job.stopped or self._stopping):
            job.put(event)
        return job.stopped or self._stopping

    def _load(self) -> Any:
        # Loaded with the first message: the library has 100 MB.
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = self.path
        params.n_ctx = self.context
        params.n_parallel = 1
        params.n_batch = params.n_ubatch = _BATCH
        params.use_jinja = True
        params.verbosity = -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.threads
        params.cache_ram_mib = 0  # by default up to 8 GB of old prompts
        params.n_threads_http = 1
        params.ui = False
        with TemporaryDirectory(prefix="sampan-") as folder:
            params.hostnames = [f"{folder}/llama.sock"]
            try:
                return xllamacpp.Server(params)
            except RuntimeError as error:
                raise ConfigError(f"llama.cpp can't load {self.path}: {error}") from error


_LLAMAS: dict[tuple[int, str, int, int], Llama] = {}


def shared(path: str, threads: int, context: int) -> Llama:
    """The one Llama of this file in this process (a forked child gets its own)."""
    return _LLAMAS.setdefault((os.getpid(), path, threads, context), Llama(path, threads, context))


def require() -> None:
    """Raise ConfigError where xllamacpp is not installed; does not load it."""
    if find_spec("xllamacpp") is None:
        raise ConfigError('the local model needs llama.cpp: pip install "sampan[local]"')
