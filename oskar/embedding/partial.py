"""Rows that are done, on disk as they come: what an interrupted job goes on from."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oskar.errors import InputError
from oskar.train.sealed import not_written, write_text_atomic

_JOB, _DONE, _VECTORS, _FLAGS = "job.json", "done.jsonl", "embeddings.float32", "is_valid.uint8"


def partial_path(path: Path) -> Path:
    """The folder beside a file in which its rows wait until all are there."""
    return path.with_name(path.name + ".partial")


class Partial:
    """Vectors in a plain file that grows, and a line of JSON for each batch that is done.

    A line is written after the vectors it speaks of are on the disk, so what a kill leaves behind the last whole
    line is cut off and made again.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], job: Mapping[str, Any]) -> None:
        """Begin, or go on where ``job`` is what the folder was begun with; ``shape`` is that of one row.

        Raises:
            InputError: the folder was begun by another job.
            StoppedRunError: it cannot be written.
        """
        self.folder, self.shape = folder, shape
        self._is_grid = len(shape) == 2
        self.rows: list[dict[str, Any]] = []
        self.bad: list[dict[str, Any]] = []
        self.n_batches = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / _JOB).is_file():
                self._require_same(json.loads((folder / _JOB).read_text("utf-8")), job)
                self._read_done()
            else:
                for name in (_DONE, _VECTORS, _FLAGS):
                    (folder / name).unlink(missing_ok=True)
                write_text_atomic(folder / _JOB, json.dumps(job, indent=2) + "\n")
            self._cut(_VECTORS, self._row_bytes() * len(self.rows))
            self._cut(_FLAGS, shape[0] * len(self.rows) if self._is_grid else 0)
        except OSError as error:
            raise not_written(folder, 0, str(error)) from error

    def append(
        self, vectors: Tensor, is_valid: Tensor | None, rows: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]
    ) -> None:
        """Add the rows of the next batch, and what of it could not be embedded.

        Raises:
            StoppedRunError: the disk is full; what was there before is intact.
        """
        line = json.dumps({"rows": list(rows), "bad": list(bad)}, ensure_ascii=False) + "\n"
        try:
            if len(rows):
                self._write(_VECTORS, vectors.contiguous().numpy().astype(np.float32, copy=False).tobytes())
                if is_valid is not None:
                    self._write(_FLAGS, is_valid.contiguous().numpy().astype(np.uint8).tobytes())
            self._write(_DONE, line.encode())
        except OSError as error:
            raise not_written(self.folder, vectors.nbytes + len(line), str(error)) from error
        self.rows += rows
        self.bad += bad
        self.n_batches += 1

    def vectors(self) -> Tensor:
        """All rows so far, float32 ``[n, *shape]``, mapped from the disk."""
        return self._mapped(_VECTORS, np.float32, self.shape)

    def is_valid(self) -> Tensor | None:
        """Of a grid, bool ``[n, L]``."""
        return self._mapped(_FLAGS, np.uint8, self.shape[:1]).bool() if self._is_grid else None

    def remove(self) -> None:
        """Once the file is written."""
        shutil.rmtree(self.folder)

    def _mapped(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Tensor:
        full = (len(self.rows), *shape)
        if not self.rows:
            return torch.from_numpy(np.zeros(full, dtype=dtype))
        return torch.from_numpy(np.memmap(self.folder / name, dtype=dtype, mode="c", shape=full))

    def _row_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))

    def _write(self, name: str, data: bytes) -> None:
        with (self.folder / name).open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def _read_done(self) -> None:
        """Whole lines only; a line that a kill cut short is removed."""
        path = self.folder / _DONE
        raw = path.read_bytes() if path.exists() else b""
        whole = raw.rfind(b"\n") + 1
        try:
            for line in raw[:whole].splitlines():
                batch = json.loads(line)
                self.rows += batch["rows"]
                self.bad += batch["bad"]
                self.n_batches += 1
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error!r})", fix=f"delete {self.folder} and start again") from error
        self._cut(_DONE, whole)

    def _cut(self, name: str, n_bytes: int) -> None:
        path = self.folder / name
        if not path.exists() and n_bytes == 0:
            return
        if not path.exists() or path.stat().st_size < n_bytes:
            raise InputError(f"{path} is damaged: it is shorter than {n_bytes} bytes", fix=f"delete {self.folder}")
        os.truncate(path, n_bytes)

    def _require_same(self, begun: object, job: Mapping[str, Any]) -> None:
        begun = begun if isinstance(begun, dict) else {}
        wanted = json.loads(json.dumps(job))
        for key in wanted:
            if begun.get(key) != wanted[key]:
                raise InputError(
                    f"{self.folder} was begun with other {key}: {begun.get(key)!r}, now {wanted[key]!r}",
                    fix="give the same command again, or name another --out, or delete the folder",
                )
