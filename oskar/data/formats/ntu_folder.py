"""A folder of NTU RGB+D files under their official names, listed as if it had an index."""

from pathlib import Path

from oskar.data.columns import Cells, Table
from oskar.data.folder import VIDEO_SUFFIXES, find_files
from oskar.data.formats.ntu_names import (
    NTU60_XSUB,
    NTU120_XSUB,
    NtuProtocol,
    SampleName,
    is_sample_name,
    parse_sample_name,
    read_missing_names,
)
from oskar.errors import InputError

_COLUMNS = ("clip_id", "path", "joints_path", "label_id", "split", "subject", "camera", "setup", "repetition")
_ENDINGS = {"joints_path": ".skeleton", "path": "_rgb.avi"}
_MISSING_LIST = "*missing_skeletons*.txt"


def is_ntu_folder(folder: Path) -> bool:
    """True where a file below the folder is named as NTU RGB+D names its skeletons and colour videos."""
    return any(
        path.name.endswith(ending) and is_sample_name(path.name.removesuffix(ending))
        for path in find_files(folder)
        for ending in _ENDINGS.values()
    )


def list_ntu_folder(folder: Path, protocol: NtuProtocol | None = None) -> tuple[Table, NtuProtocol]:
    """One row for every sample of the protocol, from ``{name}.skeleton``, ``{name}_rgb.avi`` or both, at any depth.

    Without a protocol it is cross-subject of NTU60, or of NTU120 where NTU60 has not all of the samples. What an
    official ``*missing_skeletons*.txt`` in the folder lists has no skeleton; its video stays. Files that are neither
    skeletons nor videos are passed over.

    Raises InputError where a skeleton or video is not named officially, a sample is there twice, or none is left.
    """
    files = _sample_files(folder)
    missing = frozenset[str]().union(*(read_missing_names(path) for path in sorted(folder.glob(_MISSING_LIST))))
    if protocol is None:
        protocol = NTU60_XSUB if all(NTU60_XSUB.split_of(sample) for sample in files) else NTU120_XSUB
    rows: list[Cells] = []
    for sample, columns in sorted(files.items()):
        split = protocol.split_of(sample)
        is_listed = {
            name: path for name, path in columns.items() if name != "joints_path" or str(sample) not in missing
        }
        if split is not None and is_listed:
            paths = {name: path.relative_to(folder).as_posix() for name, path in is_listed.items()}
            rows.append(Cells(where=f"{folder}, {sample}", values={**paths, **_facts(sample), "split": split}))
    if not rows:
        raise InputError(f"{folder}: no sample of {protocol.name}", fix="choose the protocol of these files")
    return Table(source=folder, columns=_COLUMNS, rows=tuple(rows)), protocol


def _sample_files(folder: Path) -> dict[SampleName, dict[str, Path]]:
    """The skeleton and the video of every sample."""
    files: dict[SampleName, dict[str, Path]] = {}
    for path in find_files(folder):
        if path.suffix.lower() not in (".skeleton", *VIDEO_SUFFIXES):
            continue
        column = next((name for name, ending in _ENDINGS.items() if path.name.endswith(ending)), None)
        if column is None:
            raise InputError(
                f"{path}: a video among samples of NTU RGB+D, but not called {{name}}_rgb.avi",
                fix="move it away, or list the clips in an index.csv",
            )
        sample = parse_sample_name(path.name.removesuffix(_ENDINGS[column]))
        other = files.setdefault(sample, {}).setdefault(column, path)
        if other != path:
            raise InputError(f"{path}: the same sample as {other}", fix="keep one of the two")
    return files


def _facts(sample: SampleName) -> dict[str, str]:
    return {
        "clip_id": str(sample),
        "label_id": str(sample.label_id),
        "subject": f"P{sample.performer:03d}",
        "camera": str(sample.camera),
        "setup": str(sample.setup),
        "repetition": str(sample.replication),
    }
