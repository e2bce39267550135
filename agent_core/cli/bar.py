"""The progress bar of a batch, for a person at a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agent_core.api.batch_schemas import BatchView
from agent_core.cli.progress import Pace, Screen, summary
from agent_core.cli.screen import console, say


class Bar:
    """A bar with rate, time to go and cost so far."""

    def __init__(self) -> None:
        self._pace = Pace()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        self._progress = Progress(*columns, console=console())
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, shown: BatchView, at: float) -> None:
        """See Screen."""
        self._pace.note(shown, at)
        self._update(shown, self._pace.words(shown))

    def end(self, shown: BatchView) -> None:
        """See Screen."""
        self._update(shown, shown.status)
        self._progress.stop()
        say(summary(shown))

    def _update(self, shown: BatchView, words: str) -> None:
        lines = shown.lines
        self._progress.update(
            self._task, total=lines.total, completed=lines.done + lines.skipped, description=words
        )
