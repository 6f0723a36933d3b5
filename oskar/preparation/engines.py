"""Running the tasks: here with PyTorch's loader, or on many machines with Ray Data; one function does the work."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import DataLoader, Dataset

from oskar.errors import InputError, OskarError, StoppedRunError
from oskar.preparation.one_video import Record, VideoPreparer
from oskar.preparation.plan import Plan, VideoTask

Engine = Callable[[Plan, Sequence[VideoTask], int], Iterator[Record]]

_BLOCKS_A_WORKER = 16  # Ray hands results over block by block


class Tasks(Dataset[str]):
    """Record i is made when it is asked for; as JSON, with a stopped run as one too, since workers garble errors."""

    def __init__(self, plan: Plan, tasks: Sequence[VideoTask]) -> None:
        self._plan, self._tasks = plan, tasks

    @cached_property
    def _prepare(self) -> VideoPreparer:
        return VideoPreparer(self._plan)

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> str:
        try:
            return json.dumps(self._prepare(self._tasks[index]))
        except OskarError as error:
            return json.dumps({"stopped": str(error)})


def run_local(plan: Plan, tasks: Sequence[VideoTask], workers: int) -> Iterator[Record]:
    """In this process with one worker, else in ``workers`` of them; in the order of the tasks."""
    loader = DataLoader(
        Tasks(plan, tasks), batch_size=None, num_workers=workers if workers > 1 else 0, collate_fn=_as_it_is
    )
    try:
        yield from map(_parsed, loader)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StoppedRunError(
            f"a worker died ({' '.join(str(error).split())[:200]})",
            fix="go on with --resume, with fewer --workers if memory ran out",
        ) from error


def run_ray(plan: Plan, tasks: Sequence[VideoTask], workers: int) -> Iterator[Record]:
    """On the cluster that ``RAY_ADDRESS`` names, or a local one, with ``workers`` actors; in any order.

    All machines must see the folders under the same paths. Ray's own report of its use is switched off.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--engine ray: Ray is not installed", fix='pip install "oskar[ray]"') from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    is_ours = not ray.is_initialized()
    if is_ours:
        n_cpus = None if "RAY_ADDRESS" in os.environ else workers
        ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = ray.data.range(len(tasks), override_num_blocks=min(len(tasks), workers * _BLOCKS_A_WORKER))
        actor: Any = _RayTask
        made = numbers.map(
            actor, fn_constructor_args=(plan, ray.put(tasks)), compute=ray.data.ActorPoolStrategy(size=workers)
        )
        for row in made.iter_rows():
            yield _parsed(row["record"])
    finally:
        if is_ours:
            ray.shutdown()


class _RayTask:
    def __init__(self, plan: Plan, tasks: Any) -> None:
        import ray

        self._tasks = Tasks(plan, ray.get(tasks))

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {"record": self._tasks[int(row["id"])]}


ENGINES: Mapping[str, Engine] = {"local": run_local, "ray": run_ray}


def _as_it_is(record: Any) -> Any:
    return record


def _parsed(text: str) -> Record:
    record: Record = json.loads(text)
    if "stopped" in record:
        what, _, fix = record["stopped"].partition(". Fix: ")
        raise StoppedRunError(what, fix=fix)
    return record
