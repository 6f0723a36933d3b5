"""What recognition learns on and is tested on: a run's encoders, two splits of labelled clips, and their counts."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from oskar.config import ClipConfig, Config
from oskar.data.open import OpenedData, open_split
from oskar.data.reader import ClipReader
from oskar.errors import AbsentError, InputError
from oskar.modalities import Modality
from oskar.tasks.transfer import Transfer, load_transfer, require_modality, what_is_read
from oskar.train.record import prepare_run_folder

ENCODERS = ("pretrained", "random")  # what every result stands beside: the same with random weights


@dataclass(frozen=True, slots=True)
class LabelledData:
    """A run and the two splits of ``data``; ``config`` is the run's with what is read of a clip."""

    transfer: Transfer
    config: Config
    modality: Modality
    train: OpenedData
    test: OpenedData
    split: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.test.reader.classes


def open_labelled(
    run: Path,
    data: list[str],
    modality: Modality,
    out: Path,
    split: str,
    clip: Callable[[ClipConfig], ClipConfig] = lambda config: config,
) -> LabelledData:
    """Open a run and both splits of ``data``, and make the folder ``out``; ``clip`` changes the run's own settings.

    Raises:
        InputError: wrong run, data, split or modality; nothing was decoded yet.
    """
    transfer = load_transfer(run)
    prepare_run_folder(out, resume=False)
    require_modality(transfer.config, modality)
    config = what_is_read(transfer.config, modality)
    config = replace(config, clip=clip(config.clip))
    if split == config.data.split:
        raise InputError(f"split = {split!r} is what the heads learn on", fix="test on another split")
    train, test = (open_split(data, config, None, name, modality) for name in (config.data.split, split))
    if not test.reader.classes:
        raise AbsentError(f"data {', '.join(data)} has no classes of its own", fix="evaluate on one labelled data set")
    for name, opened in ((config.data.split, train), (split, test)):
        require_labelled(len(labels_of(opened.reader)), name, test.names)
    return LabelledData(transfer, config, modality, train, test, split)


def require_labelled(n_clips: int, split: str, names: tuple[str, ...]) -> None:
    if n_clips == 0:
        raise AbsentError(
            f"data {', '.join(names)}: no labelled clip in split {split!r} has the modality", fix="choose another"
        )


def labels_of(reader: ClipReader) -> dict[str, int]:
    """Class by id of the clips that have one, in the reader's order."""
    return {reader.clip_id(i): label for i in range(len(reader)) if (label := reader.label(i)) >= 0}


def ids_sha256(ids: Collection[str]) -> str:
    """SHA-256 of ids as the sorted JSON list that is saved beside a result."""
    return hashlib.sha256(ids_json(ids).encode()).hexdigest()


def ids_json(ids: Collection[str]) -> str:
    return json.dumps(sorted(ids), indent=0, ensure_ascii=False) + "\n"
