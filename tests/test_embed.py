"""``oskar embed`` and ``oskar.load``: vectors against direct calculation, odd input, lists of what is bad."""

import csv
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded import CAPTIONS, N_FRAMES, mixed_folder, trained_run, write_joints
from PIL import Image
from runs import CommandLine, joints_of, noise_video

from oskar.clip import Clip, ClipBatch
from oskar.data.decoding import read_all
from oskar.embedding import encode
from oskar.embedding.embed import EmbedConfig, embed
from oskar.embedding.file import Embeddings, read_embeddings
from oskar.embedding.file import Source as SourceName
from oskar.embedding.loaded import LoadedModel, load
from oskar.embedding.windows import WindowConfig
from oskar.errors import InputError
from oskar.masking.packing import pack_everything
from oskar.modalities import modality_specs
from oskar.tasks.features import Features, tokens_of
from oskar.tokens import token_sources

QUICK = EmbedConfig(workers=0, device="cpu")


@pytest.fixture(scope="session")
def model(mixed_run: Path) -> LoadedModel:
    return load(mixed_run)


def frames_by_hand(path: Path, first: int = 0, end: int = N_FRAMES, n_shown: int = 4) -> torch.Tensor:
    """Frames evenly over [first, end), both ends shown; the videos are squares of 32 pixels, and so are the clips."""
    idx = [first + int(i * (end - 1 - first) / (n_shown - 1) + 0.5) for i in range(n_shown)]
    short_side = 46  # ceil(32 / sqrt(0.5)): the run's crops are half a picture or more
    frames = read_all(path, short_side=short_side)[idx]
    return torch.nn.functional.interpolate(frames, size=(32, 32), mode="bilinear", antialias=True)


def metres_joints(path: Path, seed: int, n_joints: int = 17) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    joints = joints_of(0, 6, seed)[:, :n_joints]
    np.savez(path, joints=joints, layout=np.array("COCO-17"), units=np.array("metres"))
    return path


def video_latents(model: LoadedModel, frames: torch.Tensor) -> torch.Tensor:
    one = torch.zeros(1, dtype=torch.int64)
    packed = tokens_of(ClipBatch(clip_ids=one, labels=one, frames=frames[None]), model.config, "video")
    with torch.no_grad():
        latents: torch.Tensor = model.pretrained.transfer.encoder("video")(packed, "modality")[0]
    return latents


def test_a_vector_is_the_mean_of_the_encoders_tokens(model: LoadedModel, mixed_data: Path) -> None:
    path = mixed_data / "videos/c1.mkv"
    found = model.embed(path)
    wanted = video_latents(model, frames_by_hand(path)).double().mean(0)
    assert torch.allclose(found.vectors[0].double(), wanted, atol=1e-5)
    both = model.embed(path, pool="mean+std")
    std = video_latents(model, frames_by_hand(path)).double().std(0, correction=0)
    assert torch.allclose(both.vectors[0].double(), torch.cat([wanted, std]), atol=1e-5)
    assert both.header.width == 2 * found.header.width == 64
    grid = model.embed(path, pool="tokens")
    assert grid.vectors.shape == (1, 2 * 4 * 4, 32)
    assert torch.allclose(grid.vectors[0], video_latents(model, frames_by_hand(path)), atol=1e-5)
    assert grid.is_valid is not None
    assert bool(grid.is_valid.all())


def test_skeletons_count_available_joints_alone(model: LoadedModel, tmp_path: Path) -> None:
    """The oracle is what the probes pool; a grid has a hole wherever a joint is missing."""
    path = write_joints(tmp_path / "j.npz", seed=3)
    np.savez(path, **{**np.load(path), "units": np.array("share")})
    shares = np.load(path)["joints2d"] / 32
    np.savez(path, joints2d=shares, layout=np.array("COCO-17"), units=np.array("share"))
    grid = model.embed(path, modality="skeleton", pool="tokens")
    pooled = model.embed(path, modality="skeleton", pool="mean+std")
    assert grid.is_valid is not None
    of_probe = Features(grid.vectors, grid.is_valid, torch.zeros(1), ("j",), ()).pooled()
    assert torch.allclose(pooled.vectors, of_probe, atol=1e-5)
    assert grid.is_valid.shape == (1, 2 * 17)  # people x one segment of four frames x joints
    assert int(grid.is_valid.sum()) == 17  # one person; a joint is there if any of its frames is
    assert not grid.vectors[~grid.is_valid].any()


