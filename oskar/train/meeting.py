"""How the processes of a run find each other, at its start and when torchrun has started them anew."""

import hashlib
import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from oskar.errors import StoppedRunError

START_SECONDS = 900.0  # machines start at different times, and read Python from disks of different speed
_ASK_AGAIN_SECONDS = 0.1


def meet(n: int, timeout_seconds: float, *, with_cuda: bool) -> tuple[Store, int, int]:
    """Find the others, wait for all of them, and connect; a store of their own, this process's rank and their number.

    Raises:
        StoppedRunError: they did not meet.
    """
    try:
        store, rank, n = next(rendezvous("env://", timeout=timedelta(seconds=START_SECONDS)))
        own = PrefixStore(agree_on_an_attempt(store, rank, n), store)
        # What processes say goes over the CPU, whatever the gradients go over: saying it never waits for a GPU.
        backend = "cpu:gloo,cuda:nccl" if with_cuda else "gloo"
        timeout = timedelta(seconds=timeout_seconds)
        dist.init_process_group(backend, store=own, rank=rank, world_size=n, timeout=timeout)
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise StoppedRunError(
            f"rank {os.environ['RANK']} of {n}: the processes did not meet at {place} ({error})",
            fix="see that all of them are started, with the same address, and that the port is free and open",
        ) from error
    return own, rank, n


def agree_on_an_attempt(store: Store, rank: int, n: int) -> str:
    """A name that only the processes alive now share; returns when all of them know it.

    After a restart the store may still hold what the processes before said, such as their addresses, and restarts
    are counted by each machine on its own. So every process brings a number of its own; the first lists them,
    anew until each of the others has found its own in the list and said so.

    Raises:
        StoppedRunError: some have not come in time.
    """
    mine = uuid.uuid4().hex[:12]
    store.set(f"here/{rank}", mine)
    until = time.monotonic() + START_SECONDS
    while True:
        here = [_value(store, f"here/{other}") for other in range(n)] if rank == 0 else _value(store, "list").split()
        attempt = hashlib.blake2b(" ".join(here).encode(), digest_size=8).hexdigest()
        if rank == 0:
            store.set("list", " ".join(here))
            missing = [other for other in range(1, n) if _value(store, f"seen/{other}") != attempt]
            if not missing:
                store.set(f"open/{attempt}", "")
                return attempt
        else:
            missing = [other for other in range(n) if not store.check([f"here/{other}"])]
            if len(here) == n and here[rank] == mine:
                store.set(f"seen/{rank}", attempt)
                if store.check([f"open/{attempt}"]):
                    return attempt
        if time.monotonic() > until:
            raise StoppedRunError(
                f"rank {rank} of {n}: ranks {missing or [0]} have not started within {START_SECONDS:.0f} s",
                fix="see their logs, and that every machine runs the same command",
            )
        time.sleep(_ASK_AGAIN_SECONDS)


def _value(store: Store, key: str) -> str:
    """What a store holds, nothing where it does not."""
    text: str = store.get(key).decode() if store.check([key]) else ""
    return text
