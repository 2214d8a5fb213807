"""What a person sees of long work: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any


class Progress:
    """Progress of one piece of work; use as a context manager.

    Args:
        title: what is being done.
        total: how many steps it has.
        quiet: say nothing (other processes than the first).
        every: plain lines come every so many steps.
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False, every: int = 50):
        self.title, self.total, self.quiet, self.every = title, total, quiet, every
        self._bar: Any = None
        self._task: Any = None
        self._begun = time.monotonic()

    def __enter__(self) -> "Progress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """``done`` steps are done; ``values`` are shown beside."""
        if self.quiet:
            return
        note = "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        if self._bar is not None:
            self._bar.update(self._task, completed=done, **({"note": note} if note else {}))
        elif values is not None and (done % self.every == 0 or done == self.total):
            elapsed = time.monotonic() - self._begun
            print(f"{self.title}: {done}/{self.total}  {note}  {elapsed:.0f} s", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