def test_fused_is_joint_attention_of_the_fusion_encoder(model: LoadedModel, mixed_data: Path) -> None:
    fused = model.embed(mixed_data, modality="fused", pool="tokens")
    config = model.config
    one = torch.zeros(1, dtype=torch.int64)
    assert model.pretrained.words is not None
    words = torch.full((1, 8), -1)
    ids = model.pretrained.words.encode(CAPTIONS[0], 8)
    words[0, : len(ids)] = ids
    assert fused.is_valid is not None
    n_of = {name: spec.n_tokens for name, spec in modality_specs(config.tokens).items()}
    assert fused.header.n_tokens == sum(n_of.values()) == 32 + 34 + 8
    of_text = fused.is_valid[:, -8:]
    assert of_text.sum(1).tolist() == [int((words[0] >= 0).sum()), *of_text.sum(1)[1:4].tolist(), 0]
    frames = frames_by_hand(mixed_data / "videos/c0.mkv")[None]
    reference = ClipBatch(clip_ids=one, labels=one, frames=frames, word_ids=words)
    packed, _ = pack_everything(token_sources(reference, config.tokens), modality_specs(config.tokens))
    encoder, sha256 = model.pretrained.fusion()
    without_joints = Clip(clip_id="x", frames=frames[0], word_ids=ids)
    with torch.no_grad():
        wanted = encoder(packed, "joint")[0].mean(0)
    assert torch.allclose(model.embed(without_joints, "fused").vectors[0], wanted, atol=1e-5)
    assert fused.header.model_sha256 == sha256 != model.embed(mixed_data / "videos/c0.mkv").header.model_sha256


def test_text_is_sentences_lines_and_captions(model: LoadedModel, mixed_data: Path, tmp_path: Path) -> None:
    listed = tmp_path / "said.txt"
    listed.write_text(f"{CAPTIONS[0]}\n\n{CAPTIONS[2]}\n")
    sentences = model.embed([CAPTIONS[0], CAPTIONS[2]], modality="text")
    lines = model.embed(listed, modality="text")
    captions = model.embed(mixed_data, modality="text")
    assert [row.caption for row in captions.rows] == list(CAPTIONS[:4])  # the last clip has none
    assert torch.allclose(sentences.vectors, lines.vectors, atol=1e-6)
    assert torch.allclose(sentences.vectors, captions.vectors[[0, 2]], atol=1e-5)
    assert [row.clip_id for row in lines.rows] == ["said.txt#1", "said.txt#3"]
    assert [row.path for row in lines.rows] == ["said.txt"] * 2
    assert sentences.rows[0].path is None
    assert captions.rows[0].path == "videos/c0.mkv"
    assert (captions.rows[0].fps, captions.rows[0].start_seconds, captions.rows[0].stride_frames) == (None, None, None)


def test_neighbours_in_a_batch_change_nothing(model: LoadedModel, mixed_data: Path) -> None:
    videos = sorted((mixed_data / "videos").iterdir())
    together = model.embed(videos)
    alone = [model.embed(path).vectors[0] for path in videos]
    assert torch.allclose(together.vectors, torch.stack(alone), atol=1e-5)
    assert len({tuple(row) for row in together.vectors.tolist()}) == len(videos)
    said = model.embed(list(CAPTIONS), modality="text")  # of different lengths
    alone = [model.embed(text, modality="text").vectors[0] for text in CAPTIONS]
    assert torch.allclose(said.vectors, torch.stack(alone), atol=1e-5)


