"""Folders of tensors and text that are on disk whole or not at all, and say so when they are not.

A sealed folder holds ``tensors.safetensors``, text files, and ``manifest.json`` with the size and
SHA-256 of each of them. It is written beside its place, flushed to the disk and renamed, so that a
kill at any moment leaves what was there before, or all of the new.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oskar.errors import InputError
from oskar.files import TEMPORARY, not_written, sync_folder, write_bytes_synced

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
VERSION = 1
ASIDE = ".old-"  # what a folder is called for the moment between its replacement's two renames

_PICKLE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"}
_ZIP_MAGIC = b"PK\x03\x04"  # torch.save since 1.6
_PICKLE_PROTOCOLS = range(2, 6)


def write_sealed(folder: Path, kind: str, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """Write a sealed folder, replacing one that is there; ``texts`` maps file names to contents.

    ``kind`` (such as "checkpoint") is stored and checked on reading. Tensors may be on any device,
    not contiguous, or views of one storage.

    Raises:
        StoppedRunError: it could not be written; what was there before is untouched.
    """
    temporary = folder.with_name(TEMPORARY + folder.name)
    owned = _owned(tensors)
    n_bytes = sum(t.nbytes for t in owned.values()) + sum(len(text.encode()) for text in texts.values())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        _fill(temporary, kind, owned, texts)
        _put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # before the free space is measured
        raise not_written(folder, n_bytes, str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_sealed(folder: Path, kind: str, fix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and texts of a sealed folder, after checking every byte of it.

    Raises:
        InputError: not such a folder, truncated, changed, or a pickle; ``fix`` says what to do.
    """
    folder = _standing(folder)
    refuse_pickle(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no {kind} folder", fix=f"name a {kind} folder that oskar wrote")
    files = _read_manifest(folder, kind, fix)
    for name, wanted in files.items():
        _verify(folder / name, wanted, fix)
    try:
        tensors: dict[str, Tensor] = load_file(folder / TENSORS)
    except SafetensorError as error:
        raise InputError(f"{folder / TENSORS} is not safetensors ({error})", fix=fix) from error
    return tensors, {name: (folder / name).read_text("utf-8") for name in files if name != TENSORS}


def tensors_sha256(folder: Path, kind: str) -> str:
    """The SHA-256 of the tensors of a sealed folder, as its manifest states it: the weights' name in results."""
    fix = f"name a {kind} folder that oskar wrote"
    return str(_read_manifest(_standing(folder), kind, fix)[TENSORS]["sha256"])


def refuse_pickle(path: Path) -> None:
    """Raise InputError if ``path`` is a pickle, or a folder that holds one: loading it would run its code."""
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in candidates:
        if file.is_file() and _is_pickle(file):
            raise InputError(
                f"{file} is a pickle, or an archive that may hold one, and is never loaded: it can run any code",
                fix="convert its tensors to safetensors, if you trust its source, and remove it from here",
            )


def remove_stale(folder: Path) -> None:
    """Clear what a killed writer left in ``folder``: its temporaries, and folders already replaced."""
    for path in folder.glob(f"{TEMPORARY}*"):
        _remove(path)
    for path in folder.glob(f"{ASIDE}*"):
        in_place = folder / path.name.removeprefix(ASIDE)
        if in_place.exists():
            _remove(path)
        else:
            path.rename(in_place)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a kill on the way never leaves half of it under its name."""
    temporary = folder.with_name(TEMPORARY + folder.name)
    _remove(temporary)
    folder.rename(temporary)
    _remove(temporary)


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that each own their storage, as safetensors wants them."""
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != value.nbytes:
            value = value.clone()
        storages.add(value.untyped_storage().data_ptr())
        owned[name] = value
    return owned


def _fill(folder: Path, kind: str, tensors: dict[str, Tensor], texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        write_bytes_synced(folder / name, text.encode())
    save_file(tensors, folder / TENSORS)
    _sync(folder / TENSORS)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in (TENSORS, *texts)
    }
    manifest = {"format": f"oskar-{kind}", "version": VERSION, "files": files}
    write_bytes_synced(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    # safetensors makes its file private; it shall be as readable as the others
    (folder / TENSORS).chmod((folder / MANIFEST).stat().st_mode)
    sync_folder(folder)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename over ``folder``; no portable call swaps two folders, so readers look aside between the two renames."""
    aside = folder.with_name(ASIDE + folder.name)
    if folder.exists():
        _remove(aside)
        folder.rename(aside)
    temporary.rename(folder)
    sync_folder(folder.parent)
    _remove(aside)


def _standing(folder: Path) -> Path:
    """The folder, or what stands in for it where a kill came between the two renames of its replacement."""
    aside = folder.with_name(ASIDE + folder.name)
    return aside if aside.is_dir() and not folder.exists() else folder


def _read_manifest(folder: Path, kind: str, fix: str) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        found, version, files = manifest["format"], manifest["version"], manifest["files"]
        sizes = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except OSError as error:
        raise InputError(f"{folder} is no whole {kind} folder: {error}", fix=fix) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a manifest ({error!r})", fix=fix) from error
    if found != f"oskar-{kind}" or TENSORS not in sizes:
        raise InputError(f"{path}: format = {found!r}, wanted 'oskar-{kind}' with {TENSORS}", fix=fix)
    if version != VERSION:
        raise InputError(
            f"{path}: version = {version!r}, this oskar reads {VERSION}", fix="use the oskar that wrote it"
        )
    return {name: {"bytes": n_bytes, "sha256": digest} for name, (n_bytes, digest) in sizes.items()}


def _verify(file: Path, wanted: Mapping[str, Any], fix: str) -> None:
    if not file.is_file():
        raise InputError(f"{file} is missing", fix=fix)
    n_bytes = file.stat().st_size
    if n_bytes != wanted["bytes"]:
        raise InputError(f"{file} is truncated or changed: {n_bytes} bytes of {wanted['bytes']}", fix=fix)
    digest = _sha256(file)
    if digest != wanted["sha256"]:
        raise InputError(f"{file} is damaged: sha256 {digest[:16]}..., written as {wanted['sha256'][:16]}...", fix=fix)


def _is_pickle(file: Path) -> bool:
    if file.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    with file.open("rb") as stream:
        head = stream.read(9)
    if head.startswith(_ZIP_MAGIC):
        return True
    # a safetensors file starts with its header's length, which may look like a pickle's first bytes, and then a brace
    return len(head) > 1 and head[0] == 0x80 and head[1] in _PICKLE_PROTOCOLS and head[8:9] != b"{"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
