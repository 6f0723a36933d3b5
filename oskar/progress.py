"""The progress bar of every long job: rate, time left, share of time waiting for data."""

from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console


class Progress:
    """A bar over steps on standard error; silent where that is no terminal, except for a line at each tenth."""

    def __init__(self, n_steps: int, first_step: int = 0, unit: str = "steps") -> None:
        self._console = Console(stderr=True)
        self._n_steps, self._step, self._first, self._unit = n_steps, first_step, first_step, unit
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[wait]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(unit, total=n_steps, completed=first_step, rate="", wait="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, wait_share: float | None, n: int = 1) -> None:
        """Go on by ``n``; ``wait_share`` is the share of time spent waiting for data, None where nothing waits."""
        self._step += n
        wait = "" if wait_share is None else f"waiting for data {wait_share:.0%}"
        speed = self._bar.tasks[0].finished_speed or self._bar.tasks[0].speed
        rate = f"{speed:.1f} {self._unit}/s" if speed else ""
        self._bar.update(self._task, advance=n, rate=rate, wait=wait)
        tenth = max(self._n_steps // 10, 1)
        if not self._console.is_terminal and self._step % tenth == 0:
            self._console.print(", ".join(filter(None, (f"{self._step}/{self._n_steps} {self._unit}", wait))))
