"""Manifests: every real folder as its README says, every planted fault named."""

import csv
import hashlib
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oskar.data.manifest import fingerprint, read_manifest, read_manifests, select
from oskar.errors import InputError

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"
Modalities = tuple[str, ...]


def real(name: str) -> Path:
    if not (DATA_DIR / name).is_dir():
        pytest.skip(f"real data not there: {name}")
    return DATA_DIR / name


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


# Real folders: figures of the READMEs. Rows, classes, (train, test, none), modalities, composed captions.
@pytest.mark.parametrize(
    ("name", "n_classes", "splits", "modalities", "n_composed"),
    [
        ("utd_mhad", 27, (323, 323, 0), {("video", "skeleton", "text"): 646}, 646),
        ("jhmdb_masks", 21, (336, 135, 241), {("video", "skeleton", "text"): 471, ("video", "text"): 241}, 0),
        ("pushup", 2, (145, 58, 0), {("video", "skeleton", "text"): 203}, 203),
        ("basketball", 5, (159, 63, 0), {("video", "text"): 222}, 222),
        ("gmdcsa24", 2, (0, 0, 15), {("video", "text"): 15}, 0),
        ("nw_ucla", 10, (829, 368, 0), {("skeleton", "text"): 1197}, 1197),
        ("msr_action3d", 20, (229, 202, 0), {("skeleton", "text"): 431}, 431),
        ("utkinect", 10, (80, 80, 0), {("skeleton", "text"): 160}, 160),
        ("kard", 18, (216, 216, 0), {("skeleton", "text"): 432}, 432),
        ("penn_action_labels", 15, (1041, 848, 0), {("skeleton", "text"): 1889}, 1889),
        ("sample_videos", 0, (0, 0, 10), {("video",): 10}, 0),
    ],
)
def test_real_folders_are_as_their_readmes_say(
    name: str, n_classes: int, splits: tuple[int, int, int], modalities: dict[Modalities, int], n_composed: int
) -> None:
    manifest = read_manifest(real(name))
    assert (manifest.name, len(manifest.rows), len(manifest.classes)) == (name, sum(splits), n_classes)
    assert tuple(Counter(row.split for row in manifest.rows)[s] for s in ("train", "test", None)) == splits
    assert Counter(row.modalities for row in manifest.rows) == modalities
    assert sum(row.is_caption_composed for row in manifest.rows) == n_composed
    with (DATA_DIR / name / "index.csv").open(encoding="utf-8", newline="") as file:
        for row, listed in zip(manifest.rows, csv.DictReader(file), strict=True):
            assert row.label == listed.get("label")
            assert row.label_id == (int(listed["label_id"]) if "label_id" in listed else None)
            assert (row.caption or "") == listed.get("caption", "").strip()
            assert row.n_frames == int(listed["n_frames"])


def test_real_details() -> None:
    row = read_manifest(real("jhmdb_masks")).rows[0]
    assert row.video_path == DATA_DIR / "jhmdb_masks" / "videos" / "brush_hair_000.mp4"
    assert row.joints_path == DATA_DIR / "jhmdb_masks" / "joints" / "brush_hair_000.npz"
    assert not row.has_joints
    assert (row.group, row.fps, row.width, row.height) == ("brush_hair/April_09", 25.0, 320, 240)
    assert row.metadata["jhmdb_name"] == "April_09_brush_hair_u_nm_np1_ba_goo_0"
    ids = [row.clip_id for row in read_manifest(real("sample_videos")).rows]
    assert "mmaction2__demo" in ids  # the stem of its file
    assert "videos/mmaction2__test.avi" in ids  # two files share this stem
    assert read_manifest(real("utkinect")).rows[1].packed_rows == (48, 62)
    with pytest.raises(InputError, match=r"index\.csv line 2, path = .*\.skeleton': holds joints"):
        read_manifest(real("ntu_samples"))
    with pytest.raises(InputError, match=r"name a manifest: tubes\.csv"):
        read_manifest(real("ucf101_24_boxes"))


def test_other_split_columns() -> None:
    folder = real("jhmdb_masks")
    assert read_manifest(folder).split_column == "split1"
    second = read_manifest(folder, split_column="split2")
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        expected = [listed["split2"] or None for listed in csv.DictReader(file)]
    assert [row.split for row in second.rows] == expected
    assert second.rows[-1].metadata["split1"] == read_manifest(folder).rows[-1].split
    with pytest.raises(InputError, match=r"no column 'split4'.*use one of split1, split2, split3"):
        read_manifest(folder, split_column="split4")


def test_selecting_splits() -> None:
    manifest = read_manifest(real("jhmdb_masks"))
    assert len(select(manifest, split="train").rows) == 336
    assert len(select(manifest, split="train", keep_unsplit=True).rows) == 336 + 241
    assert select(manifest, split=None) is manifest
    with pytest.raises(InputError, match=r"no clip of split 'val'. Fix: use one of test, train"):
        select(manifest, split="val")
    unsplit = read_manifest(real("gmdcsa24"))
    assert len(select(unsplit, split="train", keep_unsplit=True).rows) == 15
    with pytest.raises(InputError, match=r"no clip of split 'train'\. Fix: fill the column"):
        select(unsplit, split="train")


