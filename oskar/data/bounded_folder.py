"""A folder of files that can be had again, kept below a size: the least recently used go first."""

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from oskar.errors import InputError

_UNFINISHED = ".unfinished"
_ABANDONED_SECONDS = 3600.0


class BoundedFolder:
    """Files by name, written whole or not at all; several processes may share the folder.

    A file's modification time is when it was last used. One that another process has mapped stays readable to it
    when it is removed here. ``max_bytes`` None sets no limit; a single file larger than it is kept alone.

    Raises:
        InputError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def find(self, name: str) -> Path | None:
        """The file of that name, marked as used now; None where there is none."""
        path = self._folder / name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def put(self, name: str, data: bytes) -> Path:
        """Write a file, then remove others until the folder is within its size."""
        return self.write(name, lambda file: file.write(data))

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> Path:
        """As ``put``, with what ``fill`` writes into the open file."""
        unfinished = self._folder / f"{name}.{uuid.uuid4().hex}{_UNFINISHED}"
        path = self._folder / name
        try:
            with unfinished.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            unfinished.unlink(missing_ok=True)
        self._shrink(keep=name)
        return path

    def _shrink(self, keep: str) -> None:
        files = [(status, path) for path in self._folder.iterdir() if (status := _status(path)) is not None]
        for status, path in files:
            if path.name.endswith(_UNFINISHED) and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)  # its writer was killed
        files = [(status, path) for status, path in files if not path.name.endswith(_UNFINISHED)]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda pair: (pair[0].st_mtime_ns, pair[1].name)):
            if self._max_bytes is None or total <= self._max_bytes:
                return
            if path.name != keep:
                path.unlink(missing_ok=True)
                total -= status.st_size

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"the cache folder {self._folder} cannot be written ({error.strerror})",
            fix="choose a folder in data.cache_dir that can be written, with room for data.cache_dir_gib",
        )


def _status(path: Path) -> os.stat_result | None:
    """None where another process has just removed the file."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
