"""Making a token store: clips read by workers, cut into tokens, written shard by shard, taken up again after a kill."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from oskar.data.store.index import INDEX_FILE, PLAN_FILE, VERSION, StoreIndex, read_index
from oskar.data.store.plan import begin, make_plan
from oskar.data.store.settings import TokenizeConfig
from oskar.data.store.shard_writer import (
    Clips,
    CutClip,
    FinishedShard,
    Shard,
    facts_path,
    finished_shard,
    write_shard,
)
from oskar.data.store.source import ClipSource, open_source
from oskar.data.store.table import write_table
from oskar.data.store.tokenizers import VideoTokenizer, open_tokenizer
from oskar.data.stream import leave_signals_to_parent
from oskar.errors import StoppedRunError
from oskar.files import write_text_atomic
from oskar.progress import Progress


def tokenize(config: TokenizeConfig, data: str, out: Path, *, tokenizer: str = "raw") -> StoreIndex:
    """Write the clips of ``data`` into the token store ``out``, or go on with one that was begun; returns its index.

    Raises:
        InputError: wrong data, settings or folder; a store in ``out`` that was begun otherwise.
        StoppedRunError: too many clips cannot be read, or the disk is full.
    """
    source = open_source(data, config)
    cutter = open_tokenizer(tokenizer, config.tokens, config.store)
    plan = make_plan(config, source, cutter.facts)
    if begin(out, plan):
        return read_index((out / INDEX_FILE).read_text("utf-8"), str(out / INDEX_FILE))
    width = int(plan["clips_per_shard"])
    slices = [range(first, min(first + width, len(source))) for first in range(0, len(source), width)]
    done = {i: found for i in range(len(slices)) if (found := finished_shard(out, i)) is not None}
    _write_missing(config, source, cutter, out, slices, done)
    shards = [done[i] for i in range(len(slices))]
    clips, splits = write_table(out, source, shards)
    index = StoreIndex(
        format="oskar-store",
        version=VERSION,
        name=source.name,
        has_prefix=source.has_prefix,
        tokenizer=cutter.facts,
        tokens=config.tokens,
        clip=config.clip,
        views=config.store.views,
        seed=config.store.seed,
        split=config.store.split,
        splits=splits,
        classes=source.classes,
        n_clips=clips.n_clips,
        data_sha256=source.sha256,
        clips=clips,
        shards=tuple(shard.stored for shard in shards if shard.stored is not None),
        bad=tuple(entry for shard in shards for entry in shard.bad),
    )
    write_text_atomic(out / INDEX_FILE, index.to_json())  # last: it makes the folder a store
    for i in range(len(slices)):
        facts_path(out, i).unlink(missing_ok=True)
    (out / PLAN_FILE).unlink(missing_ok=True)
    return index


def _write_missing(
    config: TokenizeConfig,
    source: ClipSource,
    cutter: VideoTokenizer,
    out: Path,
    slices: Sequence[range],
    done: dict[int, FinishedShard],
) -> None:
    """Read and write the slices that are not done yet, into ``done``."""
    missing = [i for i in range(len(slices)) if i not in done]
    numbers = [number for i in missing for number in slices[i]]
    loader = DataLoader(
        Clips(source, config.store.views, config.store.seed),
        batch_size=None,
        sampler=numbers,
        num_workers=config.store.workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),
        prefetch_factor=4 if config.store.workers else None,
    )
    clips: Iterator[CutClip] = iter(loader)
    allowed = int(config.store.max_bad_share * len(source))
    with Progress(len(source), len(source) - len(numbers), unit="clips") as progress:
        for i in missing:
            shard = Shard(cutter, config.tokens.n_people)
            for _ in slices[i]:
                shard.add(next(clips))
                progress.advance(None)
            done[i] = write_shard(out, i, shard)
            bad = [entry for finished in done.values() for entry in finished.bad]
            if len(bad) > allowed:
                listed = "; ".join(f"{name}: {reason}" for name, reason in bad[:5])
                raise StoppedRunError(
                    f"{len(bad)} clips could not be read, {allowed} are allowed ({listed})",
                    fix="repair or remove them, or raise store.max_bad_share",
                )
