"""What is done so far, one JSON object a line, so that an interrupted preparation goes on where it was."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oskar.files import not_written
from oskar.preparation.one_video import Record
from oskar.preparation.plan import Plan, VideoTask

_FOLDER, _FILE = ".prepare", "records.jsonl"


class RecordsFile:
    """``OUT/.prepare/records.jsonl``; a last line that a kill left unfinished is removed when it is opened."""

    def __init__(self, out: Path) -> None:
        self.path = out / _FOLDER / _FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        records = [_record(line) for line in content[:whole].splitlines()]
        self._lines: dict[str, Record] = {record["clip_id"]: record for record in records if record is not None}

    def done(self, tasks: Sequence[VideoTask], plan: Plan) -> dict[str, Record]:
        """The records, by clip id, that still hold: made by this plan from the same files, with all they name there."""
        return {
            task.clip_id: record
            for task in tasks
            if (record := self._lines.get(task.clip_id)) is not None
            and record["key"] == task.key(plan)
            and all((plan.out / name).is_file() for name in _files_of(record))
        }

    def append(self, record: Record) -> None:
        """Write one record; raises StoppedRunError where the disk is full."""
        line = json.dumps(record) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            raise not_written(self.path, len(line), str(error)) from error


def has_records(out: Path) -> bool:
    """True where a preparation has begun."""
    return (out / _FOLDER / _FILE).exists()


def _files_of(record: Record) -> list[str]:
    row = record["row"] or {}
    return [row[column] for column in ("path", "joints_path") if column in row]


def _record(line: bytes) -> Record | None:
    """A line, None where it is no record: that video is done again."""
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and {"clip_id", "key", "row", "problems"} <= value.keys() else None