def test_real_plain_folder_of_videos() -> None:
    manifest = read_manifest(real("sample_videos") / "videos")
    assert len(manifest.rows) == 10
    assert {row.modalities for row in manifest.rows} == {("video",)}
    assert {"mmaction2__demo", "mmaction2__test.avi", "mmaction2__test.mp4"} <= {row.clip_id for row in manifest.rows}


# Folders with an index


def test_all_columns_of_a_row(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "set",
        "\ufeffclip_id,path,joints_path,caption,label,label_id,split,subject,group,n_frames,fps,width,height,x_place,view\r\n"
        'a,v/a.mp4,j/a.npz,"a man, walking",walk,0,train,s1,g1,48,29.97,320,240,garden,3\r\n'
        "\r\n"
        " b , v/b.MKV ,,   ,,,,,,,,,,,\r\n",
        "v/a.mp4",
        "v/b.MKV",
        "j/a.npz",
    )
    first, second = read_manifest(folder).rows
    assert (first.clip_id, first.caption, first.label, first.label_id) == ("a", "a man, walking", "walk", 0)
    assert (first.split, first.subject, first.group) == ("train", "s1", "g1")
    assert (first.n_frames, first.fps, first.width, first.height) == (48, 29.97, 320, 240)
    assert dict(first.metadata) == {"x_place": "garden", "view": "3"}
    assert first.modalities == ("video", "skeleton", "text")
    assert second == replace(second, clip_id="b", caption=None, label=None, label_id=None, split=None, n_frames=None)
    assert second.video_path == folder / "v/b.MKV"
    assert second.modalities == ("video",)
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301
    assert len({first, second}) == 2


