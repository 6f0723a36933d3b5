"""Heads that were learned, with what they learned on; only the data they were tested on may meet them again."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from oskar.errors import InputError
from oskar.settings import validate
from oskar.tasks.labelled import LabelledData, labels_of
from oskar.train.sealed import read_sealed, write_sealed

HEADS_FOLDER = "heads"
CARD = "head.json"
_FIX = "evaluate on the head's own data, or let a new head learn: leave out head="
_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadCard:
    """What goes with a head: its classes in order, the clips of both splits, the encoder, and its settings."""

    modality: str
    protocol: str
    classes: tuple[str, ...]
    data: tuple[str, ...]
    split: str
    train_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    data_sha256: str
    checkpoint_sha256: str
    seed: int
    settings: dict[str, Any]


def card_of(
    data: LabelledData, protocol: str, train_ids: Collection[str], seed: int, settings: Mapping[str, Any]
) -> HeadCard:
    return HeadCard(
        modality=data.modality,
        protocol=protocol,
        classes=data.classes,
        data=data.test.names,
        split=data.split,
        train_ids=tuple(train_ids),
        test_ids=tuple(labels_of(data.test.reader)),
        data_sha256=data.test.sha256,
        checkpoint_sha256=data.transfer.sha256,
        seed=seed,
        settings=dict(settings),
    )


def save_head(evaluation: Path, name: str, tensors: Mapping[str, Tensor], card: HeadCard) -> None:
    """Write ``EVALUATION/heads/NAME/head``: safetensors, and the card as JSON."""
    text = json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False) + "\n"
    write_sealed(_place(evaluation, name), "head", tensors, {CARD: text})


def load_head(evaluation: Path, name: str, data: LabelledData, protocol: str) -> tuple[dict[str, Tensor], HeadCard]:
    """The tensors of a head and its card, if ``data`` is what it was tested on.

    Raises:
        InputError: no such head, a damaged one, or one of another encoder, protocol, modality, class list or
            split; the difference is in the message.
    """
    folder = _place(evaluation, name)
    tensors, texts = read_sealed(folder, "head", fix="name the folder of an evaluation by head=")
    try:
        values = json.loads(texts[CARD])
    except (KeyError, ValueError) as error:
        raise InputError(f"{folder / CARD} is not a head's card ({error!r})", fix="let a head learn anew") from error
    card = validate(HeadCard, values, str(folder / CARD))
    _require_same(card, data, protocol, str(folder))
    return tensors, card


def _place(evaluation: Path, name: str) -> Path:
    return evaluation / HEADS_FOLDER / name / "head"


def _require_same(card: HeadCard, data: LabelledData, protocol: str, source: str) -> None:
    for what, learned, given in (
        ("--modality", card.modality, data.modality),
        ("--protocol", card.protocol, protocol),
        ("the encoder with SHA-256", card.checkpoint_sha256, data.transfer.sha256),
    ):
        if learned != given:
            raise InputError(f"{source} is a head of {what} {learned}, this is {given}", fix="name the head's own")
    if card.classes != data.classes:
        raise InputError(f"{source} has other classes: {_class_difference(card.classes, data.classes)}", fix=_FIX)
    if card.split != data.split:
        raise InputError(f"{source} is tested on split {card.split!r}, not {data.split!r}", fix=_FIX)
    if card.data_sha256 != data.test.sha256:
        difference = _split_difference(card, tuple(labels_of(data.test.reader)))
        raise InputError(f"{source}: split {card.split!r} is another: {difference}", fix=_FIX)


def _class_difference(learned: Sequence[str], given: Sequence[str]) -> str:
    gone, new = [c for c in learned if c not in given], [c for c in given if c not in learned]
    counts = f"{len(learned)} learned, {len(given)} given"
    if gone or new:
        return f"{counts}; the data lacks {_listed(gone)}, the head lacks {_listed(new)}"
    place = next(i for i, (before, now) in enumerate(zip(learned, given, strict=True)) if before != now)
    return f"{counts}, in another order: class {place} is {learned[place]!r} in the head, {given[place]!r} in the data"


def _split_difference(card: HeadCard, given: Sequence[str]) -> str:
    before, now = set(card.test_ids), set(given)
    if before == now:
        return f"the same {len(now)} clips with other labels"
    n_learned = len(now & set(card.train_ids))
    return (
        f"{len(before)} clips then, {len(now)} now; gone: {_listed(sorted(before - now))}; "
        f"new: {_listed(sorted(now - before))}; {n_learned} of them are what the head learned on"
    )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(map(repr, names[:_SHOWN]))}{more})"
