"""Pose decoding: the metrics by hand, what is shown and asked, the baseline, a readable problem, the files."""

import json
import math
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeClips
from runs import CommandLine, packed_folder, rows_of, shrunk, write_index, write_video

from oskar.config import Config
from oskar.errors import InputError
from oskar.metrics.pose import PCK_SHARES, box_sides, mean_pose, pck_percent, pose_metrics, relative_errors
from oskar.modalities import modality_specs
from oskar.pretraining import MaskedPrediction
from oskar.tasks.pose_decoder import PoseBatch, PoseDecoder, Standard, mean_of, placed_mean
from oskar.tasks.pose_decoding import PoseDecodingConfig, evaluate_pose_decoding
from oskar.tasks.pose_features import by_token, draw_pose_view, pose_targets, without_boxes
from oskar.tasks.transfer import load_predicting, load_transfer
from oskar.tokens.layouts import INTERNAL
from oskar.train.checkpoint import save_checkpoint
from oskar.train.pretrain import pretrain, save_transfer

QUICK = PoseDecodingConfig(steps=30, batch_size=4, precision="float32", device="cpu", width=16, n_heads=2, n_layers=1)


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def config() -> Config:
    config = shrunk("oskar-tiny")
    tokens = replace(config.tokens, modalities=("video", "skeleton"), n_frames=4, segment_frames=2)
    train = replace(config.train, steps=1, device="cpu")
    return replace(config, tokens=tokens, train=train, clip=replace(config.clip, crop_scale=(1.0, 1.0)))


def people_folder(folder: Path, n_clips: int = 16) -> Path:
    """A person whose pose is told by the brightness of the picture; every other clip is in the test split."""
    body = np.random.default_rng(0).uniform(0.25, 0.75, (2, 17, 2))
    rows: list[dict[str, object]] = []
    for i in range(n_clips):
        kind = i // 2 % 2
        write_video(folder / f"v{i}.mkv", np.full((4, 32, 32, 3), (40, 200)[kind], dtype=np.uint8))
        joints = np.random.default_rng(i).normal(body[kind], 0.005, (4, 17, 2))
        joints = np.concatenate([joints, np.ones((4, 17, 1))], axis=2).astype(np.float32)
        np.savez(folder / f"v{i}.npz", joints=joints, units=np.array("share"), layout=np.array("COCO-17"))
        split = ("train", "test")[i % 2]
        rows.append({"clip_id": f"v{i}", "path": f"v{i}.mkv", "joints_path": f"v{i}.npz", "split": split})
    return write_index(folder, rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return people_folder(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def run(config: Config, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(config, [str(data)], folder)
    return folder


def test_errors_are_distances_in_units_of_the_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.2], [0.1, 0.1, 0.3, 0.5], [0.4, 0.4, 0.4, 0.9], [0.0] * 4])
    assert box_sides(boxes).tolist() == pytest.approx([0.5, 0.4, 0.0, 0.0])
    truth = torch.tensor([[0.0, 0.0], [0.2, 0.2]])
    found = torch.tensor([[0.03, 0.04], [0.2, 0.24]])
    errors = relative_errors(found, truth, torch.tensor([0.5, 0.4]))
    assert errors.tolist() == pytest.approx([0.05 / 0.5, 0.04 / 0.4], rel=1e-5)
    with pytest.raises(InputError, match="no area"):
        relative_errors(found, truth, torch.tensor([0.5, 0.0]))
    with pytest.raises(InputError, match="not finite"):
        relative_errors(found * math.nan, truth, torch.tensor([0.5, 0.4]))


def test_pck_counts_and_unread_clips_are_wrong() -> None:
    errors = torch.tensor([0.0, 0.05, 0.0501, 0.1, 0.2, 0.21, 1.0, 3.0], dtype=torch.float64)
    assert [pck_percent(errors, share) for share in PCK_SHARES] == [25.0, 50.0, 62.5]
    measured = pose_metrics(errors, evaluated_share=0.8)
    assert measured["pck_5_percent"] == pytest.approx(20.0)
    assert measured["pck_20_percent"] == pytest.approx(50.0)
    assert measured["mean_error_percent"] == pytest.approx(100 * 4.6101 / 8)


def test_the_mean_pose_leaves_out_what_is_missing() -> None:
    places = torch.tensor([[[0.0, 1.0], [9.0, 9.0]], [[0.5, 0.0], [9.0, 9.0]], [[7.0, 7.0], [9.0, 9.0]]])
    is_counted = torch.tensor([[True, False], [True, False], [False, False]])
    assert mean_pose(places, is_counted).tolist() == [[0.25, 0.5], [0.5, 0.5]]


