"""How much memory this process takes and how much a device has left."""

import os
from pathlib import Path

import torch

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def resident_bytes() -> int | None:
    """Memory of this process in RAM now; None where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return None
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def available_bytes(device: torch.device) -> int | None:
    """What a new process could take of a device's memory: the GPU's free memory, or the RAM that is not in use.

    A container's limit counts. None where the system does not say.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    information = Path("/proc/meminfo")
    if not information.is_file():
        return None
    lines = dict(line.split(":", 1) for line in information.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    return free if limit == "max" else min(free, int(limit) - int(_USED.read_text()))
