"""The processes of a run: who takes part, what they tell each other, and who is to blame when one is lost.

The engine is PyTorch's: ``torchrun`` starts the processes, gloo carries what is said here, and
``oskar.train.replica`` leaves gradients to DistributedDataParallel or FSDP2. A single process is the
same code with nobody to talk to. Every method that says so is collective: all processes call it, in the
same order, whatever their data.
"""

import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from oskar.errors import InputError, OskarError, StoppedRunError

START_SECONDS = 900.0  # machines start at different times, and read Python from disks of different speed
LOST_SECONDS = 5.0  # how long the others may take to say that they have met an error too
_SIGNS_OF_A_LOST_PEER = ("gloo", "NCCL", "Connection", "Broken pipe", "store")

Shared = TypeVar("Shared")
E = TypeVar("E", bound=OskarError)


def n_processes() -> int:
    """How many processes were started together, by the environment that torchrun sets."""
    return _from_environment("WORLD_SIZE", 1)


def is_first_process() -> bool:
    return _from_environment("RANK", 0) == 0


class Processes:
    """This process among those of the run; a context that names itself, where and when, in every error.

    ``rank`` counts from 0 over all machines; ``n`` is the world size.
    """

    def __init__(self, rank: int = 0, n: int = 1, local_rank: int = 0, store: Store | None = None) -> None:
        self.rank, self.n, self.local_rank, self._store = rank, n, local_rank, store
        self.host = socket.gethostname()
        self.phase = "starting"
        self._has_lost = False

    @classmethod
    def join(cls, timeout_seconds: float, *, with_cuda: bool) -> Self:
        """Meet the others that torchrun started; without it, one process alone.

        ``timeout_seconds`` is how long any later collective waits for the slowest process.

        Raises:
            InputError: the environment names a world but not how to find it.
            StoppedRunError: some have not started in time.
        """
        n = n_processes()
        if n == 1:
            return cls()
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise InputError(
                f"WORLD_SIZE = {n}, but {', '.join(missing)} is not in the environment",
                fix="start the processes with torchrun, or unset WORLD_SIZE",
            )
        store, rank, n = _meet(n, timeout_seconds, with_cuda=with_cuda)
        return cls(rank, n, _from_environment("LOCAL_RANK", rank), PrefixStore("oskar", store))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_restart(self) -> bool:
        """Whether torchrun has started the processes anew after losing one."""
        return _from_environment("TORCHELASTIC_RESTART_COUNT", 0) > 0

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.n} on {self.host}"

    def device(self, device: torch.device) -> torch.device:
        """This process's own device of the kind; the first GPU of a machine goes to its first process."""
        if self.n == 1 or device.type != "cuda":
            return device
        if str(device) != "cuda":
            raise InputError(f"train.device = '{device}' for {self.n} processes", fix="use train.device=cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"{self.name}: {torch.cuda.device_count()} GPUs for process {self.local_rank + 1} of this machine",
                fix="start at most one process a GPU: torchrun --nproc-per-node",
            )
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def enter(self, phase: str) -> None:
        """Say what comes next, so that whoever waits for this process can tell where it is."""
        self.phase = phase
        if self._store is not None:
            self._tell("phase", phase)

    def gather(self, value: Shared) -> list[Shared]:
        """Every process's value, by rank; anything that JSON holds. Collective."""
        if self.n == 1:
            return [value]
        data = json.dumps(value).encode()
        sizes = [int(size) for size in self.gather_numbers([len(data)])[:, 0]]
        mine = torch.zeros(max(sizes), dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        texts = [bytes(text[:size].tolist()) for text, size in zip(self._all(mine), sizes, strict=True)]
        return [json.loads(text) for text in texts]

    def first(self, value: Shared) -> Shared:
        """The first process's value. Collective."""
        return self.gather(value)[0]

    def gather_numbers(self, values: Sequence[float]) -> Tensor:
        """Float64 ``[world size, n]``, a row a rank; every process brings the same count. Collective."""
        mine = torch.tensor(list(values), dtype=torch.float64)
        return torch.stack(self._all(mine))

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, to the same bits in all of them. Collective."""
        return list(values) if self.n == 1 else [math.fsum(column) for column in self.gather_numbers(values).T.tolist()]

    def add_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place. Collective."""
        if self.n > 1:
            with self.watching():
                dist.all_reduce(tensor)
        return tensor

    def require_same(self, values: dict[str, Any], fix: str) -> None:
        """Raise InputError on every process unless all brought the same values. Collective."""
        for rank, others in enumerate(self.gather(values)):
            for key, value in values.items():
                if others[key] != value:
                    raise InputError(
                        f"{key} is {value!r} for {self.name}, but {others[key]!r} for rank {rank}", fix=fix
                    )

    def agreed(self, error: E) -> E:
        """An error that every process raises by the same agreement: the first alone tells it."""
        error.is_silent = not self.is_first
        error.is_agreed = True
        return error

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Turn the failure of a collective into an error that names the processes that were lost."""
        try:
            yield
        except RuntimeError as error:
            if self.n == 1 or not any(sign in str(error) for sign in _SIGNS_OF_A_LOST_PEER):
                raise
            raise self._lost(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.n == 1:
            return
        if error is not None:
            self._name_in(error)
        # A broken NCCL group waits for its lost peers when it is destroyed; the end of the process does not.
        if error is None or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            dist.destroy_process_group()

    def _all(self, mine: Tensor) -> list[Tensor]:
        rows = [torch.empty_like(mine) for _ in range(self.n)]
        if self.n == 1:
            return [mine]
        with self.watching():
            dist.all_gather(rows, mine)
        return rows

    def _tell(self, what: str, text: str) -> None:
        assert self._store is not None
        values = {"text": text, "phase": self.phase, "host": self.host, "pid": os.getpid(), "at": time.time()}
        with self.watching():
            self._store.set(f"{what}/{self.rank}", json.dumps(values))

    def _heard(self, what: str, rank: int) -> dict[str, Any] | None:
        key = f"{what}/{rank}"
        if self._store is None or not self._store.check([key]):
            return None
        values: dict[str, Any] = json.loads(self._store.get(key))
        return values

    def _name_in(self, error: BaseException) -> None:
        """Put this process's name and phase into an error of its own, and tell the others of it."""
        if isinstance(error, OskarError) and error.is_agreed:
            return
        where = f"{self.name}, {self.phase}"
        if isinstance(error, OskarError):
            error.args = (f"{where}: {error}",)
        else:
            error.add_note(f"oskar: {where}")
            print(f"oskar: {where}: {error!r}", file=sys.stderr, flush=True)
        if self._has_lost:  # others met the same, and look for the cause
            return
        try:
            self._tell("error", str(error))
        except (OskarError, RuntimeError):  # torchrun, which keeps the store, is gone too
            return

    def _lost(self, error: RuntimeError) -> StoppedRunError:
        """What became of the others, by what they said last: those with an error, else those that say nothing."""
        self._has_lost = True
        try:
            self._tell_lost()
            reasons = self._reasons()
        except RuntimeError as unheard:
            where = "torchrun, or rank 0 where it was started without, which keeps the store of the run"
            reasons = [f"{where}, does not answer ({unheard})"]
        told = "; ".join(reasons) if reasons else f"the connection broke ({error})"
        return StoppedRunError(
            f"lost another process: {told}",
            fix="see its own log; the last checkpoint is whole: go on with --resume, or by torchrun --max-restarts",
        )

    def _tell_lost(self) -> None:
        assert self._store is not None
        self._store.set(f"lost/{self.rank}", "")

    def _reasons(self) -> list[str]:
        assert self._store is not None
        others = [rank for rank in range(self.n) if rank != self.rank]
        until = time.monotonic() + LOST_SECONDS
        while time.monotonic() < until:
            told = [rank for rank in others if self._heard("error", rank) is not None]
            if told:
                break
            if all(self._store.check([f"lost/{rank}"]) for rank in others):
                return []
            time.sleep(0.1)
        errors = [heard for rank in others if (heard := self._heard("error", rank)) is not None]
        if errors:
            return [str(heard["text"]) for heard in errors]
        return [self._silence(rank) for rank in others if not self._store.check([f"lost/{rank}"])]

    def _silence(self, rank: int) -> str:
        heard = self._heard("phase", rank)
        if heard is None:
            return f"rank {rank} of {self.n} does not answer and has never said anything"
        name = f"rank {rank} of {self.n} on {heard['host']} (process {heard['pid']})"
        is_gone = heard["host"] == self.host and not is_running(heard["pid"])
        state = "has died" if is_gone else "does not answer"
        return f"{name} {state}; it was last heard of {time.time() - heard['at']:.0f} s ago in phase: {heard['phase']}"


def _meet(n: int, timeout_seconds: float, *, with_cuda: bool) -> tuple[Store, int, int]:
    """Find the others, wait for all of them, and connect."""
    try:
        store, rank, n = next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))
        # torchrun's store outlives a restart, and with it the addresses of processes that are gone.
        store = PrefixStore(f"attempt/{_from_environment('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        _wait_for_all(store, rank, n)
        # What processes say goes over the CPU, whatever the gradients go over: saying it never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, store=store, rank=rank, world_size=n, timeout=timeout)
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise StoppedRunError(
            f"rank {os.environ['RANK']} of {n}: the processes did not meet at {place} ({error})",
            fix="see that all of them are started, with the same address, and that the port is free and open",
        ) from error
    return store, rank, n


def _wait_for_all(store: Store, rank: int, n: int) -> None:
    """Wait until every process has come this far: the first collective itself waits only for a step's time."""
    keys = [f"oskar/here/{other}" for other in range(n)]
    store.set(keys[rank], "")
    until = time.monotonic() + START_SECONDS
    while missing := [other for other, key in enumerate(keys) if not store.check([key])]:
        if time.monotonic() > until:
            raise StoppedRunError(
                f"rank {rank} of {n}: ranks {missing} have not started within {START_SECONDS:.0f} s",
                fix="see their logs, and that every machine runs the same command",
            )
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process of this machine is there and not the remains of one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # no such file system, or the process has just ended
        return True


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} = {text!r} in the environment is no number", fix=f"unset {name}") from error
