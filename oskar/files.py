"""Files that are on disk whole or not at all, and the error where they cannot be written."""

import os
import shutil
from pathlib import Path

from oskar.errors import StoppedRunError

TEMPORARY = ".tmp-"  # what a file is called until it is whole


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file, or leave the one that is there untouched.

    Raises:
        StoppedRunError: the disk is full, or the folder cannot be written.
    """
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """As ``write_text_atomic``, of bytes."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        write_bytes_synced(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, len(data), str(error)) from error


def not_written(path: Path, n_bytes: int, reason: str) -> StoppedRunError:
    """The error for a failed write: names the path, the bytes needed and the bytes free."""
    parent = next((p for p in path.parents if p.exists()), Path("."))
    free = shutil.disk_usage(parent).free
    return StoppedRunError(
        f"{path} could not be written: {reason}; it needs {n_bytes:,} bytes, {parent} has {free:,} free",
        fix="free some space or lift the limit, then go on with --resume: everything saved before is intact",
    )


def write_bytes_synced(path: Path, data: bytes) -> None:
    """Write a file in place and flush it to the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names of a folder to the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renames are flushed with their files
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