def test_the_index_says_what_a_row_is(model: LoadedModel, mixed_run: Path, mixed_data: Path, tmp_path: Path) -> None:
    done = embed(mixed_run, [mixed_data], tmp_path / "e.safetensors", QUICK)
    assert (done.n_rows, done.n_bad, done.n_left_out) == (5, 0, 0)
    read = read_embeddings(tmp_path / "e.safetensors")
    row = read.rows[2]
    assert (row.clip_id, row.path, row.caption, row.label, row.label_id) == (
        "set/c2", "videos/c2.mkv", CAPTIONS[2], "a", 0,
    )  # fmt: skip
    assert (row.subject, row.split, row.fps, row.window) == ("2", "train", 25.0, 0)
    assert (row.start_seconds, row.end_seconds) == (0.0, N_FRAMES / 25)
    assert row.stride_frames == pytest.approx(11 / 3)
    assert dict(row.metadata) == {"view": "side 2", "joints_path": "joints/c2.npz"}
    assert row.source_sha256 == sha256((mixed_data / "videos/c2.mkv").read_bytes()).hexdigest()
    assert read.header.folder == str(mixed_data.resolve())
    summary = json.loads((mixed_run / "encoder/manifest.json").read_text())
    assert read.header.model_sha256 == summary["files"]["tensors.safetensors"]["sha256"]
    assert torch.equal(read.vectors, model.embed(mixed_data).vectors)
    joints = embed(mixed_run, [mixed_data], tmp_path / "j.parquet", replace(QUICK, modality="skeleton", split="test"))
    assert joints.n_rows == 2
    of_joints = read_embeddings(tmp_path / "j.parquet").rows[0]
    assert of_joints.path == "videos/c1.mkv"
    assert of_joints.source_sha256 == sha256((mixed_data / "joints/c1.npz").read_bytes()).hexdigest()


def test_parquet_and_safetensors_and_workers_agree(mixed_run: Path, mixed_data: Path, tmp_path: Path) -> None:
    config = replace(QUICK, windows=WindowConfig(kind="sliding", seconds=0.2))
    embed(mixed_run, [mixed_data], tmp_path / "a.safetensors", config)
    embed(mixed_run, [mixed_data], tmp_path / "b.parquet", replace(config, workers=1))
    first, second = (read_embeddings(tmp_path / name) for name in ("a.safetensors", "b.parquet"))
    assert torch.equal(first.vectors, second.vectors)
    assert first.rows == second.rows


def test_sliding_windows_are_the_clips_they_say(model: LoadedModel, mixed_data: Path) -> None:
    """12 frames at 25 a second: windows of 0.2 s are 5 frames, at 0, 5, and 7 to reach the end."""
    path = mixed_data / "videos/c0.mkv"
    found = model.embed(path, windows=WindowConfig(kind="sliding", seconds=0.2))
    assert [(row.window, row.start_seconds, row.end_seconds) for row in found.rows] == [
        (0, 0.0, 0.2), (1, 0.2, 0.4), (2, 7 / 25, 12 / 25),
    ]  # fmt: skip
    for row, first in zip(found.vectors, (0, 5, 7), strict=True):
        wanted = video_latents(model, frames_by_hand(path, first, first + 5)).mean(0)
        assert torch.allclose(row, wanted, atol=1e-5)


def test_short_and_single_pictures_have_one_row(model: LoadedModel, tmp_path: Path) -> None:
    """A clip shorter than a window is shown whole, repeating frames; a picture is a clip of one frame, of no rate."""
    short = noise_video(tmp_path / "short.mkv", n_frames=2, seed=1)
    windows = WindowConfig(kind="sliding", seconds=5.0)
    (row,) = model.embed(short, windows=windows).rows
    assert (row.start_seconds, row.end_seconds, row.fps) == (0.0, 0.08, 25.0)
    assert row.stride_frames == pytest.approx(1 / 3)
    picture = tmp_path / "one.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    found = model.embed(picture, windows=windows)
    assert (found.rows[0].fps, found.rows[0].start_seconds, found.rows[0].stride_frames) == (None, None, 0.0)
    frames = frames_by_hand(picture, 0, 1)
    assert torch.equal(frames[0], frames[3])
    assert torch.allclose(found.vectors[0], video_latents(model, frames).mean(0), atol=1e-5)


