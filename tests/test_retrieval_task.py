"""Retrieval end to end: colours told by sentences, files that add up, clips that cannot be read, official files."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch
from runs import CommandLine, joints_of, rows_of, shrunk, write_index, write_video

from oskar.config import Config
from oskar.data.folder_reader import FolderReader
from oskar.data.formats.caption_files import CaptionFilesConfig
from oskar.data.people_reader import N_LABELLED
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.pretraining import MaskedPrediction
from oskar.tasks import pairs
from oskar.tasks.retrieval import RetrievalConfig, evaluate_retrieval
from oskar.tasks.task import Protocol
from oskar.tokens.words import train_words
from oskar.train.pretrain import save_transfer

COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (250, 250, 250),
    "black": (5, 5, 5), "yellow": (230, 230, 20), "pink": (230, 20, 230), "cyan": (20, 230, 230),
}  # fmt: skip
SAYINGS = ("the picture is {}", "a wall of {}", "all {}")
QUICK = RetrievalConfig(steps=120, batch_size=8, lr=3e-3, width=16, precision="float32", device="cpu")
WAYS = ("text_to_video", "video_to_text_best_caption", "video_to_text_group_max")


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    return replace(config, tokens=replace(config.tokens, n_frames=4, n_words=8, vocabulary_size=200))


def saved_run(folder: Path, config: Config) -> Path:
    """The encoder of a run of no steps, with words for colours."""
    torch.manual_seed(0)
    captions = [saying.format(colour) for saying in SAYINGS for colour in COLOURS]
    words = train_words(captions, 200)
    save_transfer(MaskedPrediction(config), config, words, folder / "encoder")
    return folder


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Path:
    return saved_run(tmp_path / "run", config)


def colour_video(path: Path, colour: str, seed: int) -> Path:
    noise = np.random.default_rng(seed).normal(0, 12, (5, 32, 32, 3))
    return write_video(path, (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def colour_folder(folder: Path, per_colour: int = 4) -> Path:
    """Clips of noisy colours; of each colour the last is of the test split."""
    rows: list[dict[str, object]] = []
    for i, colour in enumerate(COLOURS):
        for n in range(per_colour):
            name = f"{colour}{n}"
            colour_video(folder / f"{name}.mkv", colour, seed=10 * i + n)
            split = "test" if n == per_colour - 1 else "train"
            text = SAYINGS[n % 3].format(colour)
            rows.append({"clip_id": name, "path": f"{name}.mkv", "caption": text, "split": split, "subject": n})
    return write_index(folder, rows)


def evaluate(
    run: Path,
    data: Path | str,
    out: Path,
    config: RetrievalConfig = QUICK,
    protocol: Protocol = "frozen",
    modality: Modality = "video",
) -> dict[str, Any]:
    summary = evaluate_retrieval(run, [str(data)], modality, out, config, protocol)
    assert json.loads(json.dumps(summary)) == json.loads((out / "summary.json").read_text())
    require_recomputable(out, summary)
    return summary


def require_recomputable(out: Path, summary: dict[str, Any]) -> None:
    """Every figure from the ranks of the file, and every rank of at most ten from the listed ids."""
    ranks: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows_of(out):
        rank = float(row["rank"])
        ranks[row["weights"], row["direction"]].append(rank)
        own = row["query"].split("#")[0]
        listed = [row[f"top{i + 1}"].split("#")[0] for i in range(10)]
        if not row["not_read"] and rank <= 10 and rank == int(rank):
            assert own in listed
        if not row["not_read"] and rank == 1:
            assert listed[0] == own
    for weights, figures in (("pretrained", summary["metrics"]), ("random", summary["controls"]["random_weights"])):
        for way in WAYS:
            own_ranks = ranks[weights, way]
            assert figures[f"{way}_n_queries"] == len(own_ranks)
            for k in (1, 5, 10):
                assert figures[f"{way}_r{k}_percent"] == 100.0 * sum(r <= k for r in own_ranks) / len(own_ranks)
            assert figures[f"{way}_median_rank"] == median(own_ranks)
            assert figures[f"{way}_mean_rank"] == pytest.approx(mean(own_ranks))


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_colours_are_found_by_their_sentences(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    summary = evaluate(run, colour_folder(tmp_path / "data"), tmp_path / "out", protocol=protocol)
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"], summary["n_train"]) == (8, 8, 8, 24)
    assert summary["protocol"] == protocol
    assert summary["metrics"]["text_to_video_r1_percent"] >= 75
    assert summary["metrics"]["video_to_text_group_max_r1_percent"] >= 75
    chance = summary["controls"]["chance"]
    assert chance["text_to_video_r1_percent"] == 12.5
    assert chance["text_to_video_mean_rank"] == 4.5
    assert summary["controls"]["ceiling_of_equal_sentences"]["r1_percent"] == 100.0
    assert summary["n_captions"] == summary["n_distinct_captions"] == 8
    assert "rerank_dual_softmax" in summary
    assert not any("softmax" in name for name in summary["metrics"])


def test_random_weights_are_other_weights_in_the_same_training(run: Path, tmp_path: Path) -> None:
    """A run of no steps has the weights of seed 0: its control is itself, and that of seed 1 is not."""
    data = colour_folder(tmp_path / "data", per_colour=2)
    same = evaluate(run, data, tmp_path / "same")
    assert same["controls"]["random_weights"] == same["metrics"]
    other = evaluate(run, data, tmp_path / "other", replace(QUICK, seed=1))
    assert other["controls"]["random_weights"] != other["metrics"]


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_neither_batches_nor_workers_nor_repetition_change_anything(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Protocol
) -> None:
    data, config = colour_folder(tmp_path / "data", per_colour=2), replace(QUICK, steps=10)
    first = evaluate(run, data, tmp_path / "first", config, protocol)
    again = evaluate(run, data, tmp_path / "again", replace(config, workers=1), protocol)
    assert {key for key in first if again[key] != first[key]} == {"settings"}
    monkeypatch.setattr(pairs, "_CLIPS_AT_ONCE", 3)
    monkeypatch.setattr(pairs, "_SENTENCES_AT_ONCE", 5)
    small = evaluate(run, data, tmp_path / "small", config, protocol)
    assert small["metrics"] == first["metrics"]
    texts = [(tmp_path / name / "predictions.csv").read_text() for name in ("first", "again", "small")]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_clips_that_cannot_be_read_are_wrong_and_listed(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    data = colour_folder(tmp_path / "data", per_colour=2)
    for name in ("red1", "blue0"):  # of test and of training
        (data / f"{name}.mkv").write_bytes(b"broken")
    summary = evaluate(run, data, tmp_path / "out", replace(QUICK, steps=10), protocol)
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"]) == (8, 8, 7)
    assert list(summary["bad_clips"]) == ["data/red1"]
    assert list(summary["bad_train_clips"]) == ["data/blue0"]
    own = [row for row in rows_of(tmp_path / "out") if row["query"].startswith("data/red1")]
    assert {row["direction"] for row in own} == set(WAYS)
    assert all("red1.mkv" in row["not_read"] for row in own)
    assert all(row["rank"] == "11" for row in own)  # behind a gallery of 8, and wrong at ten
    by_text = [row for row in rows_of(tmp_path / "out") if row["direction"] == "text_to_video"]
    assert not any(row[f"top{i + 1}"] == "data/red1" for row in by_text for i in range(10))
    for way in WAYS:
        assert summary["metrics"][f"{way}_r10_percent"] == 87.5
        assert summary["rerank_dual_softmax"][f"{way}_r10_percent"] == 87.5


def test_dual_softmax_is_only_in_its_own_block(run: Path, tmp_path: Path) -> None:
    """The two temperatures differ in that block alone."""
    data, config = colour_folder(tmp_path / "data", per_colour=2), replace(QUICK, steps=2)
    first = evaluate(run, data, tmp_path / "first", config)
    second = evaluate(run, data, tmp_path / "second", replace(config, dual_softmax_temperature=1e-3))
    assert {key for key in first if first[key] != second[key]} <= {"rerank_dual_softmax", "settings"}


def test_skeletons_are_found_by_their_sentences(config: Config, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[dict[str, object]] = []
    for i in range(24):
        joints = joints_of(i % 6, 6, i)
        np.savez(folder / f"j{i}.npz", joints=joints, layout=np.array("COCO-17"), units=np.array("metres"))
        rows.append(
            {
                "clip_id": f"j{i}", "joints_path": f"j{i}.npz", "caption": f"all {list(COLOURS)[i % 6]}",
                "split": "test" if i >= 18 else "train",
            }
        )  # fmt: skip
    rows.append({"clip_id": "silent", "joints_path": "j0.npz", "split": "test"})
    np.savez(folder / "j1.npz", joints=np.zeros((6, 17, 3)), layout=np.array("COCO-17"), units=np.array("metres"))
    summary = evaluate(run, write_index(folder, rows), tmp_path / "out", modality="skeleton")
    assert (summary["modality"], summary["n_evaluated"], summary["n_left_out"]) == ("skeleton", 6, 1)
    assert list(summary["bad_train_clips"]) == ["data/j1"]
    assert summary["metrics"]["text_to_video_r1_percent"] >= 50
    tuned = evaluate(run, folder, tmp_path / "tuned", replace(QUICK, steps=5), protocol="finetune", modality="skeleton")
    assert tuned["n_evaluated"] == 6


def test_people_and_what_is_said_of_several_clips(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(N_LABELLED, "train", 20)
    monkeypatch.setitem(N_LABELLED, "test", 12)
    summary = evaluate(run, "people", tmp_path / "out", replace(QUICK, steps=3))
    assert (summary["data"], summary["n_expected"], summary["n_train"]) == (["people"], 12, 20)
    assert summary["data_sha256"] != summary["train_sha256"]


def nothing_is_read(*_: object, **__: object) -> None:
    raise AssertionError("a clip was decoded")


def test_what_is_absent_is_said_before_anything_is_decoded(
    config: Config, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderReader, "read", nothing_is_read)
    data = colour_folder(tmp_path / "data", per_colour=2)
    only: tuple[Modality, ...] = ("video",)
    silent = tmp_path / "no text"
    blind = replace(config, tokens=replace(config.tokens, modalities=only))
    save_transfer(MaskedPrediction(blind), blind, None, silent / "encoder")
    composed = colour_folder(tmp_path / "composed", per_colour=2)
    text = (composed / "index.csv").read_text().replace("subject", "x_subject").replace(",caption,", ",x_text,")
    (composed / "index.csv").write_text(text)
    cases: tuple[tuple[Path, Path | str, Modality, RetrievalConfig, str], ...] = (
        (silent, data, "video", QUICK, "pretrained without text"),
        (silent, data, "skeleton", QUICK, "--modality skeleton: the run was pretrained on video"),
        (run, data, "skeleton", QUICK, "no clip of split 'train' has skeleton and a written caption"),
        (run, composed, "video", QUICK, "no clip of split 'train' has video and a written caption"),
        (run, data, "video", replace(QUICK, split="train"), "split = 'train' is what the projections learn on"),
        (run, data, "video", replace(QUICK, split="val"), "no clip of split 'val'"),
        (run, data, "video", replace(QUICK, test_subjects=("9",)), r"test_subjects = \['9'\], its subjects are 0, 1"),
        (run, "people", "video", replace(QUICK, test_subjects=("9",)), "people have their own splits"),
        (run, data, "video", replace(QUICK, files=CaptionFilesConfig(mapping="x")), "files.benchmark"),
    )
    for folder, where, modality, changed, named in cases:
        with pytest.raises(InputError, match=named):
            evaluate_retrieval(folder, [str(where)], modality, tmp_path / named[:9], changed, "frozen")


def test_subjects_make_splits_where_there_are_none(run: Path, tmp_path: Path) -> None:
    data = colour_folder(tmp_path / "data", per_colour=3)
    config = replace(QUICK, steps=3, test_subjects=("0",))
    summary = evaluate(run, data, tmp_path / "out", config)
    assert (summary["n_expected"], summary["n_train"]) == (8, 16)
    assert all("0" in row["query"].split("#")[0] for row in rows_of(tmp_path / "out"))


def test_settings_and_commands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    data = colour_folder(tmp_path / "data", per_colour=2)
    words = ["evaluate", run, "--task", "text-video-retrieval", "--data", data, "precision=float32", "steps=2"]
    for more, named in (
        (["width=0"], "width = 0"),
        (["crop_scale=[0.9,0.5]"], "crop_scale"),
        (["files.benchmrak=msvd"], "files.benchmark"),
        (["captions=some"], "captions = 'some'"),
        (["--protocol", "x"], "--protocol 'x'"),
        (["files.benchmark=msvd"], "files.annotations"),
    ):
        code, printed = oskar(*words, *more)
        assert code == 2, printed
        assert named in printed
    code, printed = oskar(*words, "--protocol", "finetune", "--out", tmp_path / "tuned")
    assert code == 0, printed
    code, printed = oskar(*words)
    assert code == 0, printed
    assert (run / "evaluations" / "text-video-retrieval-video-data-seed0" / "summary.json").is_file()


def official_videos(folder: Path, names: Sequence[str]) -> Path:
    for i, name in enumerate(names):
        colour_video(folder / f"{name}.mkv", list(COLOURS)[i % len(COLOURS)], seed=i)
    return folder


def test_msrvtt_with_several_captions_and_a_missing_video(run: Path, tmp_path: Path) -> None:
    names = [f"video{i}" for i in range(7)]
    sentences = [
        {"sen_id": 9 * i + n, "video_id": name, "caption": SAYINGS[n].format(list(COLOURS)[i])}
        for i, name in enumerate(names)
        for n in range(1 + i % 3)
    ]
    videos = [{"video_id": name, "split": "train" if i < 3 else "test"} for i, name in enumerate(names)]
    annotations = tmp_path / "MSRVTT_data.json"
    annotations.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    folder = official_videos(tmp_path / "videos", names[:-1])
    files = CaptionFilesConfig(benchmark="msrvtt", annotations=str(annotations))
    summary = evaluate(run, folder, tmp_path / "full", replace(QUICK, steps=3, files=files))
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"]) == (4, 3, 3)
    assert summary["missing_clips"] == ["video6"]
    assert summary["data"] == ["msrvtt"]
    assert summary["metrics"]["text_to_video_n_queries"] == 1 + 2 + 3  # videos 3, 4 and 5
    assert summary["metrics"]["video_to_text_best_caption_n_queries"] == 3
    chance = summary["controls"]["chance"]
    assert chance["video_to_text_best_caption_r1_percent"] == pytest.approx(100 * (1 + 2 + 3) / 6 / 3)
    ids, queries = tmp_path / "train.csv", tmp_path / "1k-A.csv"
    ids.write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    queries.write_text("key,vid_key,video_id,sentence\nret0,msr5,video5,all cyan\nret1,msr4,video4,all pink\n")
    files = replace(files, train_ids=str(ids), test_annotations=str(queries))
    summary = evaluate(run, folder, tmp_path / "1k-A", replace(QUICK, steps=3, files=files))
    assert (summary["n_expected"], summary["n_captions"], summary["n_train"]) == (2, 2, 3)
    assert {row["caption"] for row in rows_of(tmp_path / "1k-A")} == {"all cyan", "all pink", ""}


def test_msvd_and_vatex(run: Path, tmp_path: Path) -> None:
    names = ["ab_c_000001_000011", "d-e_000002_000012", "fg_000003_000013", "hi_000004_000014"]
    folder = official_videos(tmp_path / "videos", names)
    captions = {name: [f"all {list(COLOURS)[i]}"] * (i + 1) for i, name in enumerate(names)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for split, some in (("train", names[:2]), ("test", names[2:])):
        (tmp_path / f"{split}_list.txt").write_text("\n".join(some))
        entries = [{"videoID": name, "enCap": captions[name]} for name in some]
        (tmp_path / f"vatex_{split}.json").write_text(json.dumps(entries))
    msvd = CaptionFilesConfig(
        benchmark="msvd", annotations=str(tmp_path / "captions.json"),
        train_ids=str(tmp_path / "train_list.txt"), test_ids=str(tmp_path / "test_list.txt"),
    )  # fmt: skip
    vatex = CaptionFilesConfig(
        benchmark="vatex", annotations=str(tmp_path / "vatex_train.json"),
        test_annotations=str(tmp_path / "vatex_test.json"),
    )  # fmt: skip
    found = [
        evaluate(run, folder, tmp_path / str(files.benchmark), replace(QUICK, steps=3, files=files))
        for files in (msvd, vatex)
    ]
    assert [summary["data"] for summary in found] == [["msvd"], ["vatex"]]
    for summary in found:
        assert (summary["n_captions"], summary["n_distinct_captions"], summary["n_train"]) == (7, 2, 2)
    assert found[0]["metrics"] == found[1]["metrics"]  # one set of clips and captions in two formats
    assert found[0]["data_sha256"] == found[1]["data_sha256"]
    for files, named in (
        (replace(msvd, test_ids=None), "files.test_ids is not set"),
        (replace(msvd, test_chosen="x"), "files.test_chosen = 'x' is not used beside benchmark"),
        (replace(msvd, test_ids=msvd.train_ids), "2 videos are in training and test, the first is ab_c"),
        (replace(vatex, mapping="x"), "files.mapping = 'x' is not used"),
    ):
        with pytest.raises(InputError, match=named):
            evaluate(run, folder, tmp_path / "refused", replace(QUICK, files=files))
    with pytest.raises(InputError, match="holds none of the 2 train videos, the first is ab_c"):
        evaluate(run, tmp_path / "msvd", tmp_path / "empty", replace(QUICK, files=msvd))
    with pytest.raises(InputError, match="its files say what is tested"):
        evaluate(run, folder, tmp_path / "skeletons", replace(QUICK, files=msvd), modality="skeleton")
