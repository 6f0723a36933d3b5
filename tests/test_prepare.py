"""``oskar prepare`` from a folder of videos to data that trains, with every fault listed and no kill harmful."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pose_files import (
    alphapose_of,
    coco_of,
    make_video,
    moving_person,
    shares,
    write_json,
    write_openpose,
)
from pose_graphs import candidates, constant_model
from runs import TINY, CommandLine, write_index
from test_pyskl import flat_item
from torch import Tensor

from oskar.data.decoding import iter_all
from oskar.data.manifest import read_manifest
from oskar.data.video_file import VideoError
from oskar.errors import InputError
from oskar.preparation.engines import ENGINES, Tasks, run_local
from oskar.preparation.listing import Roots, list_tasks
from oskar.preparation.models import pose_model
from oskar.preparation.plan import Plan
from oskar.preparation.prepare import Backends, prepare
from oskar.preparation.settings import PeopleConfig, PrepareConfig
from oskar.tokens.layouts import INTERNAL

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Four videos: poses and a caption, poses by OpenPose and details, in a sub-folder and bare, and one of no use."""
    folder = tmp_path / "clips"
    for i, name in enumerate(("a.mkv", "b.mkv", "sub/c.mkv")):
        make_video(folder / name, i)
    (folder / "d.mp4").write_bytes(b"no video at all")
    write_json(folder / "a.json", coco_of(moving_person(0)))
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nsomebody runs, and falls\n")
    write_openpose(folder / "b", moving_person(1))
    write_json(folder / "b.json", {"caption": "a person\nwaves", "label": "wave", "split": "train", "x_camera": 3})
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        return {row["clip_id"]: {k: v for k, v in row.items() if v} for row in csv.DictReader(stream)}


def reasons_of(summary: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(problem["video"], problem["part"]): problem["reason"] for problem in summary["problems"]}