def test_a_manifest_file_beside_its_videos(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", "clip_id,path,label\na,v/a.mp4,run\n", "v/a.mp4", classes="walk\nrun\n\n")
    file = (tmp_path / "set" / "index.csv").rename(tmp_path / "set" / "train.csv")
    manifest = read_manifest(str(file))
    assert (manifest.name, manifest.classes) == ("set.train", ("walk", "run"))
    assert manifest.rows[0].video_path == tmp_path / "set" / "v" / "a.mp4"
    assert manifest.rows[0].label_id == 1


def test_text_alone_is_a_clip_and_long_captions_stay_whole(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, f"clip_id,caption\na,{'long ' * 2000}\n")
    row = read_manifest(folder).rows[0]
    assert row.modalities == ("text",)
    assert row.caption is not None
    assert len(row.caption) == 9_999


def test_the_order_of_classes(tmp_path: Path) -> None:
    def classes(index: str) -> tuple[str, ...]:
        return read_manifest(write_folder(tmp_path, index)).classes

    assert classes("clip_id,caption,label\na,x,run\nb,x,jump\nc,x,\n") == ("jump", "run")
    assert classes("clip_id,caption,label,label_id\na,x,run,0\nb,x,jump,1\nc,x,jump,\n") == ("run", "jump")
    assert classes("clip_id,caption,label_id\na,x,1\nb,x,0\n") == ("0", "1")
    assert classes("clip_id,caption\na,x\n") == ()
    folder = write_folder(tmp_path, "clip_id,caption,label_id\na,x,1\nb,x,\n", classes="walk\r\nrun\r\n")
    first, second = read_manifest(folder).rows
    assert (first.label, first.label_id) == ("run", 1)
    assert (second.label, second.label_id) == (None, None)


def test_composed_captions_without_a_source(tmp_path: Path) -> None:
    def flags(*rows: str) -> list[bool]:
        index = "clip_id,label,caption,caption_source\n" + "".join(f"c{i},{row}\n" for i, row in enumerate(rows))
        return [row.is_caption_composed for row in read_manifest(write_folder(tmp_path, index)).rows]

    assert flags("run,a person runs,", "run,a person runs,", "sit,a person sits,") == [True, True, True]
    assert flags("run,a person runs,", "run,she runs,", "sit,a person sits,") == [False, False, False]
    assert flags("run,a person runs,", "sit,a person sits,") == [False, False]  # nothing repeats
    assert flags("run,one,written", "run,one,written", "sit,two,composed by rule") == [False, False, True]
    assert flags(",one,", ",one,") == [False, False]


def write_packed(folder: Path, index: str, offsets: object | None = (0, 4, 9)) -> Path:
    write_folder(folder, index)
    joints = np.zeros((9, 17, 3), np.float32)
    if offsets is None:
        np.savez(folder / "skeletons.npz", joints=joints)
    else:
        np.savez(folder / "skeletons.npz", joints=joints, offsets=np.asarray(offsets))
    return folder


def test_packed_rows(tmp_path: Path) -> None:
    manifest = read_manifest(write_packed(tmp_path, "clip_id,row,start,end\na,0,0,4\nb,1,4,9\n"))
    assert [row.packed_rows for row in manifest.rows] == [(0, 4), (4, 9)]
    assert manifest.packed_path == tmp_path / "skeletons.npz"
    assert {row.modalities for row in manifest.rows} == {("skeleton",)}
    read_manifest(write_packed(tmp_path, "clip_id,start,end\na,2,7\n"))
    read_manifest(write_packed(tmp_path, "clip_id,row,start,end\na,7,2,700\n", offsets=None))


def test_missing_files_may_be_kept(tmp_path: Path) -> None:
    index = "clip_id,path,joints_path,start,end\na,v.mp4,,,\nb,gone.mp4,gone.npz,,\nc,v.mp4,,0,4\n"
    folder = write_folder(tmp_path, index, "v.mp4")
    with pytest.raises(InputError, match=r"line 3, path = 'gone\.mp4'|skeletons\.npz: cannot be read"):
        read_manifest(folder)
    rows = read_manifest(folder, missing="keep").rows
    assert [row.missing for row in rows] == [(), ("path", "joints_path"), ("start",)]
    assert rows[1].video_path == folder / "gone.mp4"
    (folder / "v.mp4").unlink()
    with pytest.raises(InputError, match=r"none of the listed files is there, the first is path = 'v\.mp4'"):
        read_manifest(folder, missing="keep")


# Plain folders


def test_a_plain_folder_with_sidecars(tmp_path: Path) -> None:
    for name in ("run/b.MP4", "run/c.webm", "odd/a.avi", "top.mkv", ".hidden/d.mp4", "run/._b.mp4", "notes.md"):
        touch(tmp_path / name)
    touch(tmp_path / "classes.txt", "walk\nrun\n")
    touch(tmp_path / "run" / "b.txt", " a man runs\n")
    touch(tmp_path / "run" / "b.npz")
    touch(tmp_path / "run" / "c.txt", "\n")
    details = '{"caption": "a dog", "label": "walk", "split": "test", "subject": null, "x_take": 3}'
    touch(tmp_path / "odd" / "a.json", details)
    rows = {row.clip_id: row for row in read_manifest(tmp_path).rows}
    assert list(rows) == ["odd/a", "run/b", "run/c", "top"]
    a, b, c, top = rows.values()
    assert (b.caption, b.label, b.label_id, b.joints_path) == ("a man runs", "run", 1, tmp_path / "run" / "b.npz")
    assert b.modalities == ("video", "skeleton", "text")
    assert (a.caption, a.label, a.split, a.subject) == ("a dog", "walk", "test", None)
    assert dict(a.metadata) == {"folder": "odd", "x_take": "3"}
    assert (c.caption, c.label) == (None, "run")
    assert (top.label, dict(top.metadata)) == (None, {})


def test_folder_names_are_no_labels_by_themselves(tmp_path: Path) -> None:
    touch(tmp_path / "run" / "a.mp4")
    manifest = read_manifest(tmp_path)
    assert manifest.classes == ()
    assert manifest.rows[0].label is None
    assert manifest.rows[0].metadata["folder"] == "run"


# Pooling and fingerprints


def test_pooled_ids_are_unique(tmp_path: Path) -> None:
    for parent in ("x", "y", "z"):
        write_folder(tmp_path / parent / "set", "clip_id,caption\na,text\n")
    folders = [tmp_path / parent / "set" for parent in ("x", "y", "z")]
    pooled = read_manifests(folders)
    assert [manifest.rows[0].clip_id for manifest in pooled] == ["set/a", "set~2/a", "set~3/a"]
    assert [manifest.name for manifest in pooled] == ["set", "set~2", "set~3"]
    with pytest.raises(InputError, match="given twice"):
        read_manifests([folders[0], folders[1], folders[0] / "index.csv"])


def test_fingerprint_follows_labels_not_places(tmp_path: Path) -> None:
    index = "clip_id,caption,label,split\na,one,run,train\nb,two,sit,test\n"
    manifest = read_manifest(write_folder(tmp_path / "x", index))
    lines = '["a", "run", 0, "train"]\n["b", "sit", 1, "test"]'
    assert fingerprint(manifest) == hashlib.sha256(lines.encode()).hexdigest()
    moved = write_folder(tmp_path / "y", "clip_id,split,label,caption\nb,test,sit,two\na,train,run,one\n")
    assert fingerprint(*read_manifests([moved])) == fingerprint(manifest)
    first, second = manifest.rows
    changes = (replace(first, split="test"), replace(first, label="sit"), replace(first, clip_id="c"))
    others = [replace(manifest, rows=(changed, second)) for changed in changes]
    others += [replace(manifest, rows=(second,)), replace(manifest, rows=())]
    assert len({fingerprint(other) for other in (manifest, *others)}) == 6
