"""Official files of captions by name: ``msrvtt:FOLDER[:9k|7k|full]``, ``msvd:FOLDER``, ``vatex:FOLDER``.

The folder holds the annotation files under their official names, and the videos in ``videos`` or beside them. Other
places and names are given by the settings ``files``.
"""

from pathlib import Path

from oskar.data.formats.caption_files import CaptionFilesConfig
from oskar.data.official import parse_official
from oskar.errors import InputError


def caption_files(data: str) -> tuple[CaptionFilesConfig, Path] | None:
    """The files of named captions and the folder of their videos; None for any other data.

    Raises:
        InputError: a file that is not there.
    """
    official = parse_official(data)
    if official is None:
        return None
    folder = official.path
    if official.name == "msrvtt":
        files = _msrvtt(folder, official.protocol or "9k")
    elif official.name == "msvd":
        files = _msvd(folder)
    elif official.name == "vatex":
        files = _vatex(folder)
    else:
        return None
    videos = folder / "videos"
    return files, videos if videos.is_dir() else folder


def _msrvtt(folder: Path, protocol: str) -> CaptionFilesConfig:
    """9k or 7k to train on and 1k-A to test on, or the file's own splits."""
    annotations = _first(folder, "MSRVTT_data.json", "MSR_VTT.json")
    if protocol == "full":
        return CaptionFilesConfig(benchmark="msrvtt", annotations=annotations)
    return CaptionFilesConfig(
        benchmark="msrvtt",
        annotations=annotations,
        train_ids=_first(folder, f"MSRVTT_train.{protocol}.csv"),
        test_annotations=_first(folder, "MSRVTT_JSFUSION_test.csv"),
    )


def _msvd(folder: Path) -> CaptionFilesConfig:
    mapping = folder / "youtube_mapping.txt"
    return CaptionFilesConfig(
        benchmark="msvd",
        annotations=_first(folder, "raw-captions.pkl", "captions_msvd.json"),
        train_ids=_first(folder, "train_list.txt"),
        test_ids=_first(folder, "test_list.txt"),
        mapping=str(mapping) if mapping.is_file() else None,
    )


def _vatex(folder: Path) -> CaptionFilesConfig:
    """The clips of the validation file, or those of them that ``test_list.txt`` names, are the test."""
    lists = {f"{split}_ids": folder / f"{split}_list.txt" for split in ("train", "test")}
    ids = {name: str(path) if path.is_file() else None for name, path in lists.items()}
    return CaptionFilesConfig(
        benchmark="vatex",
        annotations=_first(folder, "vatex_training_v1.0.json"),
        test_annotations=_first(folder, "vatex_validation_v1.0.json", "vatex_public_test_english_v1.1.json"),
        train_ids=ids["train_ids"],
        test_ids=ids["test_ids"],
    )


def _first(folder: Path, *names: str) -> str:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder}: has no {' or '.join(names)}", fix="put the official file there, or name it by files."
        )
    return str(path)
