"""``oskar check``: the whole audit of one data set."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oskar.data.audit.captions import audit_captions
from oskar.data.audit.clip import ClipAudit, audit_clip
from oskar.data.audit.listing import Listing, list_clips
from oskar.data.audit.record import AUDIT_FILE, CHECKED_FILE, Checked, identity, write_audit
from oskar.data.audit.sets import audit_sets
from oskar.data.people_reader import parse_people
from oskar.data.quarantine import quarantine_path, write_quarantine
from oskar.data.rows import Row
from oskar.errors import InputError
from oskar.progress import Progress
from oskar.tokens.words import load_words

_BATCH = 16  # clips handed to a process at once, and written to the record together
_FEWEST_FOR_PROCESSES = 64  # fewer are checked before a second process has started
_LARGEST_VOCABULARY = 1 << 24


def check(
    data: str | Path,
    out: Path | None = None,
    *,
    workers: int | None = None,
    tokenizer: Path | None = None,
    split_column: str | None = None,
) -> dict[str, Any]:
    """Audit a folder or manifest; write ``audit.json`` and ``quarantine.csv``, and return the former.

    Both are written beside the data unless ``out`` names another folder; a list that lies elsewhere
    is not honoured by the readers. Nothing is deleted or changed. An interrupted audit goes on where
    it stopped: files are told by size and time. ``workers`` processes, by default one for each core.

    Raises:
        InputError: the data is not there, or nothing can be written.
    """
    if parse_people(str(data)) is not None:
        raise InputError("the built-in people have no files to check", fix="name a folder or a manifest")
    words = None if tokenizer is None else load_words(tokenizer, vocabulary_size=_LARGEST_VOCABULARY)
    listing = list_clips(data, split_column)
    path = quarantine_path(listing.source if listing.n_listed else Path(data))
    folder = out or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix("quarantine.csv")
    checked = Checked(folder / f"{name}{CHECKED_FILE}")
    audits = _audit_all(listing, checked, workers if workers is not None else os.cpu_count() or 1)
    findings = [
        *listing.findings,
        *(finding for audit in audits.values() for finding in audit.findings),
        *audit_captions(listing.rows, listing.empty_captions, words),
        *audit_sets(listing.rows, audits),
    ]
    findings.sort(key=lambda finding: finding.severity)  # errors first, else in their order
    n_quarantined = write_quarantine(
        folder / path.name, ((clip_id, f.kind, f.message) for f in findings for clip_id in f.quarantined)
    )
    audit = write_audit(folder / f"{name}{AUDIT_FILE}", listing, audits, findings, n_quarantined)
    checked.remove()
    return audit


def _audit_all(listing: Listing, checked: Checked, workers: int) -> dict[str, ClipAudit]:
    """Every row's audit by its id, in the order of the rows."""
    keys = {row.clip_id: identity(listing.folder, row) for row in listing.rows}
    audits = {clip_id: audit for clip_id, key in keys.items() if (audit := checked.get(key)) is not None}
    todo = [row for row in listing.rows if row.clip_id not in audits]
    batches = [todo[start : start + _BATCH] for start in range(0, len(todo), _BATCH)]
    with Progress(len(listing.rows), first_step=len(audits), unit="clips") as progress:
        for done in _run(listing.folder, batches, 1 if len(todo) < _FEWEST_FOR_PROCESSES else workers):
            checked.add([(keys[audit.clip_id], audit) for audit in done])
            audits |= {audit.clip_id: audit for audit in done}
            progress.advance(None, len(done))
    return {row.clip_id: audits[row.clip_id] for row in listing.rows}


def _run(folder: Path, batches: Sequence[Sequence[Row]], workers: int) -> Iterator[list[ClipAudit]]:
    audit_batch = partial(_audit_batch, folder)
    if workers <= 1:
        yield from map(audit_batch, batches)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        yield from pool.map(audit_batch, batches)


def _start_worker() -> None:
    torch.set_num_threads(1)


def _audit_batch(folder: Path, rows: Sequence[Row]) -> list[ClipAudit]:
    return [audit_clip(folder, row) for row in rows]
