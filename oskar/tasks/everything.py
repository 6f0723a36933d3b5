"""All tasks of one run on one data set, one after the other, and one table of what they reached beside their controls.

The evaluations are those of the single commands, under the same names. What has been finished is not done again; a task
whose modality or annotations are not there is listed with the reason.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from rich.console import Console
from rich.table import Table

from oskar.data.people_reader import parse_people
from oskar.errors import AbsentError, InputError, InterruptedRunError, OskarError, StoppedRunError
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks.evaluate import NamedTask, evaluation_name, named_task
from oskar.tasks.low_shot import SHOTS
from oskar.tasks.transfer import load_transfer
from oskar.train.record import write_json_atomic
from oskar.train.sealed import remove_folder

FORMAT_VERSION = 1
ALL = "all"
_HEADS = ("attentive", "linear", "knn")
_RETRIEVAL = ("r1_percent", "r5_percent", "mean_rank")

Status = Literal["finished", "not applicable", "failed"]


@dataclass(frozen=True, slots=True)
class Part:
    """One evaluation: a task, the modality a clip is seen by, and the metrics that the table shows."""

    task: str
    modality: Modality
    metrics: tuple[str, ...]


_RECOGNITION = tuple(f"{head}_top1" for head in _HEADS)
_LOW_SHOT = tuple(f"{head}_{100 * share:g}_percent_top1" for head in ("attentive", "linear") for share in SHOTS)
PARTS = (
    Part("action-recognition", "video", _RECOGNITION),
    Part("action-recognition", "skeleton", _RECOGNITION),
    Part("low-shot", "video", _LOW_SHOT),
    Part("low-shot", "skeleton", _LOW_SHOT),
    Part("action-localization", "video", ("map", "map_activitynet")),
    Part(
        "text-video-retrieval",
        "video",
        tuple(f"{way}_{name}" for way in ("text_to_video", "video_to_text_group_max") for name in _RETRIEVAL),
    ),
    Part("video-question-answering", "video", ("accuracy_percent", "coverage_percent")),
    Part("pose-decoding", "video", ("pck_10_percent", "pck_20_percent", "mean_error_percent")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AllConfig:
    """What all tasks share; other settings stay at each task's defaults."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    steps: int = 200  # of every head; of the low-shot heads on all clips
    seed: int = 0
    split: str = "test"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", self.steps, "use a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartResult:
    """What came of a part: its rows of the table, or why there are none."""

    task: str
    modality: str
    status: Status
    folder: str
    reason: str = ""
    seconds: float = 0.0
    rows: tuple[dict[str, Any], ...] = ()


def evaluate_all(
    run: Path, data: list[str], config: AllConfig, *, out: Path | None = None, parts: Sequence[Part] = PARTS
) -> dict[str, Any]:
    """Run every part that is not finished, frozen, into ``out`` (``RUN/evaluations``); writes and returns the table.

    The table is ``all-DATA-seedN.json`` beside the evaluations' folders, written anew after every part. Unfinished
    folders of parts are removed and begun again.

    Raises:
        InputError: a wrong run or several data; at the end, a part that failed for its input, or none that applies.
        StoppedRunError: at the end, a part that stopped.
    """
    if len(data) != 1:
        raise InputError(f"--task all with {len(data)} data", fix="name one by --data")
    transfer = load_transfer(run)
    folder = out or run / "evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ALL}-{Path(data[0]).name.replace(':', '_')}-seed{config.seed}.json"
    source = data[0] if parse_people(data[0]) is not None else os.path.realpath(data[0])
    _require_same_data(path, source)
    results: list[PartResult] = []
    errors: list[OskarError] = []
    for number, part in enumerate(parts, start=1):
        Console(stderr=True).print(f"{number}/{len(parts)} {part.task}, {part.modality}", highlight=False)
        result, error = _evaluate(run, data, part, config, folder, transfer.sha256)
        results.append(result)
        errors += [] if error is None else [error]
        table = {
            "format_version": FORMAT_VERSION,
            "data": source,
            "recipe": transfer.config.recipe,
            "checkpoint_sha256": transfer.sha256,
            "settings": dataclasses.asdict(config),
            "parts": [dataclasses.asdict(result) for result in results],
        }
        write_json_atomic(path, table)
    print_table(results, path)
    _raise(results, errors, path)
    return table


