"""The official lists of Something-Something v2 (Goyal et al. 2017)."""

import json
from collections.abc import Sequence
from pathlib import Path

from oskar.data.columns import read_text, shown
from oskar.data.formats.listed_clips import ListedClip, Split
from oskar.errors import InputError

_SUFFIXES = (".webm", ".mp4")


def read_something_classes(path: Path) -> tuple[str, ...]:
    """The templates without brackets of the file of labels; a class is its place here.

    Raises InputError naming file, key and fix: not JSON, or numbers that are not the texts of 0, 1, 2 and so on.
    """
    labels = _load(path)
    if not isinstance(labels, dict) or not labels:
        raise InputError(f"{path}: holds no object", fix='write {"Holding something": "0", ...}')
    name_of: dict[str, str] = {}
    for name, number in labels.items():
        if not isinstance(number, str) or number in name_of:
            raise InputError(
                f"{path}, {shown(name)}: {shown(repr(number))} is not a number of its own",
                fix='number classes from "0"',
            )
        name_of[number] = name
    lacking = next((i for i in range(len(labels)) if str(i) not in name_of), None)
    if lacking is not None:
        raise InputError(f"{path}: no class has the number {lacking}", fix='number classes from "0", without a gap')
    return tuple(name_of[str(i)] for i in range(len(labels)))


def read_something(path: Path, classes: Sequence[str], split: Split) -> tuple[ListedClip, ...]:
    """The clips of one split; the label is the template without its brackets, never the free sentence.

    Files are ``{id}.webm`` or ``{id}.mp4``. Only clips of the split test may come without a template.

    Raises InputError naming file, entry, value and fix.
    """
    entries = _load(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: holds no list of clips", fix='write [{"id": "1", "template": "..."}, ...]')
    known = frozenset(classes)
    clips: list[ListedClip] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        clip_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(clip_id, str) or not clip_id or "/" in clip_id:
            raise InputError(f"{where}: id {shown(repr(clip_id))} is not a text", fix='give every clip an "id"')
        if clip_id in seen:
            raise InputError(f"{where}: id {clip_id} is there twice", fix="list every clip once")
        seen.add(clip_id)
        label = _label(entry.get("template"), split, f"{where} (id {clip_id})")
        if label is not None and label not in known:
            raise InputError(f"{where} (id {clip_id}): {shown(label)} is not a class", fix="use lists of one release")
        names = tuple(clip_id + suffix for suffix in _SUFFIXES)
        clips.append(ListedClip(clip_id=clip_id, file_names=names, label=label, split=split))
    return tuple(clips)


def _label(template: object, split: Split, where: str) -> str | None:
    if template is None and split == "test":
        return None
    if not isinstance(template, str):
        raise InputError(f"{where}: a clip of {split} without a template", fix="fetch the list with labels")
    return template.replace("[", "").replace("]", "")


def _load(path: Path) -> object:
    try:
        loaded: object = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not JSON ({error.msg})", fix="fetch the file again") from error
    return loaded
