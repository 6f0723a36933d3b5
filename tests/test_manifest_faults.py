"""Planted faults: every way a manifest can be wrong is named with its place, value and fix."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oskar.data.manifest import Manifest, read_manifest
from oskar.errors import InputError


def write_folder(folder: Path, index: str, *files: str, classes: str | None = None) -> Path:
    """A folder with an index and empty files: a manifest never looks inside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.csv").write_text(index)
    for name in files:
        touch(folder / name)
    if classes is not None:
        (folder / "classes.txt").write_text(classes)
    return folder


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_packed(folder: Path, index: str, offsets: object | None = (0, 4, 9)) -> Path:
    write_folder(folder, index)
    joints = np.zeros((9, 17, 3), np.float32)
    if offsets is None:
        np.savez(folder / "skeletons.npz", joints=joints)
    else:
        np.savez(folder / "skeletons.npz", joints=joints, offsets=np.asarray(offsets))
    return folder


@pytest.mark.parametrize(
    ("index", "offsets", "message"),
    [
        ("clip_id,start,end\na,4,4\n", (0, 4, 9), "line 2, start = '4': is not before end = 4"),
        ("clip_id,start,end\na,4,\n", (0, 4, 9), "line 2, end = '': is missing"),
        ("clip_id,row,caption\na,4,text\n", (0, 4, 9), "line 2, start = '': is missing"),
        ("clip_id,start,end\na,-1,4\n", (0, 4, 9), "line 2, start = '-1': not a whole number"),
        ("clip_id,start,end\na,4,10\n", (0, 4, 9), r"line 2, end = '10': skeletons\.npz holds 9 frames"),
        ("clip_id,row,start,end\na,1,0,4\n", (0, 4, 9), r"line 2, row = '1': sequence 1 .* is 4 to 9, not 0 to 4"),
        ("clip_id,row,start,end\na,2,0,4\n", (0, 4, 9), "line 2, row = '2': .* holds 2 sequences"),
        ("clip_id,start,end\na,0,4\n", ((0, 4),), r"skeletons\.npz: offsets are int64 of shape \(1, 2\)"),
        ("clip_id,start,end\na,0,4\n", (0.5, 4), r"skeletons\.npz: offsets are float64"),
    ],
)
def test_faults_of_packed_rows(tmp_path: Path, index: str, offsets: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_manifest(write_packed(tmp_path, index, offsets))


def test_faults_of_the_packed_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "clip_id,start,end\na,0,4\n")
    with pytest.raises(InputError, match=r"skeletons\.npz: cannot be read"):
        read_manifest(folder)
    for content in (b"", b"PK\x03\x04 broken", b"\x93NUMPY", b"text"):
        (folder / "skeletons.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"skeletons\.npz: cannot be read"):
            read_manifest(folder)
    np.savez(folder / "skeletons.npz", offsets=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read.*without pickles"):
        read_manifest(folder)


FAULTS: dict[str, tuple[str, str]] = {
    "empty file": ("", r"index\.csv: is empty.*clip_id,path"),
    "header only": ("clip_id,path\n", r"index\.csv: lists no clip"),
    "unknown column": ("clip_id,pth\na,v.mp4\n", r"line 1: unknown column 'pth'. Fix: did you mean path\?.* x_pth"),
    "unlike any column": ("clip_id,qqqq\na,v.mp4\n", r"unknown column 'qqqq'. Fix: use some of action, .* x_qqqq"),
    "nameless column": ("clip_id,path,\na,v.mp4,\n", "unknown column ''"),
    "bare prefix": ("clip_id,path,x_\na,v.mp4,\n", "unknown column 'x_'"),
    "repeated column": ("clip_id,path,path\na,v.mp4,v.mp4\n", "column 'path' is there twice"),
    "file and path": ("clip_id,path,file\na,v.mp4,v.mp4\n", "column 'path' is there twice"),
    "semicolons": ("clip_id;path\na;v.mp4\n", "separate the columns by commas"),
    "too many cells": ("clip_id,path\na,v.mp4,x\n", "line 2: 3 cells, but the header has 2"),
    "too few cells": ("clip_id,path\na\n", "line 2: 1 cells, but the header has 2"),
    "open quote": ('clip_id,path\na,"v.mp4\n', "not CSV"),
    "no id": ("clip_id,path\na,v.mp4\n,v.mp4\n", "line 3, clip_id = '': is missing"),
    "no id column": ("path\nv.mp4\n", "line 2, clip_id = '': is missing"),
    "repeated id": (
        "clip_id,path\na,v.mp4\nb,v.mp4\na,v.mp4\n",
        r"line 4, clip_id = 'a': .* also in .*index\.csv line 2",
    ),
    "file listed twice": ("file\nv.mp4\nv.mp4\n", "line 3, clip_id = 'v.mp4': .* also in"),
    "parent folder": ("clip_id,path\na,../v.mp4\n", "line 2, path = '../v.mp4': is not below"),
    "dots only": ("clip_id,path\na,..\n", r"line 2, path = '\.\.': is not below"),
    "absolute": ("clip_id,path\na,/etc/hostname\n", "line 2, path = '/etc/hostname': is not below"),
    "absent video": ("clip_id,path\na,w.mp4\n", r"line 2, path = 'w.mp4': .*w\.mp4 does not exist"),
    "name too long": (f"clip_id,path\na,{'w' * 300}.mp4\n", "does not exist"),
    "a folder": ("clip_id,path\na,sub\n", "line 2, path = 'sub': .*sub is not a file"),
    "absent joints": ("clip_id,joints_path\na,w.npz\n", r"line 2, joints_path = 'w.npz': .*w\.npz does not exist"),
    "joints as video": ("clip_id,path\na,j.npz\n", "line 2, path = 'j.npz': holds joints"),
    "video as joints": (
        "clip_id,joints_path\na,v.mp4\n",
        "line 2, joints_path = 'v.mp4': joints are read from .npz and .skel",
    ),
    "NTU skeleton": ("clip_id,path\na,s.skeleton\n", "line 2, path = 's.skeleton': holds joints"),
    "both joints": ("clip_id,joints_path,start,end\na,j.npz,0,4\n", "line 2, joints_path = 'j.npz': .* start and end"),
    "no modality": ("clip_id,path,label\na,,run\n", "line 2: clip 'a' has no modality"),
    "blank caption alone": ('clip_id,caption\na,"  "\nb,text\n', "line 2: clip 'a' has no modality"),
    "boxes alone": ("clip_id,joints_path,has_joints\na,j.npz,0\n", "clip 'a' has no modality"),
    "joints flag": ("clip_id,path,has_joints\na,v.mp4,yes\n", "line 2, has_joints = 'yes': not 0 or 1"),
    "joints flag alone": ("clip_id,path,has_joints\na,v.mp4,1\n", "line 2, has_joints = '1': the row names no joints"),
    "label id": ("clip_id,path,label_id\na,v.mp4,1.5\n", "line 2, label_id = '1.5': not a whole number"),
    "negative label id": ("clip_id,path,label_id\na,v.mp4,-1\n", "line 2, label_id = '-1': not a whole number"),
    "gap of label ids": ("clip_id,path,label_id\na,v.mp4,0\nb,v.mp4,2\n", "line 3, label_id = '2': .* 1 is missing"),
    "two ids": (
        "clip_id,path,label,label_id\na,v.mp4,run,0\nb,v.mp4,run,1\n",
        "line 3, label_id = '1': label 'run' has label_id 0 in .* line 2",
    ),
    "two labels": (
        "clip_id,path,label,label_id\na,v.mp4,run,0\nb,v.mp4,sit,0\n",
        "line 3, label = 'sit': label_id 0 has label 'run' in .* line 2",
    ),
    "label without id": ("clip_id,path,label,label_id\na,v.mp4,run,0\nb,v.mp4,sit,\n", "line 3, label = 'sit': has no"),
    "id without label": ("clip_id,path,label,label_id\na,v.mp4,run,0\nb,v.mp4,,1\n", "line 3, label_id = '1': no row"),
    "frames": ("clip_id,path,n_frames\na,v.mp4,0\n", "line 2, n_frames = '0': not a whole number of at least 1"),
    "fps": ("clip_id,path,fps\na,v.mp4,nan\n", "line 2, fps = 'nan': not a positive number"),
    "fps text": ("clip_id,path,fps\na,v.mp4,fast\n", "line 2, fps = 'fast': not a positive number"),
    "width": ("clip_id,path,width\na,v.mp4,wide\n", "line 2, width = 'wide': not a whole number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_an_index(tmp_path: Path, fault: str) -> None:
    index, message = FAULTS[fault]
    folder = write_folder(tmp_path / "set", index, "v.mp4", "j.npz", "s.skeleton", "sub/v.mp4", "../v.mp4")
    np.savez(folder / "skeletons.npz", joints=np.zeros((9, 17, 3)))
    with pytest.raises(InputError, match=f"(?s){message}") as caught:
        read_manifest(folder)
    assert "index.csv" in str(caught.value)
    assert ". Fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        (
            "a,v.mp4,rnu,\n",
            "walk\nrun\n",
            "line 2, label = 'rnu': is not one of the 2 classes. Fix: did you mean 'run'",
        ),
        ("a,v.mp4,swimming,\n", "walk\nrun\n", "label = 'swimming': .* Fix: add it to classes.txt"),
        ("a,v.mp4,,2\n", "walk\nrun\n", "line 2, label_id = '2': there are 2 classes"),
        ("a,v.mp4,run,0\n", "walk\nrun\n", "line 2, label_id = '0': label 'run' is class 1, and class 0 is 'walk'"),
        ("a,v.mp4,run,\n", "walk\nrun\nwalk\n", r"classes\.txt line 3: class 'walk' was named on line 1"),
        ("a,v.mp4,run,\n", "walk\n\nrun\n", r"classes\.txt line 2: is empty"),
        ("a,v.mp4,run,\n", " \n\n", r"classes\.txt: names no class"),
    ],
)
def test_faults_of_classes(tmp_path: Path, rows: str, classes: str, message: str) -> None:
    write_folder(tmp_path, "clip_id,path,label,label_id\n" + rows, "v.mp4", classes=classes)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"clip_id,caption\na,x\nb,caf\xe9\n", r"index\.csv line 3: not UTF-8 \(byte b'\\xe9'\)"),
        ("clip_id,caption\na,x\n".encode("utf-16"), r"index\.csv line 1: not UTF-8"),
        (b"clip_id,caption\na,x\0y\n", r"index\.csv line 2: holds a NUL"),
        (b"clip_id,caption\na," + b"x" * 140_000 + b"\n", r"index\.csv line 2: not CSV"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_places_that_are_no_data(tmp_path: Path) -> None:
    for name in ("absent", "n" * 300, "\0"):
        with pytest.raises(InputError, match="does not exist"):
            read_manifest(tmp_path / name)
    with pytest.raises(InputError, match=r"holds no index\.csv and no video"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match=r"rows\.parquet: cannot be read as Parquet"):
        read_manifest(touch(tmp_path / "rows.parquet"))
    with pytest.raises(InputError, match=r"rows\.json: a \.json file. Fix: name a folder, a \.csv"):
        read_manifest(touch(tmp_path / "rows.json"))
    touch(tmp_path / "v.mp4")
    (tmp_path / "index.csv").symlink_to("gone.csv")
    with pytest.raises(InputError, match=r"index\.csv: cannot be read"):
        read_manifest(tmp_path)


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside" / "v.mp4")
    folder = write_folder(tmp_path / "set", "clip_id,path\na,link.mp4\n", "inside/v.mp4")
    link = folder / "link.mp4"
    link.symlink_to("inside/v.mp4")
    assert read_manifest(folder).rows[0].video_path == link
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(InputError, match=r"path = 'link\.mp4': is not below"):
        read_manifest(folder)
    link.unlink()
    link.symlink_to("link.mp4")
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(folder)
    (folder / "sub").symlink_to(outside.parent)
    write_folder(folder, "clip_id,path\na,sub/v.mp4\n")
    with pytest.raises(InputError, match=r"path = 'sub/v\.mp4': is not below"):
        read_manifest(folder)
    (tmp_path / "linked").symlink_to(folder)  # the data folder itself may be a link
    write_folder(folder, "clip_id,path\na,inside/v.mp4\n")
    assert read_manifest(tmp_path / "linked").name == "set"


def _linked_folder(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "more").symlink_to("sub")


def _closed_name(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")).touch()


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda folder: touch(folder / "a.json", "{"), r"a\.json line 1: not JSON"),
        (lambda folder: touch(folder / "a.json", "[]"), r"a\.json: holds a list"),
        (lambda folder: touch(folder / "a.json", '{"lable": "x"}'), r"unknown key 'lable'. Fix: did you mean label\?"),
        (lambda folder: touch(folder / "a.json", '{"label": 3}'), r"a\.json, label = '3': not a text"),
        (lambda folder: touch(folder / "a.json", '{"label": "\\ud800"}'), r"a\.json, label: .* not UTF-8"),
        (lambda folder: touch(folder / "a.json", '{"label": "sit"}'), "label = 'sit': is not one of the 1 classes"),
        (lambda folder: touch(folder / "run/b.json", '{"label": "sit"}'), "label 'sit' contradicts the folder 'run'"),
        (lambda folder: touch(folder / "b.json", '{"caption": "x"}'), r"b\.json: has a caption, and so has b\.txt"),
        (lambda folder: (folder / "a.txt").write_bytes(b"\n\xff"), r"a\.txt line 2: not UTF-8"),
        (lambda folder: touch(folder / "b.avi"), r"b\.txt: belongs to b.* and to another video"),
        (_linked_folder, "more: is a linked folder"),
        (_closed_name, "a file name in .* is not UTF-8"),
    ],
)
def test_faults_of_plain_folders(tmp_path: Path, plant: Callable[[Path], object], message: str) -> None:
    for name, text in (("a.mp4", ""), ("b.mp4", ""), ("b.txt", "text"), ("run/b.mp4", ""), ("classes.txt", "run")):
        touch(tmp_path / name, text)
    read_manifest(tmp_path)
    plant(tmp_path)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.lists(cell, min_size=1, max_size=4), max_size=5))
def test_any_table_is_read_or_refused_with_a_fix(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["clip_id", "caption", "label"], *rows])
    try:
        manifest: Manifest | None = read_manifest(folder)
        message = ""
    except InputError as error:
        manifest, message = None, str(error)
    if manifest is None:
        assert ". Fix: " in message
    else:
        assert all(row.clip_id == row.clip_id.strip() and row.caption for row in manifest.rows)