def _evaluate(
    run: Path, data: list[str], part: Part, config: AllConfig, folder: Path, checkpoint_sha256: str
) -> tuple[PartResult, OskarError | None]:
    task = _configured(part, config)
    out = folder / evaluation_name(part.task, "frozen", part.modality, data, config.seed)
    started = time.monotonic()

    def result(status: Status, reason: str = "", rows: tuple[dict[str, Any], ...] = ()) -> PartResult:
        seconds = round(time.monotonic() - started, 1)
        return PartResult(
            task=part.task,
            modality=part.modality,
            status=status,
            folder=out.name,
            reason=reason,
            seconds=seconds,
            rows=rows,
        )

    try:
        summary = _finished(out, task, checkpoint_sha256)
        if summary is None:
            _leave_nothing(out)
            summary = task.run(run, data, part.modality, out)
    except AbsentError as error:
        _leave_nothing(out)
        return result("not applicable", str(error)), None
    except InterruptedRunError:
        raise
    except OskarError as error:
        return result("failed", str(error)), error
    return result("finished", rows=rows_of(summary, part.metrics)), None


def _leave_nothing(out: Path) -> None:
    """Remove what an unfinished part left: nothing goes on from it."""
    if out.is_dir() and not (out / "summary.json").exists():
        remove_folder(out)


def _configured(part: Part, config: AllConfig) -> NamedTask:
    """The task at its defaults with what all share."""
    task = named_task(part.task, "frozen")
    settings = dataclasses.replace(
        task.settings,
        steps=config.steps,
        seed=config.seed,
        split=config.split,
        precision=config.precision,
        device=config.device,
    )
    return dataclasses.replace(task, settings=settings)


def _finished(out: Path, task: NamedTask, checkpoint_sha256: str) -> dict[str, Any] | None:
    """The summary of a finished part, None where there is none.

    Raises InputError where it is of other weights or other settings.
    """
    path = out / "summary.json"
    if not path.is_file():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text("utf-8"))
        stored = summary["checkpoint_sha256"], dict(summary["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a summary ({error!r})", fix="remove its folder") from error
    wanted = json.loads(json.dumps(dataclasses.asdict(task.settings)))
    if stored != (checkpoint_sha256, wanted):
        changed = [key for key, value in wanted.items() if stored[1].get(key) != value]
        what = ", ".join(changed) or "the weights"
        raise InputError(f"{out} was made with other values of {what}", fix="remove it, or name another --out")
    return summary


def rows_of(summary: Mapping[str, Any], metrics: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """A row for each metric that the summary has: its value, and that of every control that has it too.

    The chance of recognition, a single number, is a control of every top-1.
    """
    controls = summary["controls"]
    rows = []
    for name in metrics:
        if name not in summary["metrics"]:
            continue
        beside = {
            control: values[name] if isinstance(values, dict) else values
            for control, values in controls.items()
            if (name in values if isinstance(values, dict) else name.endswith("_top1"))
        }
        rows.append({"metric": name, "value": summary["metrics"][name], "controls": beside})
    return tuple(rows)


def print_table(results: Sequence[PartResult], path: Path) -> None:
    """The table as text: a line for each metric, or for each part without any."""
    table = Table("task", "modality", "metric", "pretrained", "random weights", "other controls")
    for result in results:
        rows = result.rows or ({"metric": f"{result.status}: {result.reason}", "value": None, "controls": {}},)
        for number, row in enumerate(rows):
            controls = dict(row["controls"])
            random = _number(controls.pop("random_weights", None))
            others = ", ".join(f"{name} {_number(value)}" for name, value in controls.items())
            first = (result.task, result.modality) if number == 0 else ("", "")
            table.add_row(*first, row["metric"], _number(row["value"]), random, others)
    console = Console()
    Console(width=console.width if console.is_terminal else 180).print(table)
    console.print(f"table: {path}", soft_wrap=True, highlight=False)


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else ""


def _require_same_data(path: Path, source: str) -> None:
    if not path.is_file():
        return
    try:
        stored = json.loads(path.read_text("utf-8"))["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a table ({error!r})", fix="remove it") from error
    if stored != source:
        raise InputError(f"{path} is of data {stored}, not {source}", fix="name another --out, or remove it")


def _raise(results: Sequence[PartResult], errors: Sequence[OskarError], path: Path) -> None:
    failed = [f"{r.task} ({r.modality})" for r in results if r.status == "failed"]
    if failed:
        kind = InputError if all(isinstance(error, InputError) for error in errors) else StoppedRunError
        raise kind(f"{len(failed)} of {len(results)} parts failed: {', '.join(failed)}", fix=f"see {path}, run again")
    if all(result.status == "not applicable" for result in results):
        raise InputError(f"no task applies to these data: {results[0].reason}", fix="use data with labels and splits")
