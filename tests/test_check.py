"""``oskar check``: a planted fault of every kind is found, and a clean folder gives no alarm."""

import copy
import json
import os
import shutil
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from runs import CommandLine, forked, forked_command, noise_video, packed_folder, write_index, write_video

from oskar.data.audit.audit import check
from oskar.data.audit.captions import audit_captions, has_label
from oskar.data.audit.findings import KINDS
from oskar.data.audit.sets import audit_sets
from oskar.data.manifest import read_manifest
from oskar.data.rows import Row
from oskar.errors import InputError
from oskar.tokens.words import train_words

SIZE, N_FRAMES = 32, 12


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def joints_file(path: Path, joints: NDArray[Any] | None = None, **arrays: NDArray[Any]) -> str:
    """One person in pixels, drawn anew from the file's name, whose box surrounds them."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    joints = rng.uniform(4, 28, (N_FRAMES, 17, 2)).astype(np.float32) if joints is None else joints
    boxes = np.tile(np.array([2.0, 2.0, 30.0, 30.0], np.float32), (len(joints), 1))
    named = {"layout": np.array("COCO-17"), "units": np.array("pixels"), "boxes": boxes} | arrays
    np.savez(path, allow_pickle=False, joints=joints, **named)
    return path.name


def clean_rows(folder: Path) -> list[dict[str, object]]:
    """Eight clips with video, joints, boxes and captions, four people, two classes in each split."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for i in range(8):
        noise_video(folder / f"v{i}.mkv", N_FRAMES, seed=i, size=SIZE)
        rows.append(
            {
                "clip_id": f"c{i}",
                "path": f"v{i}.mkv",
                "joints_path": joints_file(folder / f"j{i}.npz"),
                "caption": f"somebody moves number {i}",
                "label": ("wave", "bow")[i % 2],
                "subject": f"p{i // 2}",
                "split": ("train", "test")[i // 4],
                "n_frames": N_FRAMES,
            }
        )
    return rows


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    return clean_rows(tmp_path / "set")


def kinds(audit: dict[str, Any]) -> dict[str, list[str]]:
    """The clips of every kind that was found."""
    found: dict[str, list[str]] = {}
    for finding in audit["findings"]:
        found.setdefault(finding["kind"], []).extend(finding["clip_ids"])
    return found


def test_a_clean_folder_gives_no_alarm(rows: list[dict[str, object]], tmp_path: Path, oskar: CommandLine) -> None:
    folder = write_index(tmp_path / "set", rows)
    code, printed = oskar("check", folder, "--workers", 1)
    assert code == 0
    assert "8 of 8 clips checked" in printed
    assert "nothing found" in printed
    audit = json.loads((folder / "audit.json").read_text())
    assert (audit["format"], audit["version"], audit["findings"]) == ("oskar-audit", 1, [])
    assert audit["counts"]["splits"] == {"test": 4, "train": 4}
    assert audit["counts"]["modalities"] == {"skeleton": 8, "text": 8, "video": 8}
    facts = audit["clips"]["c3"]
    assert (facts["n_frames"], facts["width"], facts["codec"], facts["rotation_degrees"]) == (12, 32, "ffv1", 0)
    assert (facts["n_joint_frames"], facts["usable_joint_share"]) == (12, 1.0)
    assert not (folder / "quarantine.csv").exists()
    assert not list(folder.glob("*checked*"))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def long_video(path: Path, n_frames: int = 60) -> Path:
    """An mp4 whose index stands in front, so that a cut leaves a readable header."""
    frames = np.random.default_rng(9).integers(0, 256, (n_frames, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


Plant = Callable[[Path, list[dict[str, object]]], None]


def empty_video(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "v0.mkv").write_bytes(b"")


def no_video(folder: Path, rows: list[dict[str, object]]) -> None:
    (folder / "v0.mkv").write_text("this is a text")


def cut_video(folder: Path, rows: list[dict[str, object]]) -> None:
    cut(long_video(folder / "v.mp4"), 0.5)
    rows[0] |= {"path": "v.mp4", "n_frames": "", "joints_path": ""}


def wrong_length(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["n_frames"] = 99


def wrong_rate(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["fps"] = 99


def wrong_shape(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0] |= {"width": 64, "height": 32}


def wrong_joint_count(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", np.full((N_FRAMES, 13, 2), 9, np.float32))


def unknown_layout(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", layout=np.array("Coco-18"))


def no_usable_joint(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", np.zeros((N_FRAMES, 17, 2), np.float32))


def cut_joints(folder: Path, rows: list[dict[str, object]]) -> None:
    cut(folder / "j0.npz", 0.5)


def nan_joints(folder: Path, rows: list[dict[str, object]]) -> None:
    joints = np.random.default_rng(5).uniform(4, 28, (N_FRAMES, 17, 2)).astype(np.float32)
    joints[3, 4] = np.nan
    joints_file(folder / "j0.npz", joints)


def far_joints(folder: Path, rows: list[dict[str, object]]) -> None:
    joints = np.random.default_rng(5).uniform(40, 90, (N_FRAMES, 17, 2)).astype(np.float32)
    joints_file(folder / "j0.npz", joints, boxes=np.tile(np.array([30, 30, 95, 95], np.float32), (N_FRAMES, 1)))


def short_joints(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", np.random.default_rng(5).uniform(4, 28, (5, 17, 2)).astype(np.float32))


def inside_out_boxes(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", boxes=np.tile(np.array([30, 2, 4, 30], np.float32), (N_FRAMES, 1)))


def boxes_elsewhere(folder: Path, rows: list[dict[str, object]]) -> None:
    joints_file(folder / "j0.npz", boxes=np.tile(np.array([0, 0, 3, 3], np.float32), (N_FRAMES, 1)))


def empty_caption(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["caption"] = "  "


def long_caption(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["caption"] = "somebody " * 300


def broken_caption(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["caption"] = "somebody \ufffd\ufffd moves"


def leaking_caption(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["caption"] = "somebody will Wave at me"


def copied_file(folder: Path, rows: list[dict[str, object]]) -> None:
    shutil.copy(folder / "v1.mkv", folder / "v0.mkv")


def copied_joints(folder: Path, rows: list[dict[str, object]]) -> None:
    shutil.copy(folder / "j1.npz", folder / "j0.npz")


def shared_subject(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["subject"] = "p3"


def class_only_tested(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[6]["label"] = "jump"


def lost_split(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["split"] = ""


def lost_file(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["path"] = "gone.mkv"


def outside(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["path"] = "../secret.mkv"


def repeated_id(folder: Path, rows: list[dict[str, object]]) -> None:
    rows[0]["clip_id"] = "c1"


PLANTED: list[tuple[Plant, str, set[str], bool]] = [
    (empty_video, "video", {"c0"}, True),
    (no_video, "video", {"c0"}, True),
    (cut_video, "truncated", {"c0"}, True),
    (wrong_length, "video_facts", {"c0"}, False),
    (wrong_rate, "video_facts", {"c0"}, False),
    (wrong_shape, "video_facts", {"c0"}, False),
    (wrong_joint_count, "joints", {"c0"}, True),
    (unknown_layout, "joints", {"c0"}, True),
    (no_usable_joint, "joints", {"c0"}, True),
    (cut_joints, "joints", {"c0"}, True),
    (nan_joints, "joints_not_finite", {"c0"}, False),
    (far_joints, "joints_range", {"c0"}, False),
    (short_joints, "lengths", {"c0"}, True),
    (inside_out_boxes, "boxes", {"c0"}, False),
    (boxes_elsewhere, "boxes", {"c0"}, False),
    (empty_caption, "caption_empty", {"c0"}, False),
    (long_caption, "caption_long", {"c0"}, False),
    (broken_caption, "caption_characters", {"c0"}, False),
    (leaking_caption, "caption_has_label", {"c0"}, False),
    (copied_file, "same_file", {"c0", "c1"}, False),
    (copied_joints, "same_joints", {"c0", "c1"}, False),
    (shared_subject, "subject_in_splits", {"c0", "c6", "c7"}, False),
    (class_only_tested, "class_without_training", {"c6"}, False),
    (lost_split, "no_split", {"c0"}, False),
    (lost_file, "row", {"c0"}, True),
    (outside, "row", {"c0"}, True),
    (repeated_id, "row", set(), False),
]


@pytest.mark.parametrize(("plant", "kind", "clips", "is_quarantined"), PLANTED, ids=[p[0].__name__ for p in PLANTED])
def test_every_planted_fault_is_found_and_nothing_else(
    plant: Plant,
    kind: str,
    clips: set[str],
    is_quarantined: bool,
    rows: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "set"
    plant(folder, rows)
    write_index(folder, rows)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    audit = check(folder, workers=1)
    assert {name: set(ids) for name, ids in kinds(audit).items()} == {kind: clips}
    assert audit["findings"][0]["fix"]
    quarantine = folder / "quarantine.csv"
    listed = [line.split(",")[0] for line in quarantine.read_text().splitlines()[1:]] if quarantine.exists() else []
    assert listed == (["c0"] if is_quarantined else [])
    assert all(path.read_bytes() == data for path, data in before.items())  # nothing is changed or deleted


def test_the_planted_faults_are_of_every_kind() -> None:
    elsewhere = {"index", "same_picture"}
    assert {kind for _, kind, _, _ in PLANTED} == set(KINDS) - elsewhere


def test_all_faults_of_a_list_are_found_in_one_go(rows: list[dict[str, object]], tmp_path: Path) -> None:
    rows[0]["path"], rows[1]["n_frames"], rows[2]["label"] = "gone.mkv", "many", "bow"
    rows[3]["joints_path"] = "j3.txt"
    audit = check(write_index(tmp_path / "set", rows), workers=1)
    found = {finding["clip_ids"][0]: finding["message"] for finding in audit["findings"] if finding["kind"] == "row"}
    assert set(found) == {"c0", "c1", "c3"}
    assert "line 2, path" in found["c0"]
    assert "line 3, n_frames = 'many'" in found["c1"]
    assert (audit["n_listed"], audit["n_checked"], audit["n_quarantined"]) == (8, 5, 3)


@pytest.mark.parametrize("text", ["", "clip_id,lable\n", "clip_id,path\nv0\n"])
def test_a_list_that_cannot_be_read_is_a_finding(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    audit = check(tmp_path, workers=1)
    assert [finding["kind"] for finding in audit["findings"]] == ["index"]
    assert audit["n_listed"] == 0


def test_a_plain_folder_with_a_broken_sidecar(tmp_path: Path) -> None:
    for i in range(3):
        noise_video(tmp_path / f"v{i}.mkv", seed=i)
    (tmp_path / "v1.json").write_text("{")
    audit = check(tmp_path, workers=1)
    assert kinds(audit) == {"row": ["v1"]}
    assert audit["n_checked"] == 3


def test_a_copy_in_another_codec_and_size_is_seen_across_splits(rows: list[dict[str, object]], tmp_path: Path) -> None:
    """The copy of c0 is half as large and lossy; c1 and c2 are as bright, but are not copies."""
    folder = tmp_path / "set"
    yy, xx = np.mgrid[0:64, 0:64]
    for i, place in enumerate((10, 30, 50)):
        times = np.arange(N_FRAMES)[:, None, None]
        blob = 255 * np.exp(-((xx - 5 * times) ** 2 + (yy - place) ** 2) / 300)
        write_video(folder / f"v{i}.mkv", np.repeat(blob[..., None], 3, -1).astype(np.uint8))
        if i == 0:
            small = blob[:, ::2, ::2]
            with av.open(str(folder / "copy.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=25)
                stream.width = stream.height = 32
                stream.pix_fmt = "yuv420p"
                for frame in np.repeat(small[..., None], 3, -1).astype(np.uint8):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
                container.mux(stream.encode())
    rows[4]["path"] = "copy.mp4"  # a test clip
    audit = check(write_index(folder, rows), workers=1)
    assert {name: set(ids) for name, ids in kinds(audit).items()} == {"same_picture": {"c0", "c4"}}
    assert audit["n_quarantined"] == 0


def test_copies_across_splits_leave_training_only(rows: list[dict[str, object]], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copy(folder / "v1.mkv", folder / "v6.mkv")
    audit = check(write_index(folder, rows), workers=1)
    (finding,) = audit["findings"]
    assert (finding["kind"], finding["severity"], finding["quarantined"]) == ("same_file", "error", ["c1"])
    assert [row.clip_id for row in read_manifest(folder, quarantine="honour").rows] == [
        f"c{i}" for i in range(8) if i != 1
    ]
    assert len(read_manifest(folder).rows) == 8


def test_pretraining_honours_the_quarantine_and_evaluation_counts_it_wrong(
    rows: list[dict[str, object]], tmp_path: Path, oskar: CommandLine
) -> None:
    folder = tmp_path / "set"
    rows[0]["path"] = "gone.mkv"
    (folder / "v1.mkv").write_bytes(b"")
    (folder / "v5.mkv").write_bytes(b"")  # of the test split
    write_index(folder, rows)
    code, printed = oskar("check", folder, "--workers", 1)
    assert code == 2
    assert "3 errors, 3 clips in quarantine" in printed
    words = ["pretrain", "oskar-demo", "--data", folder, "train.steps=2", "train.batch_size=2", "tokens.resolution=32"]
    words += ['tokens.modalities=["video"]', "train.log_every_steps=1", "data.workers=0"]
    code, printed = oskar(*words, "--out", tmp_path / "run")
    assert code == 0, printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["n_clips"], summary["n_quarantined"], summary["bad_clips"]) == (2, 3, {})
    code, printed = oskar(*words, "--out", tmp_path / "other", "data.quarantine=ignore")
    assert code == 2
    assert "gone.mkv" in printed
    rows[0]["path"] = "v2.mkv"
    write_index(folder, rows)
    code, printed = oskar("evaluate", tmp_path / "run", "--data", folder, "steps=2", "--out", tmp_path / "evaluation")
    assert code == 0, printed
    evaluation = json.loads((tmp_path / "evaluation" / "summary.json").read_text())
    assert (evaluation["n_expected"], evaluation["n_evaluated"]) == (4, 3)
    assert list(evaluation["bad_clips"]) == ["set/c5"]


def test_a_quarantine_of_everything_and_a_broken_one_are_named(rows: list[dict[str, object]], tmp_path: Path) -> None:
    folder = write_index(tmp_path / "set", rows)
    quarantine = folder / "quarantine.csv"
    quarantine.write_text("clip_id,kind,reason\n" + "".join(f"c{i},video,x\n" for i in range(8)))
    with pytest.raises(InputError, match=r"all 8 clips are in quarantine.*data\.quarantine=ignore"):
        read_manifest(folder, quarantine="honour")
    quarantine.write_text("id\nc0\n")
    with pytest.raises(InputError, match=r"quarantine\.csv: has a line without clip_id"):
        read_manifest(folder, quarantine="honour")


def test_a_mended_folder_loses_its_quarantine(rows: list[dict[str, object]], tmp_path: Path) -> None:
    folder = write_index(tmp_path / "set", rows)
    whole = (folder / "v0.mkv").read_bytes()
    (folder / "v0.mkv").write_bytes(b"")
    assert check(folder, workers=1)["n_quarantined"] == 1
    (folder / "v0.mkv").write_bytes(whole)
    assert check(folder, workers=1)["n_quarantined"] == 0
    assert not (folder / "quarantine.csv").exists()


def test_the_list_of_another_manifest_carries_its_name(rows: list[dict[str, object]], tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "v0.mkv").write_bytes(b"")
    write_index(folder, rows)
    (folder / "index.csv").rename(folder / "mine.csv")
    check(folder / "mine.csv", workers=1)
    assert (folder / "mine.quarantine.csv").exists()
    assert (folder / "mine.audit.json").exists()
    assert read_manifest(folder / "mine.csv", quarantine="honour").n_quarantined == 1


def test_an_audit_killed_on_the_way_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    rows: list[dict[str, object]] = []
    for i in range(48):
        noise_video(folder / f"v{i}.mkv", 40, seed=i, size=96)
        rows.append({"clip_id": f"c{i}", "path": f"v{i}.mkv"})
    write_index(folder, rows)
    record = folder / "audit.checked.jsonl"
    child = forked(lambda: check(folder, workers=1), tmp_path / "log")
    deadline = time.monotonic() + 60
    while not (record.exists() and record.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert record.exists()
    assert not (folder / "audit.json").exists()
    with record.open("a") as stream:
        stream.write('{"identity": "cut')  # what a kill within a write leaves
    lines = record.read_text().splitlines()[:-1]
    assert lines
    first = json.loads(lines[0])
    first["audit"]["facts"]["codec"] = "remembered"
    record.write_text("\n".join([json.dumps(first), *lines[1:], '{"identity": "cut']))
    audit = check(folder, workers=1)
    assert audit["clips"]["c0"]["codec"] == "remembered"
    assert audit["n_checked"] == 48
    assert all(facts["codec"] == "ffv1" for name, facts in audit["clips"].items() if name != "c0")
    assert not record.exists()


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    folder = packed_folder(tmp_path / "set", 80)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    log = tmp_path / "log"
    for name, workers in (("one", 1), ("two", 2)):
        child = forked_command(log, "check", folder, "--out", tmp_path / name, "--workers", workers)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, log.read_text()
    assert (tmp_path / "one" / "audit.json").read_text() == (tmp_path / "two" / "audit.json").read_text()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["people"], ("no files to check", "name a folder")),
        (["nowhere"], ("nowhere", "does not exist")),
        ([".", "--split-column", "fold"], ("fold", "to take the splits from")),
    ],
)
def test_what_cannot_be_checked_is_named(
    words: list[str], parts: tuple[str, ...], rows: list[dict[str, object]], tmp_path: Path, oskar: CommandLine
) -> None:
    folder = write_index(tmp_path / "set", rows)
    code, printed = oskar("check", *[str(folder) if word == "." else word for word in words])
    assert code == 2
    for part in parts:
        assert part in printed


@pytest.mark.parametrize(
    ("caption", "label", "is_found"),
    [
        ("a man is pulling up his trousers", "pullup", False),
        ("she is doing a pull up.", "pull_up", True),
        ("a Golf swing", "golf", True),
        ("golfing", "golf", False),
        ("he climbs the stairs", "climb_stairs", False),
        ("to climb stairs", "ClimbStairs", True),
        ("two people", "2", False),
        ("room 2", "2", False),
        ("anything", None, False),
    ],
)
def test_a_label_in_a_caption(caption: str, label: str | None, is_found: bool) -> None:
    assert has_label(caption, label) is is_found


def test_words_that_a_tokenizer_does_not_know() -> None:
    words = train_words(["somebody moves"], 60)
    known = Row(clip_id="a", caption="somebody moves")
    greek = Row(clip_id="b", caption="somebody κινείται")
    (finding,) = audit_captions([known, greek], [], words)
    assert finding.clip_ids == ("b",)
    assert "κινειται" in finding.message


def test_an_error_crosses_processes_with_its_fix() -> None:
    error = InputError("x = 1", fix="use 2")
    again = copy.copy(error)
    assert (type(again), str(again)) == (InputError, "x = 1. Fix: use 2")


def test_sets_without_splits_or_labels_have_nothing_to_say() -> None:
    assert audit_sets([Row(clip_id="a", caption="x"), Row(clip_id="b", caption="y")], {}) == []
