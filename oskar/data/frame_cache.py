"""Decoded frames kept between uses: in memory, and in uncompressed files that are mapped, not read."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oskar.data.bounded_folder import BoundedFolder
from oskar.data.decoding import iter_all, read_frames
from oskar.data.video_file import VideoError

_LAYOUT_VERSION = 1  # part of every key: raise it when the same video would give other pixels


class FrameCache:
    """Whole videos, decoded once and resized to ``short_side``, least recently used out first.

    ``folder`` None keeps them in this process only; otherwise one ``.npy`` file per video is shared
    by all processes and runs, named by a hash of the video's resolved path, size, modification time
    and ``short_side``; ``folder_bytes`` bounds it, None does not. ``memory_bytes`` bounds what this object holds
    on to (mapped files count in full); with 0 and no folder nothing is kept, so nothing is decoded for it.
    Videos of more than ``max_frames`` frames are never kept.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        short_side: int | None,
        memory_bytes: int,
        folder_bytes: int | None = None,
        max_frames: int = 600,
    ) -> None:
        self._folder = None if folder is None else BoundedFolder(folder, folder_bytes)
        self._short_side = short_side
        self._memory_bytes = memory_bytes
        self._max_frames = max_frames
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._held_bytes = 0
        self._too_long: set[str] = set()

    def read(self, path: str | Path, frame_idx: Sequence[int]) -> Tensor:
        """The chosen frames, as ``read_frames`` gives them, from the cache unless the video is too long."""
        frames = self.frames(path)
        if frames is None:
            return read_frames(path, frame_idx, short_side=self._short_side)
        if len(frame_idx) == 0 or min(frame_idx) < 0 or max(frame_idx) >= len(frames):
            raise VideoError(
                f"{path} holds {len(frames)} frames, frame_idx = {list(frame_idx)!r} was asked for",
                fix="ask for frames that are there, counted from 0",
            )
        return frames[torch.as_tensor(frame_idx)]

    def frames(self, path: str | Path) -> Tensor | None:
        """Every frame, uint8 ``[T, 3, H, W]``, not to be written to; None if there are more than ``max_frames``.

        Also None where nothing is kept.
        """
        if self._folder is None and self._memory_bytes == 0:
            return None
        key = self._key(Path(path))
        if key in self._too_long:
            return None
        frames = self._held.get(key)
        if frames is not None:
            self._held.move_to_end(key)
            return frames
        frames = self._load(key)
        if frames is None:
            decoded = list(islice(iter_all(path, short_side=self._short_side), self._max_frames + 1))
            if len(decoded) > self._max_frames:
                self._too_long.add(key)
                return None
            frames = torch.stack(decoded)
            self._store(key, frames)
        self._hold(key, frames)
        return frames

    def _key(self, path: Path) -> str:
        try:
            status = path.stat()
        except OSError as error:
            raise VideoError(f"{path} is not a file ({error.strerror})", fix="check the path") from error
        facts = (_LAYOUT_VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns, self._short_side)
        return hashlib.blake2b(repr(facts).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def _hold(self, key: str, frames: Tensor) -> None:
        if frames.nbytes > self._memory_bytes:
            return
        self._held[key] = frames
        self._held_bytes += frames.nbytes
        while self._held_bytes > self._memory_bytes:
            _, dropped = self._held.popitem(last=False)
            self._held_bytes -= dropped.nbytes

    def _load(self, key: str) -> Tensor | None:
        """The mapped file, or None where there is none or it is not what it should be."""
        path = None if self._folder is None else self._folder.find(f"{key}.npy")
        if path is None:
            return None
        try:
            # Copy on write: a writable mapping, as torch wants it, that never changes the file.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] != 3 or array.size == 0:
            return None
        return torch.from_numpy(array)

    def _store(self, key: str, frames: Tensor) -> None:
        """Readers see a whole file or none, the last writer wins."""
        if self._folder is not None:
            self._folder.write(f"{key}.npy", lambda file: np.save(file, frames.numpy(), allow_pickle=False))
