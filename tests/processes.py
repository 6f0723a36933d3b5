"""Real processes that talk over gloo, forked from the test so that nothing is imported anew."""

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from runs import forked, forked_command

PATIENCE_SECONDS = 600  # far more than it takes: machines may be busy


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def started(n: int, start: Callable[[int], int], **environment: str) -> list[int]:
    """Ids of ``n`` children that ``start(rank)`` forks, each in the environment that torchrun would give it."""
    world = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **environment}
    before = dict(os.environ)
    children = []
    for rank in range(n):
        os.environ.update(world | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        children.append(start(rank))
    os.environ.clear()
    os.environ.update(before)
    return children


def log_of(folder: Path, rank: int) -> Path:
    return folder / f"rank{rank}.log"


def together(n: int, folder: Path, work: Callable[[int], object]) -> list[int]:
    """Run ``work(rank)`` in ``n`` processes; their exit codes. What they print is in ``rank<rank>.log``."""
    folder.mkdir(exist_ok=True)
    return codes_of(started(n, lambda rank: forked(lambda: _told(work, rank), log_of(folder, rank))))


def _told(work: Callable[[int], object], rank: int) -> None:
    try:
        work(rank)
    except BaseException:
        traceback.print_exc()
        raise


@contextmanager
def commands(n: int, folder: Path, words: Sequence[object]) -> Iterator[list[int]]:
    """Ids of ``n`` processes that run ``oskar ...`` together; those still there at the end are killed."""
    folder.mkdir(exist_ok=True)
    children = started(n, lambda rank: forked_command(log_of(folder, rank), *words))
    try:
        yield children
    finally:
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):
                if os.waitpid(child, os.WNOHANG) == (0, 0):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)


def codes_of(children: Sequence[int]) -> list[int]:
    """Exit codes; whoever is not done in time is killed, as whoever waits for the lost would never end."""
    until = time.monotonic() + PATIENCE_SECONDS
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (ended := os.waitpid(child, os.WNOHANG)) != (0, 0):
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > until:
            for child in set(children) - set(codes):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[child] for child in children]


def n_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(run: Path, n: int) -> None:
    """Until a run has logged ``n`` steps."""
    until = time.monotonic() + PATIENCE_SECONDS
    while n_lines(run) < n:
        assert time.monotonic() < until, f"{run}: no {n} lines in time"
        time.sleep(0.005)


def printed(folder: Path, n: int) -> list[str]:
    """What each rank printed, on one line."""
    return [" ".join(log_of(folder, rank).read_text().split()) for rank in range(n)]
