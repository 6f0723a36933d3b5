"""A PYSKL pickle as a manifest: its joints stay in memory, and nothing is written."""

import numpy as np

from oskar.data.formats.ntu_names import is_sample_name, parse_sample_name
from oskar.data.formats.pyskl import PysklFile
from oskar.data.formats.pyskl_folder import check_splits, class_names, packed_arrays
from oskar.data.manifest import Manifest, Row
from oskar.errors import InputError

_TRAIN, _TEST = "_train", "_val"


def pyskl_manifest(file: PysklFile, protocol: str | None) -> Manifest:
    """The samples of a protocol, such as xsub, as the splits train and test.

    Without a protocol it is the only one that the file has. Samples that a split lists and the file lacks are
    ``missing_rows``.

    Raises:
        InputError: no such protocol, several and none named, or splits that ``check_splits`` refuses.
    """
    endings = (_TRAIN, _TEST)
    known = list(dict.fromkeys(name.rpartition("_")[0] for name in file.splits if name.endswith(endings)))
    if protocol is None and len(known) == 1:
        protocol = known[0]
    if protocol not in known:
        problem = "several protocols, and none is named" if protocol is None else f"no protocol {protocol}"
        raise InputError(f"{file.source}: {problem}", fix=f"write one of {', '.join(known) or 'none'} after a colon")
    splits = {"train": file.select(protocol + _TRAIN), "test": file.select(protocol + _TEST)}
    check_splits(file, splits)
    listed = [(sample, split) for split, selected in splits.items() for sample in selected.samples]
    samples = [sample for sample, _ in listed]
    offsets = np.cumsum([0, *(sample.keypoints.shape[1] for sample in samples)])
    names = class_names(samples)
    rows = tuple(
        Row(
            clip_id=sample.name,
            packed_rows=(int(start), int(end)),
            has_joints=True,
            label=names[sample.label_id],
            label_id=sample.label_id,
            split=split,
            subject=f"P{parse_sample_name(sample.name).performer:03d}" if is_sample_name(sample.name) else None,
            width=None if sample.frame_size is None else sample.frame_size[0],
            height=None if sample.frame_size is None else sample.frame_size[1],
        )
        for (sample, split), start, end in zip(listed, offsets[:-1], offsets[1:], strict=True)
    )
    missing = [
        Row(clip_id=name, split=split, missing=("start",))
        for split, selected in splits.items()
        for name in selected.missing
    ]
    return Manifest(
        name="pyskl",
        folder=file.source.parent,
        rows=rows,
        classes=names,
        split_column="split",
        missing_rows=tuple(missing),
        joints=packed_arrays(samples, offsets),
    )
