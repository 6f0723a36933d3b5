"""Writing the table of a store's clips from its finished shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from oskar.data.store.arrays_file import Column, Kind
from oskar.data.store.index import CLIPS_FILE, StoredFile
from oskar.data.store.shard_writer import FinishedShard, write_file
from oskar.data.store.source import ClipSource
from oskar.data.store.texts import text_columns


def write_table(out: Path, source: ClipSource, shards: Sequence[FinishedShard]) -> tuple[StoredFile, tuple[str, ...]]:
    """Write ``clips.safetensors``: the clips that were read, in order; also gives the names of the splits."""
    shard_of = np.full(len(source), -1, np.int32)
    video, skeleton = np.full(len(source), -1, np.int32), np.full(len(source), -1, np.int32)
    n_files = 0
    for shard in shards:
        if shard.stored is None:
            continue
        clips = np.array(shard.clips, np.int64)
        shard_of[clips] = n_files
        for places, has in ((video, shard.has_video), (skeleton, shard.has_skeleton)):
            is_there = np.array(has, np.bool_)
            places[clips[is_there]] = np.arange(int(is_there.sum()))
        n_files += 1
    is_read = shard_of >= 0
    entries = [entry for entry, kept in zip(source.entries(), is_read.tolist(), strict=True) if kept]
    splits = tuple(sorted({entry.split for entry in entries if entry.split is not None}))
    split_id = [-1 if entry.split is None else splits.index(entry.split) for entry in entries]

    def column(kind: Kind, values: object, numpy_type: type[np.generic]) -> Column:
        return Column(kind, (), [np.asarray(values, numpy_type)])

    ids = text_columns("ids", (entry.clip_id for entry in entries))
    captions = text_columns("captions", (entry.caption or "" for entry in entries))
    columns = {
        "ids_offsets": ids["ids_offsets"],
        "captions_offsets": captions["captions_offsets"],
        "shard": column("I32", shard_of[is_read], np.int32),
        "video": column("I32", video[is_read], np.int32),
        "skeleton": column("I32", skeleton[is_read], np.int32),
        "label_id": column("I32", [entry.label_id for entry in entries], np.int32),
        "split_id": column("I16", split_id, np.int16),
        "is_composed": column("U8", [entry.is_caption_composed for entry in entries], np.uint8),
        "ids_bytes": ids["ids_bytes"],
        "captions_bytes": captions["captions_bytes"],
    }
    return write_file(out, CLIPS_FILE, columns, n_clips=len(entries)), splits
