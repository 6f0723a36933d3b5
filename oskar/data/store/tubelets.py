"""The video tokens of a batch of stored clips, read when they are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oskar.clip import UnreadableClipsError
from oskar.data.store.shards import DamagedRowsError, Shards
from oskar.errors import InputError

_TORCH_TYPES = {"U8": torch.uint8, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class StoredTubelets:
    """Clips ``[B]`` of one store or several.

    ``store_idx``, ``shard_idx`` and ``row_idx`` int64 ``[B]``: the store among ``stores`` (-1 where a clip has no
    stored video), the shard, and the view of a clip in it. ``is_valid`` bool ``[B, N]``.
    """

    stores: tuple[Shards, ...]
    names: tuple[str, ...]
    store_idx: Tensor
    shard_idx: Tensor
    row_idx: Tensor
    is_valid: Tensor

    def __getitem__(self, idx: Tensor) -> "StoredTubelets":
        """The clips at int64 ``[n]``, or those where bool ``[B]`` is True."""
        kept = torch.arange(len(self.names))[idx]
        return StoredTubelets(
            self.stores,
            tuple(self.names[i] for i in kept.tolist()),
            self.store_idx[kept],
            self.shard_idx[kept],
            self.row_idx[kept],
            self.is_valid[kept],
        )

    @property
    def is_stored(self) -> Tensor:
        return self.store_idx >= 0

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        """Values ``[n, P]``: uint8 pixels in the order frame, channel, row, column, or vectors.

        Raises:
            UnreadableClipsError: naming the clips whose shard is missing or damaged.
        """
        clips, tokens = clip_idx.numpy(), token_idx.numpy()
        store, shard = self.store_idx.numpy()[clips], self.shard_idx.numpy()[clips]
        rows = self.row_idx.numpy()[clips]
        values: NDArray[Any] | None = None
        bad: dict[int, str] = {}
        pairs = np.stack([store, shard], axis=1)
        for s, k in np.unique(pairs, axis=0).tolist():
            chosen = np.flatnonzero((store == s) & (shard == k))
            shards = self.stores[s]
            step, place = np.divmod(tokens[chosen], shards.n_places)
            try:
                read = shards.tokens(k, (rows[chosen] * shards.n_places + place) * shards.n_steps + step)
            except DamagedRowsError as error:
                bad |= {clip: str(error) for clip in clips[chosen[error.is_damaged]].tolist()}
                continue
            except InputError as error:
                bad |= {clip: str(error) for clip in clips[chosen].tolist()}
                continue
            if values is None:
                values = np.empty((len(clips), shards.width), read.dtype)
            values[chosen] = read
        if bad:
            raise UnreadableClipsError({clip: (self.names[clip], reason) for clip, reason in bad.items()})
        assert values is not None
        found = torch.from_numpy(values)
        return found.view(torch.bfloat16) if self._type is torch.bfloat16 else found

    @property
    def _type(self) -> torch.dtype:
        return _TORCH_TYPES[self.stores[0].type]


def join_tubelets(parts: Sequence[StoredTubelets | None], sizes: Sequence[int]) -> StoredTubelets | None:
    """Those of several batches one after the other; a batch of ``sizes[i]`` clips without stored video is None."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    n_tokens = given[0].is_valid.shape[1]
    n_stores = 0
    joined: list[StoredTubelets] = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None:
            nowhere = torch.full((size,), -1)
            none = torch.zeros(size, n_tokens, dtype=torch.bool)
            joined.append(StoredTubelets((), ("",) * size, nowhere, nowhere, nowhere, none))
            continue
        moved = torch.where(part.store_idx >= 0, part.store_idx + n_stores, -1)
        joined.append(StoredTubelets(part.stores, part.names, moved, part.shard_idx, part.row_idx, part.is_valid))
        n_stores += len(part.stores)
    return StoredTubelets(
        tuple(store for part in joined for store in part.stores),
        tuple(name for part in joined for name in part.names),
        torch.cat([part.store_idx for part in joined]),
        torch.cat([part.shard_idx for part in joined]),
        torch.cat([part.row_idx for part in joined]),
        torch.cat([part.is_valid for part in joined]),
    )
