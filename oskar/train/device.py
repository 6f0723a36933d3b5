"""The device a run computes on, and how many threads it takes there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from oskar.errors import InputError


def choose_device(setting: str) -> torch.device:
    """The device of ``train.device``; "auto" takes a GPU if there is one."""
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise InputError(f"train.device = {setting!r} is no device", fix="use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"train.device = {setting!r}, but there is no GPU", fix="use train.device=cpu")
    return device


@contextmanager
def cpu_threads(n_workers: int) -> Iterator[int]:
    """Leave a core to every data worker: more threads than free cores wait for each other at every product.

    Never raises the number of threads (``OMP_NUM_THREADS`` counts); the old number is put back.
    """
    before = torch.get_num_threads()
    n_threads = max(1, min(before, (os.cpu_count() or 1) - n_workers))
    torch.set_num_threads(n_threads)
    try:
        yield n_threads
    finally:
        torch.set_num_threads(before)