def test_no_joint_is_shown_and_all_are_asked(config: Config, make_clips: MakeClips) -> None:
    tokens = replace(config.tokens, modalities=("video", "skeleton", "text"))
    config = replace(config, tokens=tokens)
    clips = make_clips(5, tokens, absent={"skeleton": {1}, "text": {2}})
    names = list(modality_specs(tokens))
    for visible in (("video", "text"), ("video",), ("text",)):
        drawn = draw_pose_view(clips, config, visible, seed=0)
        shown = set(drawn.view.visible.segments.flatten().tolist()) - {-1}
        assert shown == {names.index(name) for name in visible}
        assert set(drawn.view.target.segments.flatten().tolist()) - {-1} == {names.index("skeleton")}
        counts = drawn.view.target.is_valid.sum(1).tolist()
        n_available = [(pose_targets(clips, config).is_counted[i].any(-1)).sum() for i in range(5)]
        assert counts[1] == 0
        assert all(count >= n for count, n in zip(counts, n_available, strict=True))
        assert drawn.is_usable.tolist() == [i != 1 and not (visible == ("text",) and i == 2) for i in range(5)]
        assert int(drawn.view.visible.is_valid.sum(1).max()) <= (config.masking.n_visible or 0)
        again = draw_pose_view(clips.rows(torch.tensor([3])), config, visible, seed=0).view.visible
        same = drawn.view.visible.segments[3]
        assert again.segments[0][again.segments[0] >= 0].tolist() == same[same >= 0].tolist()


def test_hidden_joints_do_not_change_what_is_predicted(config: Config, make_clips: MakeClips) -> None:
    torch.manual_seed(0)
    module = MaskedPrediction(config).eval()
    clips = make_clips(3, config.tokens)
    assert clips.joints is not None
    inside = clips.joints[..., :2].clamp(0.2, 0.7)
    confidence = clips.joints[..., 2:]
    clips, moved = (replace(clips, joints=torch.cat([inside + shift, confidence], -1)) for shift in (0.0, 0.1))
    outputs = []
    for some in (clips, moved):
        view = draw_pose_view(some, config, ("video",), seed=0).view
        outputs.append(module.predictor(module.fusion(view.visible, module.routing), view, 0))
    assert torch.equal(*outputs)
    bare = without_boxes(view)
    assert bare.target.tokens["skeleton"].boxes is None
    assert not torch.equal(module.predictor(module.fusion(view.visible, module.routing), bare, 0), outputs[0])