def test_a_folder_becomes_a_manifest(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    summary = prepare(videos, out, workers=1)
    facts = {"n_frames": "6", "fps": "25", "width": "64", "height": "48"}
    assert rows_of(out) == {
        "a": {
            "clip_id": "a",
            "path": "videos/a.mkv",
            "joints_path": "joints/a.npz",
            **facts,
            "caption": "somebody runs, and falls",
            "x_caption_source": "srt",
            "x_pose_source": "coco",
            "x_people": "1",
        },
        "b": {
            "clip_id": "b",
            "path": "videos/b.mkv",
            "joints_path": "joints/b.npz",
            **facts,
            "caption": "a person waves",
            "label": "wave",
            "split": "train",
            "x_camera": "3",
            "x_caption_source": "given",
            "x_pose_source": "openpose",
            "x_people": "1",
        },
        "sub/c": {"clip_id": "sub/c", "path": "videos/sub/c.mkv", "x_folder": "sub", **facts},
    }
    with np.load(out / "joints" / "a.npz") as arrays:
        assert (str(arrays["layout"]), str(arrays["units"])) == ("COCO-17", "share")
        np.testing.assert_allclose(arrays["joints"][0], shares(moving_person(0)), atol=2e-6)
        assert arrays["joints"].shape == (1, 6, 17, 3)
        assert arrays["boxes"].shape == (1, 6, 4)
    written = json.loads((out / "prepare.json").read_text())
    assert written == summary
    assert (written["format"], written["version"]) == ("oskar-preparation", 1)
    assert (written["n_videos"], written["n_clips"], written["n_with_poses"], written["n_with_caption"]) == (4, 3, 2, 2)
    assert (written["poses_by_source"], written["captions_by_source"]) == (
        {"coco": 1, "openpose": 1},
        {"srt": 1, "given": 1},
    )
    (problem,) = written["problems"]
    assert (problem["video"], problem["part"]) == ("d.mp4", "video")
    assert "Fix: " in problem["reason"]


def test_what_is_made_trains(videos: Path, tmp_path: Path, oskar: CommandLine) -> None:
    code, printed = oskar("prepare", videos, "--out", tmp_path / "data", "--workers", 1)
    assert code == 0
    assert "4 videos: 3 clips, 2 with poses, 2 with captions; 1 problems" in printed
    assert "d.mp4" in printed
    settings = [*TINY, "data.captions=written", "train.steps=2", "train.batch_size=3"]
    code, printed = oskar("pretrain", "oskar-tiny", "--data", tmp_path / "data", "--out", tmp_path / "run", *settings)
    assert code == 0, printed
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["samples_seen"] == 6


def test_videos_are_linked_copied_or_left_where_they_are(videos: Path, tmp_path: Path) -> None:
    prepare(videos, tmp_path / "linked", workers=1)
    assert os.path.samefile(tmp_path / "linked" / "videos" / "a.mkv", videos / "a.mkv")
    prepare(videos, tmp_path / "copied", workers=1, copy_videos=True)
    copy = tmp_path / "copied" / "videos" / "a.mkv"
    assert not os.path.samefile(copy, videos / "a.mkv")
    assert copy.read_bytes() == (videos / "a.mkv").read_bytes()
    prepare(videos, videos, workers=1)
    assert rows_of(videos)["sub/c"]["path"] == "sub/c.mkv"
    assert not (videos / "videos").exists()
    read_manifest(videos)


def test_a_folder_inside_the_videos_is_not_taken_for_videos(videos: Path) -> None:
    out = videos / "made"
    first = prepare(videos, out, workers=1)
    again = prepare(videos, out, workers=1, resume=True)
    assert (first["n_videos"], again["n_videos"]) == (4, 4)


def test_where_links_are_refused_the_way_out_is_named(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InputError, match=r"cannot be linked to .*cross-device.*Fix: use --copy-videos"):
        prepare(videos, tmp_path / "data", workers=1)


def test_faults_are_listed_and_the_rest_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for name in ("good", "torn", "twice", "label", "text", "empty", "nobody", "two.old"):
        make_video(folder / f"{name}.mkv")
    make_video(folder / "two.old.avi")  # Matroska whatever it is called
    whole = json.dumps(coco_of(moving_person(0)))
    (folder / "good.json").write_text(whole)
    (folder / "torn.json").write_text(whole[:-50])
    write_json(folder / "twice.json", coco_of(moving_person(0)))
    write_json(folder / "twice.alphapose.json", alphapose_of(moving_person(0)))
    write_json(folder / "label.json", {"label": "swim"})
    (folder / "text.txt").write_text("one")
    (folder / "text.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\ntwo\n")
    (folder / "empty.txt").write_text("\n")
    write_json(folder / "nobody.json", [])
    (folder / "classes.txt").write_text("run\nwave\n")
    out = tmp_path / "data"
    summary = prepare(folder, out, workers=1)
    reasons = reasons_of(summary)
    found = {
        ("torn.mkv", "details"): "torn.json line 1: not JSON",
        ("twice.mkv", "poses"): "holds poses of the same video",
        ("label.mkv", "details"): "label 'swim' is not in classes.txt",
        ("text.mkv", "caption"): "holds a caption of the same video",
        ("empty.mkv", "caption"): "empty.txt: holds no text",
        ("nobody.mkv", "poses"): "nobody was found",
        ("two.old.avi", "sidecars"): "two.old.avi and two.old.mkv share their stem",
        ("two.old.mkv", "sidecars"): "two.old.mkv and two.old.avi share their stem",
    }
    assert reasons.keys() == found.keys()
    for place, part in found.items():
        assert part in reasons[place]
        assert "Fix: " in reasons[place] or "nobody" in part
    rows = rows_of(out)
    assert len(rows) == summary["n_clips"] == 9
    assert [name for name, row in rows.items() if "joints_path" in row] == ["good"]
    assert {"two.old.mkv", "two.old.avi"} <= rows.keys()
    assert read_manifest(out).classes == ("run", "wave")


def test_folders_that_are_classes_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for name in ("run/a.mkv", "wave/b.mkv", "misc/c.mkv", "run/d.mkv"):
        make_video(folder / name)
    write_json(folder / "run" / "d.json", {"label": "wave"})
    (folder / "classes.txt").write_text("wave\nrun\n")
    summary = prepare(folder, tmp_path / "data", workers=1)
    labels = {row.clip_id: (row.label, row.label_id) for row in read_manifest(tmp_path / "data").rows}
    assert labels == {"run/a": ("run", 1), "wave/b": ("wave", 0), "misc/c": (None, None), "run/d": (None, None)}
    assert "label 'wave' in the folder 'run'" in reasons_of(summary)["run/d.mkv", "details"]


def test_an_index_is_carried_along_and_its_joints_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    make_video(folder / "v" / "a.mkv")
    make_video(folder / "v" / "unlisted.mkv")
    joints = moving_person(0).astype(np.float32)
    np.savez(folder / "a.npz", joints=joints, layout=np.array("COCO-17"), units=np.array("pixels"))
    row: dict[str, object] = {"clip_id": "first", "file": "v/a.mkv", "joints_path": "a.npz", "label": "x"}
    row |= {"subject": "s1", "split2": "test", "caption": "it is x", "caption_source": "composed", "x_own": "1"}
    write_index(folder, [row])
    prepare(folder, tmp_path / "data", workers=1)
    (made,) = rows_of(tmp_path / "data").values()
    assert (made["clip_id"], made["path"], made["joints_path"]) == ("first", "videos/v/a.mkv", "joints/first.npz")
    assert (made["label"], made["subject"], made["split2"], made["x_own"]) == ("x", "s1", "test", "1")
    assert read_manifest(tmp_path / "data").rows[0].is_caption_composed


@pytest.mark.parametrize("place", ["clips", "clips/joints"])
def test_the_names_of_joints_may_lie_beside_the_index(place: str, tmp_path: Path) -> None:
    """Joints in the reverse of COCO's order, which only joint_names.txt says."""
    folder = tmp_path / "clips"
    make_video(folder / "a.mkv")
    (folder / "joints").mkdir()
    np.savez(folder / "joints" / "a.npz", joints2d=moving_person(0)[:, ::-1])
    (tmp_path / place / "joint_names.txt").write_text("\n".join(INTERNAL[::-1]))
    write_index(folder, [{"clip_id": "a", "path": "a.mkv", "joints_path": "joints/a.npz"}])
    prepare(folder, tmp_path / "data", workers=1)
    with np.load(tmp_path / "data" / "joints" / "a.npz") as arrays:
        np.testing.assert_allclose(arrays["joints"][0], shares(moving_person(0)), atol=2e-6)


def test_poses_and_captions_may_lie_elsewhere(tmp_path: Path) -> None:
    make_video(tmp_path / "clips" / "s" / "a.mkv")
    write_json(tmp_path / "poses" / "s" / "a.json", alphapose_of(moving_person(2)))
    (tmp_path / "texts" / "s").mkdir(parents=True)
    (tmp_path / "texts" / "s" / "a.txt").write_text("a text")
    (tmp_path / "clips" / "s" / "a.txt").write_text("not this one")
    sources = Backends(poses=tmp_path / "poses", captions=tmp_path / "texts")
    prepare(tmp_path / "clips", tmp_path / "data", sources, workers=1)
    row = rows_of(tmp_path / "data")["s/a"]
    assert (row["caption"], row["x_pose_source"]) == ("a text", "coco-results or alphapose")


def test_a_pickle_of_poses(tmp_path: Path) -> None:
    import pickle

    make_video(tmp_path / "clips" / "s" / "a.mkv")
    make_video(tmp_path / "clips" / "b.mkv")
    items = {"split": {}, "annotations": [flat_item("a", 0, 2, 6), flat_item("other", 0, 1, 6)]}
    (tmp_path / "poses.pkl").write_bytes(pickle.dumps(items))
    prepare(tmp_path / "clips", tmp_path / "data", Backends(poses=tmp_path / "poses.pkl"), workers=1)
    rows = rows_of(tmp_path / "data")
    assert (rows["s/a"]["x_pose_source"], rows["s/a"]["x_people"]) == ("pyskl", "2")
    assert "joints_path" not in rows["b"]
    (tmp_path / "poses.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(InputError, match=r"poses.pkl: the pickle names os.system"):
        prepare(tmp_path / "clips", tmp_path / "more", Backends(poses=tmp_path / "poses.pkl"), workers=1)


def test_the_best_people_are_kept_in_order(tmp_path: Path) -> None:
    """Five tracks, of which two are kept: the one that is always there and surest first."""
    make_video(tmp_path / "clips" / "a.mkv")
    people = []
    for track in range(5):
        joints = moving_person(track)
        joints[..., 2] = 0.2 + 0.15 * track
        people += alphapose_of(joints, track=track)[: 2 + track]
    write_json(tmp_path / "clips" / "a.json", people)
    config = PrepareConfig(people=PeopleConfig(n_people=2))
    prepare(tmp_path / "clips", tmp_path / "data", config=config, workers=1)
    with np.load(tmp_path / "data" / "joints" / "a.npz") as arrays:
        assert arrays["joints"].shape == (2, 6, 17, 3)
        np.testing.assert_allclose(arrays["joints"][0, :, 0, 2], 0.8, atol=1e-6)
        assert (np.diff(arrays["track_scores"]) < 0).all()


def test_several_workers_make_the_same(videos: Path, tmp_path: Path) -> None:
    prepare(videos, tmp_path / "one", workers=1)
    prepare(videos, tmp_path / "two", workers=2)
    for name in ("index.csv", "joints/a.npz", "joints/b.npz", "prepare.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_resuming_takes_in_what_changed_and_nothing_else(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    prepare(videos, out, workers=1)
    before = {name: (out / "joints" / f"{name}.npz").stat().st_mtime_ns for name in "ab"}
    make_video(videos / "new.mkv", 9)
    write_json(videos / "a.json", coco_of(moving_person(7)))
    (videos / "d.mp4").unlink()
    summary = prepare(videos, out, workers=1, resume=True)
    assert (summary["n_videos"], summary["n_clips"], summary["problems"]) == (4, 4, [])
    assert (out / "joints" / "b.npz").stat().st_mtime_ns == before["b"]
    with np.load(out / "joints" / "a.npz") as arrays:
        np.testing.assert_allclose(arrays["joints"][0], shares(moving_person(7)), atol=2e-6)
    (out / "joints" / "b.npz").unlink()
    prepare(videos, out, workers=1, resume=True)
    assert (out / "joints" / "b.npz").is_file()
    made = (out / "joints" / "b.npz").stat().st_mtime_ns
    prepare(videos, out, config=PrepareConfig(people=PeopleConfig(n_people=1)), workers=1, resume=True)
    assert (out / "joints" / "b.npz").stat().st_mtime_ns > made


def test_a_model_serves_videos_without_pose_files_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "clips"
    for name in ("bare", "given", "torn", "damaged"):
        make_video(folder / f"{name}.mkv")
    write_json(folder / "given.json", coco_of(moving_person(0)))
    (folder / "torn.coco.json").write_text("{")
    model = constant_model(tmp_path / "pose.onnx", [candidates((32, 32, 16, 24, 0.8))], (1, 3, 64, 64), licence="mine")
    sources = Backends(pose_model=model, pose_convention="yolo-pose")
    decode = iter_all

    def fail(path: Path) -> Iterator[Tensor]:
        if path.stem == "damaged":
            raise VideoError(f"{path} is damaged at frame 3", fix="replace the file")
        return decode(path)

    monkeypatch.setattr(pose_model, "iter_all", fail)
    summary = prepare(folder, tmp_path / "data", sources, workers=1)
    assert summary["poses_by_source"] == {"yolo-pose pose.onnx": 1, "coco": 1}
    assert summary["models"] == {
        "pose.onnx": {"sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "licence": "mine"}
    }
    assert reasons_of(summary).keys() == {("torn.mkv", "poses"), ("damaged.mkv", "video")}
    assert rows_of(tmp_path / "data").keys() == {"bare", "given", "torn"}
    with np.load(tmp_path / "data" / "joints" / "bare.npz") as arrays:
        np.testing.assert_allclose(arrays["box_scores"], np.full((1, 6), 0.8), rtol=1e-5)
        # the letterbox lays 64 x 48 in the middle of 64 x 64
        np.testing.assert_allclose(arrays["boxes"][0, 5], [24 / 64, 12 / 48, 40 / 64, 36 / 48], atol=1e-5)


WRONG: list[tuple[list[str], str]] = [
    (["gone", "--out", "data"], "videos gone: is not a folder. Fix: name the folder"),
    (["clips"], "needs a folder of videos and --out. Fix: oskar prepare VIDEOS --out DATA"),
    (["texts", "--out", "data"], "texts: holds no video"),
    (["broken", "--out", "spoilt"], "broken: none of 1 videos can be used, the first: "),
    (["clips", "--out", "file"], "--out file is a file"),
    (["clips", "--out", "taken"], "--out taken holds a joints that is not made here"),
    (["clips", "--out", "made"], "--out made holds a preparation already. Fix: go on with it by --resume"),
    (["clips", "--out", "data", "--resume"], "--resume: data holds no preparation"),
    (["clips", "--out", "data", "--poses", "gone"], "--poses gone: there is no such folder"),
    (["clips", "--out", "data", "--captions", "file"], "--captions file: there is no such folder"),
    (["clips", "--out", "data", "--workers", "0"], "--workers 0. Fix: use 1 or more"),
    (["clips", "--out", "data", "--engine", "spark"], "--engine 'spark' is not known. Fix: use local or ray"),
    (["clips", "--out", "data", "--pose-convention", "rtmpose"], "--pose-convention rtmpose without --pose-model"),
    (["clips", "--out", "data", "--pose-model", "m.onnx"], "--pose-convention None is not known. Fix: use yolo-pose"),
    (
        ["clips", "--out", "data", "--pose-model", "m.onnx", "--pose-convention", "yolo-pose"],
        "m.onnx: there is no such",
    ),
    (["clips", "--out", "data", "--caption-model", "texts"], "--caption-model texts: holds no config.json"),
    (["clips", "people.n_peple=2", "--out", "data"], "unknown key 'people.n_peple'. Fix: did you mean people.n_people"),
    (["clips", "people.n_people=0", "--out", "data"], "people.n_people = 0 is not valid"),
    (["clips", "detector.min_score=2", "--out", "data"], "detector.min_score = 2"),
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    make_video(folder / "clips" / "a.mkv")
    for name in ("texts", "broken", "taken/joints"):
        (folder / name).mkdir(parents=True)
    (folder / "broken" / "a.mp4").write_bytes(b"")
    (folder / "file").touch()
    prepare(folder / "clips", folder / "made", workers=1)
    return folder


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_commands(
    words: list[str], message: str, desk: Path, oskar: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(desk)
    code, printed = oskar("prepare", *words)
    assert code == 2
    assert message in printed
    assert "Fix: " in printed


def test_backends_are_listed_with_their_licences(oskar: CommandLine) -> None:
    code, printed = oskar("prepare", "--backends")
    assert code == 0
    for name in ("npz", "coco", "openpose", "alphapose", "mediapipe", "pyskl", "yolo-pose", "rtmpose", "caption-model"):
        assert name in printed
    for licence in ("AGPL-3.0", "Apache-2.0", "MIT", "non-commercial"):
        assert licence in printed


def test_real_videos_with_real_joints(tmp_path: Path, oskar: CommandLine) -> None:
    folder = DATA_DIR / "pushup"
    if not folder.is_dir():
        pytest.skip("shared/data/pushup is not there")
    chosen = sorted((folder / "videos").glob("correct1*.mp4"))[:6]
    (tmp_path / "clips").mkdir()
    for path in chosen:
        (tmp_path / "clips" / path.name).symlink_to(path)
    code, printed = oskar(
        "prepare", tmp_path / "clips", "--poses", folder / "joints", "--out", tmp_path / "data", "--copy-videos"
    )
    assert code == 0, printed
    summary = json.loads((tmp_path / "data" / "prepare.json").read_text())
    assert (summary["n_clips"], summary["n_with_poses"], summary["problems"]) == (6, 6, [])
    for path in chosen:
        with np.load(folder / "joints" / f"{path.stem}.npz") as arrays:
            move = arrays["movenet"]
        with np.load(tmp_path / "data" / "joints" / f"{path.stem}.npz") as arrays:
            made = arrays["joints"][0]
        is_known = np.isfinite(move).all(axis=-1) & (np.nan_to_num(move[..., 2]) > 0)
        np.testing.assert_allclose(made[is_known], move[is_known], atol=1e-6)
        assert np.isnan(made[~is_known][:, :2]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray warns of itself
def test_ray_makes_the_same(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    prepare(videos, tmp_path / "local", workers=1)
    prepare(videos, tmp_path / "ray", workers=2, engine="ray")
    for name in ("index.csv", "joints/a.npz", "joints/b.npz", "prepare.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_both_engines_are_offered() -> None:
    assert set(ENGINES) == {"local", "ray"}


def test_tasks_are_made_when_asked_for(videos: Path, tmp_path: Path) -> None:
    plan = Plan(videos=videos, out=tmp_path / "data", config=PrepareConfig())
    tasks = list_tasks(Roots(videos=videos, out=plan.out))
    made = Tasks(plan, tasks)
    assert len(made) == 4
    records = list(run_local(plan, tasks[:1], 1))
    assert [record["clip_id"] for record in records] == ["a"]
    assert json.loads(made[0]) == records[0]
