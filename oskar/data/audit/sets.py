"""What only the whole set shows: copies, people and classes across splits, clips without a split."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from oskar.data.audit.clip import THUMBNAIL, ClipAudit
from oskar.data.audit.findings import Finding, Kind
from oskar.data.rows import Row

TRAIN = "train"
LEAST_CHANGE = 2.0  # grey levels between a clip's own thumbnails: still scenes of one camera all look alike
MOST_DIFFERENCE = 3.0  # grey levels, mean over the thumbnails; another codec or size changes one or two
MOST_SHARE_OF_CHANGE = 0.25  # a copy differs from a clip by far less than the clip does from itself over time
_WINDOW = 512  # clips of neighbouring brightness that one clip is compared with


def audit_sets(rows: Sequence[Row], audits: Mapping[str, ClipAudit]) -> list[Finding]:
    """Findings about pairs and groups of clips."""
    split_of = {row.clip_id: row.split for row in rows}
    found = [
        *_copies("same_file", _groups((a.clip_id, a.file_sha256) for a in audits.values()), split_of),
        *_copies("same_joints", _groups((a.clip_id, a.joints_sha256) for a in audits.values()), split_of),
    ]
    known = {pair for finding in found for pair in combinations(sorted(finding.clip_ids), 2)}
    found += [
        _copy("same_picture", (a, b), split_of)
        for a, b in _look_alikes(audits.values())
        if (a, b) not in known and split_of[a] != split_of[b]
    ]
    return [*found, *_subjects(rows), *_classes(rows), *_unsplit(rows)]


def _groups(pairs: Iterable[tuple[str, str | None]]) -> list[tuple[str, ...]]:
    """Clips that share a hash, two or more of them."""
    of_hash: defaultdict[str, list[str]] = defaultdict(list)
    for clip_id, digest in pairs:
        if digest is not None:
            of_hash[digest].append(clip_id)
    return [tuple(ids) for ids in of_hash.values() if len(ids) > 1]


def _copies(kind: Kind, groups: Iterable[tuple[str, ...]], split_of: Mapping[str, str | None]) -> list[Finding]:
    return [_copy(kind, ids, split_of) for ids in groups]


def _copy(kind: Kind, clip_ids: tuple[str, ...], split_of: Mapping[str, str | None]) -> Finding:
    """Where copies lie in training and in another split, those in training are left out: a test stays a test."""
    splits = {split_of[clip_id] or TRAIN for clip_id in clip_ids}
    is_across = TRAIN in splits and len(splits) > 1
    in_training = tuple(i for i in clip_ids if (split_of[i] or TRAIN) == TRAIN) if is_across else ()
    what = {"same_file": "the same bytes", "same_joints": "the same joints"}.get(kind, "nearly the same pictures")
    where = f", in the splits {', '.join(sorted(splits))}" if is_across else ""
    return Finding(
        kind=kind,
        clip_ids=clip_ids,
        message=f"clips {', '.join(clip_ids[:5])}{' ...' if len(clip_ids) > 5 else ''}: {what}{where}",
        fix="keep one of them; training on what is tested makes a result worthless"
        if is_across
        else "keep one of them, unless the same recording is meant to count twice",
        quarantined=in_training if kind != "same_picture" else (),
    )


def _look_alikes(audits: Iterable[ClipAudit]) -> list[tuple[str, str]]:
    """Pairs whose first, middle and last frames differ no more than a codec would change them.

    Clips are sorted by brightness, and each is compared with those that follow within the tolerance.
    """
    seen = [(a.clip_id, _pictures(a.thumbnail)) for a in audits if a.thumbnail is not None]
    seen = [(clip_id, pictures) for clip_id, pictures in seen if _change(pictures) >= LEAST_CHANGE]
    seen.sort(key=lambda entry: float(entry[1].mean()))
    if len(seen) < 2:
        return []
    ids, thumbnails = [clip_id for clip_id, _ in seen], np.stack([pictures for _, pictures in seen])
    brightness = thumbnails.mean(axis=(1, 2))
    most = np.minimum(MOST_DIFFERENCE, MOST_SHARE_OF_CHANGE * np.array([_change(pictures) for pictures in thumbnails]))
    pairs = []
    for i in range(len(ids) - 1):
        end = min(int(np.searchsorted(brightness, brightness[i] + MOST_DIFFERENCE, "right")), i + 1 + _WINDOW)
        difference = np.abs(thumbnails[i + 1 : end] - thumbnails[i]).mean(axis=(1, 2))
        near = np.flatnonzero(difference < np.minimum(most[i], most[i + 1 : end]))
        pairs += [(ids[i], ids[i + 1 + int(k)]) for k in near]
    return [(min(pair), max(pair)) for pair in pairs]


def _pictures(thumbnail: bytes) -> NDArray[np.float32]:
    return np.frombuffer(thumbnail, np.uint8).reshape(3, THUMBNAIL * THUMBNAIL).astype(np.float32)


def _change(pictures: NDArray[np.float32]) -> float:
    """Grey levels by which the three pictures differ from their mean."""
    return float(np.abs(pictures - pictures.mean(axis=0)).mean())


def _subjects(rows: Sequence[Row]) -> list[Finding]:
    splits_of: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.subject is not None and row.split is not None:
            splits_of[row.subject].add(row.split)
    return [
        Finding(
            kind="subject_in_splits",
            clip_ids=tuple(row.clip_id for row in rows if row.subject == subject and row.split is not None),
            message=f"subject {subject} is in the splits {', '.join(sorted(splits))}",
            fix="split by person, or say that results are not about people never seen",
        )
        for subject, splits in sorted(splits_of.items())
        if TRAIN in splits and len(splits) > 1
    ]


def _classes(rows: Sequence[Row]) -> list[Finding]:
    trained = {row.label for row in rows if row.label is not None and row.split in (TRAIN, None)}
    tested = {row.label for row in rows if row.label is not None and row.split not in (TRAIN, None)}
    return [
        Finding(
            kind="class_without_training",
            clip_ids=tuple(row.clip_id for row in rows if row.label == label),
            message=f"class {label} is tested and has no training clip",
            fix="move clips of it to training, or remove it",
        )
        for label in sorted(tested - trained)
        if trained
    ]


def _unsplit(rows: Sequence[Row]) -> list[Finding]:
    unsplit = tuple(row.clip_id for row in rows if row.split is None)
    if not unsplit or len(unsplit) == len(rows):
        return []
    return [
        Finding(
            kind="no_split",
            clip_ids=unsplit,
            message=f"{len(unsplit)} of {len(rows)} clips have no split: they train and are never tested",
            fix="fill the column split in",
        )
    ]


def counted(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Clips by split, by label and by modality."""
    return {
        "splits": dict(sorted(Counter(row.split or "none" for row in rows).items())),
        "labels": dict(sorted(Counter(row.label or "none" for row in rows).items())),
        "modalities": dict(sorted(Counter(name for row in rows for name in row.modalities).items())),
        "subjects": dict(sorted(Counter(row.subject for row in rows if row.subject is not None).items())),
    }