def test_joints_without_a_rate_have_no_seconds(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(
        path, joints=np.random.default_rng(0).normal(0, 0.4, (6, 17, 3)), layout=np.array("COCO-17"), units="metres"
    )
    assert model.embed(path, modality="skeleton").rows[0].fps is None
    with pytest.raises(InputError, match=r"frame rate is not known.*column fps in the index"):
        model.embed(path, modality="skeleton", windows=WindowConfig(kind="sliding"))


def test_a_folder_of_joints_or_pictures_needs_no_index(model: LoadedModel, tmp_path: Path) -> None:
    for i in range(2):
        metres_joints(tmp_path / f"p/{i}.npz", i)
    found = model.embed(tmp_path / "p", modality="skeleton")
    assert [row.clip_id for row in found.rows] == ["p/0.npz", "p/1.npz"]
    assert [row.path for row in found.rows] == ["0.npz", "1.npz"]


def test_clips_in_memory_are_embedded_as_they_are(model: LoadedModel, mixed_data: Path) -> None:
    frames = frames_by_hand(mixed_data / "videos/c0.mkv")
    found = model.embed(Clip(clip_id="mine", frames=frames, label=3))
    assert torch.allclose(found.vectors, model.embed(mixed_data / "videos/c0.mkv").vectors, atol=1e-5)
    assert (found.rows[0].clip_id, found.rows[0].label_id) == ("mine", 3)
    with pytest.raises(InputError, match="frames are"):
        model.embed(Clip(clip_id="mine", frames=frames[:, :, :16, :16]))


def test_people_are_data_too(model: LoadedModel) -> None:
    found: Embeddings = model.embed("people:3")
    assert len(found) == 3
    assert all(row.caption for row in found.rows)


def test_what_cannot_be_embedded_is_listed_and_told(mixed_run: Path, tmp_path: Path, oskar: CommandLine) -> None:
    folder = mixed_folder(tmp_path / "set", 5)
    (folder / "videos/c1.mkv").write_bytes((folder / "videos/c1.mkv").read_bytes()[:700])
    (folder / "videos/c3.mkv").write_bytes(b"")
    out = tmp_path / "e.safetensors"
    code, printed = oskar("embed", mixed_run, folder, "--out", out, "--workers", 0, "--device", "cpu")
    assert code == 5, printed
    assert "3 rows of 32 numbers" in printed
    assert f"2 could not be embedded: see {out}.bad.csv" in printed
    with Path(f"{out}.bad.csv").open(newline="") as file:
        bad = list(csv.DictReader(file))
    assert [(row["clip_id"], row["path"]) for row in bad] == [("set/c1", "videos/c1.mkv"), ("set/c3", "videos/c3.mkv")]
    assert "c3.mkv is empty (0 bytes)" in bad[1]["reason"]
    assert [row.clip_id for row in read_embeddings(out).rows] == ["set/c0", "set/c2", "set/c4"]
    with pytest.raises(InputError, match=r"2 of 5 could not be embedded, the first is set/c1"):
        load(mixed_run).embed(folder)


def test_joints_without_a_usable_token_are_listed(mixed_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    metres_joints(folder / "0.npz", 0)
    metres_joints(folder / "1.npz", 1, n_joints=5)
    np.savez(folder / "2.npz", boxes=np.ones((6, 4)), layout=np.array("COCO-17"))
    done = embed(mixed_run, [folder], tmp_path / "e.safetensors", replace(QUICK, modality="skeleton"))
    assert (done.n_rows, done.n_bad) == (1, 2)
    reasons = (tmp_path / "e.safetensors.bad.csv").read_text()
    assert "set/1.npz" in reasons
    assert "no usable token of skeleton" in reasons


def test_a_vector_that_is_not_finite_is_listed(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(latents: torch.Tensor, is_valid: torch.Tensor, pooling: str) -> torch.Tensor:
        vectors = latents.mean(1)
        vectors[1] = torch.nan
        return vectors

    monkeypatch.setattr(encode, "pool", broken)
    done = embed(mixed_run, [mixed_data], tmp_path / "e.safetensors", QUICK)
    assert (done.n_rows, done.n_bad) == (4, 1)
    assert "set/c1,videos/c1.mkv,its vector is not finite" in (tmp_path / "e.safetensors.bad.csv").read_text()


def test_when_nothing_can_be_embedded_no_file_is_written(mixed_run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"none of 1 clips could be embedded, the first is .*bad.mp4"):
        embed(mixed_run, [bad], tmp_path / "e.safetensors", QUICK)
    assert not (tmp_path / "e.safetensors").exists()
    assert (tmp_path / "e.safetensors.bad.csv").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nowhere.mp4"], "nowhere.mp4 does not exist. Fix: name a video, an image"),
        ([], "nothing to embed. Fix: name a video"),
        (["SET/index.csv", "--modality", "audio"], "modality = 'audio'"),
        (["SET", "--pool", "max"], "pool = 'max'"),
        (["SET", "--windows", "frames"], "kind = 'frames'"),
        (["SET", "--windows", "sliding", "--window-seconds", "0"], "--window-seconds = 0.0 is not valid"),
        (["SET", "--workers", "-1"], "--workers = -1 is not valid"),
        (["SET", "--text", "hello", "--modality", "video"], "--text with --modality video"),
        (["SET", "SET"], "given twice"),
        (["SET", "--split", "dev"], "no clip of split 'dev'. Fix: use one of test, train"),
        (["SET", "--head", "SET"], "holds no saved head. Fix: name an evaluation of this run"),
        (["HERE/notes.txt"], "notes.txt: sentences are of the modality text"),
        (["HERE/odd.pdf"], "odd.pdf: a .pdf file. Fix: name a video, an image"),
        (["SET", "--out", "e.npy"], "e.npy: embeddings are kept in .safetensors or .parquet files"),
        (["SET", "--device", "cuda:9"], "there is no GPU"),
    ],
)
def test_wrong_words_are_refused(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, oskar: CommandLine, words: list[str], named: str
) -> None:
    for name in ("notes.txt", "odd.pdf"):
        (tmp_path / name).write_text("one\n")
    given = [word.replace("SET", str(mixed_data)).replace("HERE", str(tmp_path)) for word in words]
    out = [] if "--out" in given else ["--out", str(tmp_path / "e.safetensors")]
    code, printed = oskar("embed", mixed_run, *given, *out)
    assert (code, named in printed) == (2, True), printed


def test_wrong_runs_and_files_that_are_there_are_refused(
    mixed_run: Path, mixed_data: Path, tmp_path: Path, oskar: CommandLine
) -> None:
    out = tmp_path / "e.safetensors"
    for folder, named in (
        (mixed_data, "holds no encoder"),
        (tmp_path / "none", "is not a folder"),
        (mixed_data / "index.csv", "not a folder"),
    ):
        code, printed = oskar("embed", folder, mixed_data, "--out", out)
        assert (code, named in printed) == (2, True), printed
    out.write_bytes(b"mine")
    code, printed = oskar("embed", mixed_run, mixed_data, "--out", out)
    assert (code, "is there already. Fix: name another file" in printed) == (2, True), printed
    assert out.read_bytes() == b"mine"


def test_a_run_without_the_modality_says_so(mixed_data: Path, tmp_path: Path) -> None:
    only_video = load(trained_run(tmp_path / "run", mixed_data, 'tokens.modalities=["video"]'))
    assert only_video.modalities == ("video",)
    for modality, named in (
        ("skeleton", "pretrained on video"),
        ("text", "--modality text: the run was pretrained on video"),
    ):
        with pytest.raises(InputError, match=named):
            only_video.embed([mixed_data] if modality == "skeleton" else ["a word"], modality=modality)  # type: ignore[arg-type]


def test_sentences_without_words_are_listed(mixed_run: Path, tmp_path: Path) -> None:
    config = replace(QUICK, modality="text")
    done = embed(mixed_run, [], tmp_path / "e.safetensors", config, text=["he runs", " \u200b", ""])
    assert (done.n_rows, done.n_bad) == (1, 2)
    listed = (tmp_path / "e.safetensors.bad.csv").read_text()
    assert listed.startswith("clip_id,path,reason\ntext-2,,")
    assert "holds no word" in listed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("modality", ["video", "skeleton", "fused"])
def test_a_gpu_gives_the_same_vectors(
    mixed_run: Path, mixed_data: Path, model: LoadedModel, modality: SourceName
) -> None:
    found = load(mixed_run, device="cuda").embed(mixed_data, modality)
    assert torch.allclose(found.vectors, model.embed(mixed_data, modality).vectors, atol=1e-4)
