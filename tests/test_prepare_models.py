"""Pose models as tiny ONNX graphs with known answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pose_graphs import candidates, constant_model
from runs import noise_video, write_video

from oskar.errors import InputError
from oskar.preparation.models.onnx_file import OnnxFile
from oskar.preparation.models.pose_model import PoseModel, PoseModelFiles, convention_named
from oskar.preparation.models.rtmpose import crop, crop_regions, decode_simcc
from oskar.preparation.models.yolo import Letterbox, decode_yolo, letterbox
from oskar.preparation.settings import DetectorConfig
from oskar.preparation.sidecars.video_facts import VideoFacts

onnx = pytest.importorskip("onnx")


def test_a_letterbox_keeps_the_aspect_and_is_undone() -> None:
    picture = torch.zeros(3, 20, 40, dtype=torch.uint8)
    picture[0] = 255
    laid, how = letterbox(picture, (64, 64))
    assert laid.shape == (3, 64, 64)
    assert how == Letterbox(scale=1.6, left=0, top=16)
    np.testing.assert_allclose(laid[:, 16:48].mean(axis=(1, 2)), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(laid[:, :16], 114 / 255)
    np.testing.assert_allclose(laid[:, 48:], 114 / 255)
    np.testing.assert_allclose(how.undo(np.array([[0.0, 16.0], [64.0, 48.0]])), [[0, 0], [40, 20]])


def test_a_tall_picture_is_padded_at_its_sides() -> None:
    picture = torch.full((3, 50, 30), 255, dtype=torch.uint8)
    laid, how = letterbox(picture, (100, 100))
    assert (how.scale, how.left, how.top) == (2.0, 20, 0)
    is_picture = (laid > 0.99).all(axis=(0, 1))
    assert np.flatnonzero(is_picture).tolist() == list(range(20, 80))


def test_yolo_output_by_hand() -> None:
    """Of five candidates two stay: one is covered by a surer one, one unsure, one not finite."""
    output = candidates(
        (30, 40, 20, 10, 0.6), (31, 40, 20, 10, 0.9), (80, 40, 10, 20, 0.5), (50, 90, 9, 9, 0.2), (9, 9, np.nan, 1, 0.9)
    )
    laid = Letterbox(scale=2.0, left=10, top=20)
    people = decode_yolo(output, laid, DetectorConfig(), has_joints=True)
    np.testing.assert_allclose(people.scores, [0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(people.boxes, [[5.5, 7.5, 15.5, 12.5], [32.5, 5, 37.5, 15]], rtol=1e-6)
    np.testing.assert_allclose(people.joints[0, :, 0], (31 + np.arange(17) - 10) / 2, rtol=1e-6)
    np.testing.assert_allclose(people.joints[0, :, 1], (40 - 20) / 2)
    np.testing.assert_allclose(people.joints[0, :, 2], np.arange(17) / 20, rtol=1e-6)
    assert len(decode_yolo(output, laid, DetectorConfig(nms_iou=0.95), has_joints=True).scores) == 3
    assert len(decode_yolo(output, laid, DetectorConfig(min_score=0.1), has_joints=True).scores) == 3


def test_a_detector_finds_people_not_things() -> None:
    output = np.zeros((1, 4 + 80, 3), dtype=np.float32)
    output[0, :4] = np.array([[10, 40, 80], [10, 40, 80], [8, 8, 8], [8, 8, 8]])
    output[0, 4] = (0.9, 0.5, 0.1)  # class 0 is a person
    output[0, 4 + 16] = (0.2, 0.6, 0.0)  # the second is rather a dog
    people = decode_yolo(output, Letterbox(scale=1, left=0, top=0), DetectorConfig(), has_joints=False)
    np.testing.assert_allclose(people.boxes, [[6, 6, 14, 14]])


def test_yolo_pose_on_a_video(tmp_path: Path) -> None:
    video = noise_video(tmp_path / "clip.mkv", n_frames=3, size=32)
    output = candidates((32, 32, 16, 24, 0.8), (48, 16, 8, 8, 0.4))
    path = constant_model(tmp_path / "pose.onnx", [output], (1, 3, 64, 64), licence="made here")
    model = PoseModel(PoseModelFiles(path=path, convention="yolo-pose"), DetectorConfig(), n_threads=1)
    assert model.licences == {path: "made here"}
    found = model.read(video, VideoFacts(n_frames=3, size=(32, 32)))
    assert found.frame_idx.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(found.boxes[0], [24 / 64, 20 / 64, 40 / 64, 44 / 64], rtol=1e-5)
    np.testing.assert_allclose(found.joints[4, 1:, 0], (32 + np.arange(1, 17)) / 64, rtol=1e-5)
    assert found.joints[4, 0, 2] == 0  # a joint without confidence is unknown
    np.testing.assert_allclose(found.scores[:2], [0.8, 0.4], rtol=1e-5)


def bright_spot_model(path: Path, size: int) -> Path:
    """Finds where the picture is brightest: a box around it, made of maxima over rows and columns by ArgMax."""
    helper = onnx.helper
    pixels = onnx.TensorProto.FLOAT
    constants = [
        onnx.numpy_helper.from_array(np.array([[[0.0]] * 2 + [[8.0]] * 2 + [[0.9]] + [[0.5]] * 51], np.float32), "rest")
    ]
    pick = np.zeros((56, 2), dtype=np.float32)  # how much of (x, y) goes into each of the 56 values
    pick[0, 0] = pick[1, 1] = 1.0
    pick[5::3, 0] = pick[6::3, 1] = 1.0
    constants.append(onnx.numpy_helper.from_array(pick, "pick"))
    constants.append(onnx.numpy_helper.from_array(np.array([1, 2, 1], dtype=np.int64), "shape"))
    nodes = [
        helper.make_node("ReduceMax", ["pictures"], ["columns"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMax", ["pictures"], ["rows"], axes=[1, 3], keepdims=0),
        helper.make_node("ArgMax", ["columns"], ["x"], axis=1, keepdims=1),
        helper.make_node("ArgMax", ["rows"], ["y"], axis=1, keepdims=1),
        helper.make_node("Concat", ["x", "y"], ["xy"], axis=1),
        helper.make_node("Cast", ["xy"], ["place"], to=pixels),
        helper.make_node("Reshape", ["place", "shape"], ["column"]),
        helper.make_node("MatMul", ["pick", "column"], ["spread"]),
        helper.make_node("Add", ["spread", "rest"], ["output"]),
    ]
    pictures = helper.make_tensor_value_info("pictures", pixels, [1, 3, size, size])
    output = helper.make_tensor_value_info("output", pixels, [1, 56, 1])
    graph = helper.make_graph(nodes, "spot", [pictures], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_a_model_sees_the_frames_in_their_order_and_place(tmp_path: Path) -> None:
    """A white square that moves over a wide black video, through letterbox, model and back."""
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    places = [(8, 4), (30, 10), (52, 24)]
    for t, (x, y) in enumerate(places):
        frames[t, y : y + 4, x : x + 4] = 255
    video = write_video(tmp_path / "clip.mkv", frames)
    path = bright_spot_model(tmp_path / "spot.onnx", 128)
    found = PoseModel(PoseModelFiles(path=path, convention="yolo-pose"), DetectorConfig(), 1).read(
        video, VideoFacts(n_frames=3, size=(64, 32))
    )
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2 * (64, 32)
    assert (np.abs(middles - np.array(places) - 2) <= 2).all()  # the first brightest pixel lies in the square


def test_simcc_by_hand() -> None:
    regions = np.array([[50.0, 40.0, 48.0, 64.0]])
    x, y = np.zeros((1, 17, 24), dtype=np.float32), np.zeros((1, 17, 32), dtype=np.float32)
    x[0, :, 6], y[0, :, 24] = 0.8, 1.4
    x[0, 3, 6], y[0, 3, 24] = 0.9, 0.2
    y[0, 4, 24] = -1.0  # nothing rises above 0 then
    joints = decode_simcc(x, y, regions)
    np.testing.assert_allclose(joints[0, 0], [50 - 24 + 6 / 24 * 48, 40 - 32 + 24 / 32 * 64, 0.8], rtol=1e-6)
    assert joints[0, 3, 2] == pytest.approx(0.2)
    assert joints[0, 4, 2] == 0


def test_a_region_is_the_box_enlarged_to_the_inputs_aspect() -> None:
    """An input of 192 x 256: the width of a region is 3/4 of its height."""
    boxes = np.array([[10.0, 20.0, 30.0, 100.0], [0.0, 0.0, 80.0, 20.0]])
    expected: list[list[float]] = [
        [20, 60, 75, 100],
        [40, 10, 100, 100 * 4 / 3],
    ]
    np.testing.assert_allclose(crop_regions(boxes, (192, 256), 1.25), expected)


def test_a_crop_shows_the_region_and_black_beyond() -> None:
    """One pixel of crop is two of the picture, so that every second pixel is taken as it is."""
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8))
    shown = crop(picture, np.array([[10.0, 8.0, 12.0, 16.0], [0.0, 0.0, 12.0, 16.0]]), (6, 8))
    mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    pixels = shown * deviation[:, None, None] + mean[:, None, None]
    np.testing.assert_allclose(pixels[0], picture.numpy()[:, 0:16:2, 4:16:2], atol=1e-3)
    np.testing.assert_allclose(pixels[1][:, :4], 0, atol=1e-3)
    np.testing.assert_allclose(pixels[1][:, 4:, 3:], picture.numpy()[:, 0:8:2, 0:6:2], atol=1e-3)


def simcc_answers(n: int) -> list[NDArray[np.float32]]:
    """Every joint in the middle of the crop, with confidence 0.7."""
    x, y = np.zeros((n, 17, 48), dtype=np.float32), np.zeros((n, 17, 64), dtype=np.float32)
    x[..., 24], y[..., 32] = 0.7, 0.9
    return [x, y]


@pytest.mark.parametrize(("n", "batch"), [(2, "n"), (1, 1)])
def test_rtmpose_looks_at_the_people_found(n: int, batch: str | int, tmp_path: Path) -> None:
    """Two people and one batch of two, or two batches of one."""
    video = noise_video(tmp_path / "clip.mkv", n_frames=2, size=32)
    finder = constant_model(
        tmp_path / "people.onnx", [candidates((16, 16, 8, 16, 0.8), (24, 8, 4, 8, 0.6))], (1, 3, 32, 32)
    )
    pose = constant_model(tmp_path / "pose.onnx", simcc_answers(n), (batch, 3, 32, 24))
    files = PoseModelFiles(path=pose, convention="rtmpose", person_path=finder)
    found = PoseModel(files, DetectorConfig(), 1).read(video, VideoFacts(n_frames=2, size=(32, 32)))
    assert found.frame_idx.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found.joints[0], np.tile([0.5, 0.5, 0.7], (17, 1)), atol=1e-6)
    np.testing.assert_allclose(found.joints[1], np.tile([0.75, 0.25, 0.7], (17, 1)), atol=1e-6)
    np.testing.assert_allclose(found.scores, [0.8, 0.6] * 2, rtol=1e-5)


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    video = noise_video(tmp_path / "clip.mkv", n_frames=2, size=32)
    facts = VideoFacts(n_frames=2, size=(32, 32))
    wrong = constant_model(tmp_path / "wrong.onnx", [np.zeros((1, 300, 57), np.float32)], (1, 3, 32, 32))
    model = PoseModel(PoseModelFiles(path=wrong, convention="yolo-pose"), DetectorConfig(), 1)
    with pytest.raises(InputError, match=r"wrong.onnx: output output0 is \[1, 300, 57\], not \[1, 56, N\]"):
        model.read(video, facts)
    finder = constant_model(tmp_path / "people.onnx", [candidates((16, 16, 8, 16, 0.8))], (1, 3, 32, 32))
    simcc = constant_model(tmp_path / "simcc.onnx", simcc_answers(1)[:1], (1, 3, 32, 24))
    files = PoseModelFiles(path=simcc, convention="rtmpose", person_path=finder)
    with pytest.raises(InputError, match=r"simcc.onnx: outputs output0 are \[\[1, 17, 48\]\], not simcc_x"):
        PoseModel(files, DetectorConfig(), 1).read(video, facts)
    with pytest.raises(InputError, match=r"rtmpose looks at one person at a time. Fix: .*--person-model"):
        PoseModel(PoseModelFiles(path=simcc, convention="rtmpose"), DetectorConfig(), 1)
    with pytest.raises(InputError, match="yolo-pose finds people itself"):
        PoseModel(PoseModelFiles(path=wrong, convention="yolo-pose", person_path=finder), DetectorConfig(), 1)
    with pytest.raises(InputError, match=r"--pose-convention 'openpose' is not known. Fix: use yolo-pose or rtmpose"):
        convention_named("openpose")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.onnx: there is no such file. Fix: .*nothing is downloaded"):
        OnnxFile(tmp_path / "gone.onnx", 1)
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(InputError, match=r"text.onnx: is no ONNX model that can be run"):
        OnnxFile(tmp_path / "text.onnx", 1)
    flat = constant_model(tmp_path / "flat.onnx", [np.zeros((1, 2), np.float32)], (1, 12))
    with pytest.raises(InputError, match=r"flat.onnx: has the inputs pictures tensor\(float\) \[1, 12\]"):
        OnnxFile(flat, 1)
    small = constant_model(tmp_path / "small.onnx", [np.zeros((1, 2), np.float32)], (1, 3, 8, 8))
    with pytest.raises(InputError, match=r"small.onnx: fails on pictures \[1, 3, 16, 16\]"):
        OnnxFile(small, 1).run(np.zeros((1, 3, 16, 16), np.float32))


def test_an_open_input_takes_the_size_that_is_set(tmp_path: Path) -> None:
    video = noise_video(tmp_path / "clip.mkv", n_frames=1, size=32)
    path = constant_model(tmp_path / "open.onnx", [candidates((48, 48, 8, 8, 0.8))], (1, 3, "height", "width"))
    model = PoseModel(PoseModelFiles(path=path, convention="yolo-pose"), DetectorConfig(input_pixels=96), 1)
    found = model.read(video, VideoFacts(n_frames=1, size=(32, 32)))
    np.testing.assert_allclose((found.boxes[0, :2] + found.boxes[0, 2:]) / 2, [0.5, 0.5], rtol=1e-5)