def test_targets_by_token_are_the_joints_of_its_frames(config: Config, make_clips: MakeClips) -> None:
    clips = make_clips(2, config.tokens, seed=3)
    assert clips.joints is not None
    assert clips.boxes is not None
    targets = pose_targets(clips, config)
    n_segments = config.tokens.n_frames // 2
    for person in range(2):
        for frame in range(4):
            for joint in range(17):
                token = (person * n_segments + frame // 2) * 17 + joint
                x, y, confidence = clips.joints[1, person, frame, joint].tolist()
                assert targets.joints[1, token, frame % 2].tolist() == pytest.approx([x, y])
                is_there = confidence >= 0.3 and 0 <= x < 1 and 0 <= y < 1
                assert bool(targets.is_counted[1, token, frame % 2]) == is_there
                x1, y1, x2, y2 = clips.boxes[1, person, frame].tolist()
                assert float(targets.sides[1, token, frame % 2]) == pytest.approx(max(x2 - x1, y2 - y1))
    packed = draw_pose_view(clips, config, ("video",), seed=0).view.target
    numbered = torch.arange(packed.segments.numel()).float().view(*packed.segments.shape, 1)
    dense = by_token(numbered, packed, targets.joints.shape[1])
    tokens = packed.tokens["skeleton"]
    for slot, token_idx in zip(tokens.slots.tolist(), tokens.token_idx.tolist(), strict=True):
        assert dense[slot // packed.segments.shape[1], token_idx, 0] == slot


def new_decoder(mean: torch.Tensor, *, has_box: bool) -> PoseDecoder:
    standard = Standard(torch.zeros(34, 8), torch.ones(34, 8))
    return PoseDecoder(mean, standard, n_frames=2, width=16, n_layers=1, n_heads=2, has_box=has_box)


def test_the_decoder_starts_as_the_mean_pose_in_the_box(config: Config, make_clips: MakeClips) -> None:
    clips = make_clips(4, config.tokens, seed=5)
    targets = pose_targets(clips, config)
    for has_box in (True, False):
        mean = mean_of(targets, has_box=has_box)
        joint, total, n = 7, torch.zeros(2), 0
        for clip, token, frame in targets.is_counted.nonzero().tolist():
            if token % 17 == joint:
                box = targets.boxes[clip, token] if has_box else torch.tensor([0.0, 0.0, 1.0, 1.0])
                total, n = total + (targets.joints[clip, token, frame] - box[:2]) / (box[2:] - box[:2]), n + 1
        assert mean[joint].tolist() == pytest.approx((total / n).tolist(), rel=1e-4)
        decoder = new_decoder(mean, has_box=has_box)
        features = torch.randn(4, 68, 8)
        assert torch.allclose(decoder.joints(features, targets), placed_mean(mean, targets, has_box=has_box), atol=1e-6)
        loss = decoder(PoseBatch(features, targets))["loss"].detach()
        box = targets.boxes[:, :, None] if has_box else torch.tensor([0.0, 0.0, 1.0, 1.0])
        expected = (
            (targets.joints - placed_mean(mean, targets, has_box=has_box)) / (box[..., 2:] - box[..., :2])
        ).abs()
        assert float(loss) == pytest.approx(float(expected.sum(-1)[targets.is_counted].mean()), rel=1e-4)


def test_features_are_standardised_by_place_over_what_is_there(config: Config, make_clips: MakeClips) -> None:
    targets = pose_targets(make_clips(6, config.tokens), config)
    features = torch.randn(6, 68, 8)
    standard = Standard.of(features, targets, 34)
    is_there = targets.is_counted.any(-1)
    for place in (0, 20):
        rows = [
            features[i, person * 34 + place]
            for i in range(6)
            for person in range(2)
            if is_there[i, person * 34 + place]
        ]
        kept = np.stack([row.numpy() for row in rows])
        assert standard.mean[place].numpy() == pytest.approx(kept.mean(0), rel=1e-4, abs=1e-6)
        assert standard.std[place].numpy() == pytest.approx(kept.std(0), rel=1e-4)


def test_people_do_not_see_each_other(config: Config, make_clips: MakeClips) -> None:
    targets = pose_targets(make_clips(2, config.tokens), config)
    torch.manual_seed(0)
    decoder = new_decoder(torch.zeros(17, 2), has_box=True)
    torch.nn.init.normal_(decoder.output.weight)
    features = torch.randn(2, 68, 8)
    other = features.clone()
    other[:, 34:] += 1.0
    before, after = decoder.relative(features, targets), decoder.relative(other, targets)
    assert torch.equal(before[:, :34], after[:, :34])
    assert not torch.equal(before[:, 34:], after[:, 34:])
    alike = decoder.relative(torch.ones(2, 68, 8), targets).detach()
    assert len({tuple(row) for row in alike[0, :34].flatten(1).round(decimals=4).tolist()}) > 30  # each its own place


def recomputed(rows: list[dict[str, str]], name: str) -> dict[str, float]:
    """The figures of a variant from the file alone, in plain Python."""
    errors = [
        math.hypot(float(r[f"{name}_x"]) - float(r["x"]), float(r[f"{name}_y"]) - float(r["y"])) / float(r["box_side"])
        for r in rows
    ]
    values = {f"pck_{p}_percent": 100 * sum(e <= p / 100 for e in errors) / len(errors) for p in (5, 10, 20)}
    return {**values, "mean_error_percent": 100 * sum(errors) / len(errors)}


def test_poses_are_found_where_pictures_tell_them_and_the_file_gives_the_figures(
    run: Path, data: Path, tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=150, lr=5e-3, n_pictures=2)
    summary = evaluate_pose_decoding(run, [str(data)], "video", tmp_path / "out", settings)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"]) == (8, 8, 8)
    controls = summary["controls"]
    assert set(controls) == {
        *("random_weights", "without_box", "random_weights_without_box", "mean_pose", "mean_pose_without_box"),
    }
    assert summary["metrics"]["mean_error_percent"] < 0.5 * controls["mean_pose"]["mean_error_percent"]
    assert summary["metrics"]["pck_10_percent"] > controls["mean_pose"]["pck_10_percent"]
    rows = rows_of(tmp_path / "out")
    assert len(rows) == summary["n_joints"] == 8 * 4 * 17
    for name, values in {"pretrained": summary["metrics"], **controls}.items():
        assert recomputed(rows, name) == pytest.approx(values, rel=1e-9), name
    frames = defaultdict(set)
    for row in rows:
        stored = np.load(data / f"{row['clip_id'].partition('/')[2]}.npz")["joints"]
        place = stored[int(row["frame"]), INTERNAL.index(row["joint"]), :2]
        assert [float(row["x"]), float(row["y"])] == pytest.approx(place.tolist(), abs=1e-5)
        frames[row["clip_id"], row["person"]].add(row["frame"])
    assert set(frames) == {(f"{data.name}/v{i}", "0") for i in range(1, 16, 2)}
    assert all(seen == {"0", "1", "2", "3"} for seen in frames.values())
    pictures = sorted((tmp_path / "out" / "pictures").iterdir())
    assert [path.suffix for path in pictures] == [".png", ".png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert not list((tmp_path / "out" / "heads").glob("*/checkpoints"))


def test_a_broken_clip_is_listed_and_its_joints_count_as_wrong(run: Path, config: Config, tmp_path: Path) -> None:
    folder = people_folder(tmp_path / "broken", 8)
    (folder / "v3.mkv").write_bytes(b"nothing")
    summary = evaluate_pose_decoding(run, [str(folder)], "video", tmp_path / "out", QUICK)
    assert (summary["n_expected"], summary["n_evaluated"]) == (4, 3)
    assert list(summary["bad_clips"]) == ["broken/v3"]
    scaled = {name: value * (0.75 if name.startswith("pck") else 1.0)
              for name, value in recomputed(rows_of(tmp_path / "out"), "pretrained").items()}  # fmt: skip
    assert scaled == pytest.approx(summary["metrics"], rel=1e-9)


def test_the_result_does_not_depend_on_the_batch(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for size in (32, 3):
        monkeypatch.setattr("oskar.tasks.pose_features.BATCH_SIZE", size)
        out = tmp_path / str(size)
        results.append(evaluate_pose_decoding(run, [str(data)], "video", out, replace(QUICK, steps=3))["metrics"])
    assert results[0] == pytest.approx(results[1], rel=1e-3)


def test_without_the_other_box_fewer_decoders_learn(run: Path, data: Path, tmp_path: Path) -> None:
    settings = replace(QUICK, steps=1, without_box=False, n_pictures=0, max_feature_gib=1e-7)
    summary = evaluate_pose_decoding(run, [str(data)], "video", tmp_path / "out", settings)
    assert set(summary["controls"]) == {"random_weights", "mean_pose", "mean_pose_without_box"}
    assert summary["n_train"] == 1  # what fits
    assert not (tmp_path / "out" / "pictures").exists()


def test_what_cannot_be_decoded_is_refused(
    oskar: CommandLine, run: Path, config: Config, data: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run / "encoder", bare / "encoder")
    joints_only = packed_folder(tmp_path / "joints", 8)
    video_only = replace(config, tokens=replace(config.tokens, modalities=("video",)))
    save_transfer(MaskedPrediction(video_only), video_only, None, tmp_path / "video" / "encoder")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    module = MaskedPrediction(config)
    save_checkpoint(other, 2, {f"module/{k}": v for k, v in module.state_dict().items()}, {})
    task = ("--task", "pose-decoding")
    for words, named in (
        ((bare, "--data", data, *task), ("bare", "no checkpoint")),
        ((run, "--data", joints_only, *task), ("joints", "no clip with joints has video")),
        ((tmp_path / "video", "--data", data, *task), ("skeleton", "pretrained on video")),
        ((other, "--data", data, *task), ("step-00000002", "weights are not those")),
        ((run, "--data", data, *task, "--modality", "skeleton"), ("--modality skeleton", "video")),
        ((run, "--data", data, *task, "--protocol", "finetune"), ("--protocol finetune", "frozen")),
        ((run, "--data", data, *task, "split=train"), ("'train'", "learns on")),
        ((run, "--data", data, *task, 'visible=["text"]'), ("visible", "none of it")),
        ((run, "--data", data, *task, "width=15"), ("width", "n_heads")),
    ):
        code, printed = oskar("evaluate", *words, "--out", tmp_path / "out")
        assert code == 2, printed
        for part in (*named, "Fix: "):
            assert part in printed
        assert not (tmp_path / "out").exists()


def test_the_checkpoint_gives_the_whole_model(run: Path, config: Config) -> None:
    transfer = load_transfer(run)
    module, step = load_predicting(run, transfer)
    assert step == 1
    assert not any(p.requires_grad for p in module.parameters())
    fresh: Any = MaskedPrediction(config)
    assert not torch.equal(module.predictor.input.weight, fresh.predictor.input.weight)
    assert module.momentum is not None
