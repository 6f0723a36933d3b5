"""Answering questions: the head written out, a task that only both inputs solve, controls, files that add up."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import networks
from runs import CommandLine, noise_video, official_questions, packed_folder, rows_of, shrunk, write_questions
from torch import Tensor

from oskar.config import Config, ModelConfig
from oskar.data import people_reader
from oskar.data.formats.video_qa import read_answer_list
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.pretraining import MaskedPrediction
from oskar.tasks import question_answering, question_fitting
from oskar.tasks.answer_head import AnswerHead, Latents
from oskar.tasks.question_answering import QuestionAnsweringConfig, evaluate_question_answering
from oskar.tasks.question_fitting import Study, Variant
from oskar.tasks.task import Protocol
from oskar.tasks.transfer import random_encoder
from oskar.tokens.words import train_words
from oskar.train.pretrain import save_transfer

QUICK = QuestionAnsweringConfig(steps=80, batch_size=16, lr=3e-3, precision="float32", device="cpu")
BLIND = ("language_only", "most_frequent", "most_frequent_of_kind")


@pytest.fixture
def config() -> Config:
    config = shrunk("oskar-tiny")
    clip = replace(config.clip, yaw_degrees=0.0)
    tokens = replace(config.tokens, n_frames=4)
    return replace(config, tokens=tokens, clip=clip, model=replace(config.model, n_blocks=1))


def saved_run(config: Config, folder: Path, *, has_words: bool = True) -> Path:
    """The encoder of a run of no steps."""
    torch.manual_seed(0)
    words = train_words(["what is it", "is it the first", "who runs"], config.tokens.vocabulary_size)
    save_transfer(MaskedPrediction(config), config, words if has_words else None, folder / "encoder")
    return folder


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Path:
    return saved_run(config, tmp_path / "run")


def pose_questions(folder: Path, n_clips: int = 36) -> Path:
    """Two questions about each pose: neither the question nor the pose alone says the answer."""
    packed_folder(folder, n_clips)
    rows = []
    for i in range(n_clips):
        pose = "abc"[i // 2 % 3]
        rows += [(f"s{i}", "what is it", pose), (f"s{i}", "is it the first", "yes" if pose == "a" else "no")]
    return write_questions(folder, *rows)


def evaluate(
    run: Path,
    data: Path | str,
    out: Path,
    modality: Modality = "skeleton",
    protocol: Protocol = "frozen",
    config: QuestionAnsweringConfig = QUICK,
) -> dict[str, Any]:
    summary = evaluate_question_answering(run, [str(data)], modality, out, config, protocol)
    assert json.loads(json.dumps(summary)) == json.loads((out / "summary.json").read_text())
    require_recomputable(out, summary)
    return summary


def require_recomputable(out: Path, summary: dict[str, Any]) -> None:
    """Every accuracy and the coverage, exactly, from the two files beside the summary."""
    rows, answers = rows_of(out), read_answer_list(out / "answers.json")
    assert len(rows) == summary["n_expected"]
    for column, values in {"prediction": summary["metrics"], **summary["controls"]}.items():
        expected = {"accuracy_percent": [row[column] == row["answer"] for row in rows]}
        expected["coverage_percent"] = [row["answer"] in answers for row in rows]
        for kind in {row["kind"] for row in rows}:
            expected[f"accuracy_percent_{kind}"] = [r[column] == r["answer"] for r in rows if r["kind"] == kind]
        assert values == {name: 100.0 * sum(right) / len(right) for name, right in expected.items()}
        assert {row[column] for row in rows} <= {*answers, ""}


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_both_inputs_solve_what_neither_does_alone(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    data = pose_questions(tmp_path / "data")
    config = replace(QUICK, steps=50, encoder_lr_share=1.0, label_smoothing=0.0)
    summary = evaluate(run, data, tmp_path / "out", protocol=protocol, config=config)
    assert summary["metrics"]["accuracy_percent"] > 90
    assert summary["controls"]["language_only"]["accuracy_percent"] == 50.0  # 1/3 of poses, 2/3 of "no"
    assert summary["controls"]["skeleton_only"]["accuracy_percent"] <= 50.0  # one answer to two questions
    assert summary["controls"]["most_frequent"]["accuracy_percent"] == pytest.approx(100 / 3)
    assert summary["controls"]["most_frequent_of_kind"]["accuracy_percent"] == 50.0
    assert set(summary["controls"]) == {"random_weights", "skeleton_only", *BLIND}
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"], summary["n_clips"]) == (36, 36, 36, 18)
    assert summary["metrics"]["coverage_percent"] == 100.0
    assert summary["n_questions_of_kind"] == {"is": 18, "what": 18}
    assert (summary["task"], summary["protocol"]) == ("video-question-answering", protocol)
    assert "note" not in summary


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_the_same_seed_gives_the_same_numbers(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    data, config = pose_questions(tmp_path / "data", 8), replace(QUICK, steps=4)
    summary = evaluate(run, data, tmp_path / "out", protocol=protocol, config=config)
    again = evaluate(run, data, tmp_path / "again", protocol=protocol, config=replace(config, workers=1))
    assert {**again, "settings": None} == {**summary, "settings": None}
    assert (tmp_path / "again/predictions.csv").read_text() == (tmp_path / "out/predictions.csv").read_text()
    # The run of no steps is its control's own start.
    assert summary["metrics"] == summary["controls"]["random_weights"]
    other = evaluate(run, data, tmp_path / "other", protocol=protocol, config=replace(config, seed=1))
    heads = [
        next((tmp_path / name / "heads/prediction/checkpoints").glob("*/tensors.safetensors")).read_bytes()
        for name in ("out", "again", "other")
    ]
    assert heads[0] == heads[1] != heads[2]
    assert other["seed"] == 1


def distance(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference of two parameters that belong together."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def test_fine_tuning_trains_encoders_of_its_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant trains what it sees and nothing else, from the run's weights or from random ones."""
    seen: list[tuple[set[str], bool]] = []

    def ask(study: Study, module: Any, variant: Variant, encoded: Any) -> list[str | None]:
        moved = set()
        for name, encoder in module.backbone.encoders.items():
            starts = [study.transfer.encoder(name), random_encoder(study.transfer.config, name, 1)]
            shift = [distance(encoder, start) for start in starts]
            assert 0 < shift[variant.is_random] < 1e-3 < shift[not variant.is_random]
            moved.add(name)
        seen.append((moved, variant.is_random))
        return [None] * len(study.test.questions)

    monkeypatch.setattr(question_fitting, "ask", ask)
    config = replace(QUICK, steps=2, seed=1, lr=1e-5)
    evaluate(run, pose_questions(tmp_path / "data", 8), tmp_path / "out", "skeleton", "finetune", config)
    both = {"skeleton", "text"}
    assert seen == [(both, False), (both, True), ({"text"}, False), ({"skeleton"}, False)]


def test_answers_do_not_depend_on_how_they_are_batched(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, n_asked = question_fitting.ask, 0

    def ask(study: Study, module: Any, variant: Variant, encoded: Any) -> list[str | None]:
        nonlocal n_asked
        n_asked += 1
        configs = [replace(study.config, batch_size=n) for n in (1, 5, 64)]
        answers = [inner(replace(study, config=config), module, variant, encoded) for config in configs]
        assert answers[0] == answers[1] == answers[2]
        return answers[0]

    monkeypatch.setattr(question_fitting, "ask", ask)
    evaluate(run, pose_questions(tmp_path / "data", 12), tmp_path / "out", config=replace(QUICK, steps=5))
    assert n_asked == 4


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_clips_that_cannot_be_read_are_wrong_and_listed(run: Path, tmp_path: Path, protocol: Protocol) -> None:
    """Clip 1 has no file and clip 3 is broken; answers outside the list are wrong whatever is said."""
    folder = tmp_path / "official"
    (folder / "videos").mkdir(parents=True)
    for i in (0, 2, 4, 5):
        noise_video(folder / "videos" / f"video{i}.mkv", n_frames=4, seed=i)
    for i in (3, 6):
        (folder / "videos" / f"video{i}.mkv").write_bytes(b"broken")
    train = [(0, "kite"), (2, "kite"), (2, "dog"), (6, "kite"), (7, "someone"), (0, "someone")]
    test = [(1, "kite"), (3, "kite"), (4, "kite"), (5, "onion"), (5, "dog")]
    for split, asked in (("train", train), ("test", test)):
        entries = [{"id": i, "video_id": v, "question": "what is it", "answer": a} for i, (v, a) in enumerate(asked)]
        (folder / f"{split}_qa.json").write_text(json.dumps(entries))
    config = replace(QUICK, steps=3, n_answers=2)
    summary = evaluate(run, f"msrvtt-qa:{folder}", tmp_path / "out", "video", protocol, config)
    assert read_answer_list(tmp_path / "out/answers.json") == ("kite", "someone")
    assert (summary["n_expected"], summary["n_found"], summary["n_evaluated"]) == (5, 4, 3)
    assert summary["metrics"]["coverage_percent"] == 60.0
    assert summary["controls"]["most_frequent"]["accuracy_percent"] == 60.0  # needs no clip
    assert sorted(summary["bad_clips"]) == ["video1", "video3"]
    assert sorted(summary["bad_train_clips"]) == ["video6", "video7"]
    assert summary["n_train_answers_outside_list"] == 1
    rows = rows_of(tmp_path / "out")
    assert [bool(row["not_read"]) for row in rows] == [True, True, False, False, False]
    assert [row["prediction"] == "" for row in rows] == [True, True, False, False, False]
    assert all(row["language_only"] for row in rows)


@pytest.mark.parametrize("name", ["msvd-qa", "tgif-frameqa"])
def test_official_sets_are_answered(run: Path, tmp_path: Path, name: str) -> None:
    folder = official_questions(tmp_path / "official", name)
    summary = evaluate(run, f"{name}:{folder}", tmp_path / "out", "video", config=replace(QUICK, steps=2))
    assert (summary["n_expected"], summary["n_evaluated"], summary["n_answers"]) == (2, 1, 2)
    assert summary["metrics"]["coverage_percent"] == 50.0  # nobody in training answered "cook"
    assert summary["data"] == [name]


def test_people_are_asked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(people_reader.N_LABELLED, "train", 24)
    monkeypatch.setitem(people_reader.N_LABELLED, "test", 8)
    summary = evaluate(run, "people", tmp_path / "out", "video", config=replace(QUICK, steps=5))
    kinds = {key.removeprefix("accuracy_percent_") for key in summary["metrics"]} - {"accuracy_percent"}
    assert kinds == {"action", "count", "colour", "side", "who", "coverage_percent"}
    assert summary["n_clips"] == 8
    most = Counter(row["most_frequent"] for row in rows_of(tmp_path / "out"))
    assert len(most) == 1


def test_composed_questions_are_called_composed(run: Path, tmp_path: Path) -> None:
    data = packed_folder(tmp_path / "data", 8)
    rows = [(f"s{i}", "what is it", "ab"[i % 3 == 0], "composed_from_label") for i in range(8)]
    write_questions(data, *rows, header="clip_id,question,answer,source")
    summary = evaluate(run, data, tmp_path / "out", config=replace(QUICK, steps=1))
    assert summary["note"] == question_answering.NOTE_COMPOSED


def test_runs_that_cannot_answer_are_refused(config: Config, run: Path, tmp_path: Path) -> None:
    data = pose_questions(tmp_path / "data", 8)
    silent = replace(config, tokens=replace(config.tokens, modalities=("video", "skeleton")))
    for folder, modality, changes, message in (
        (saved_run(config, tmp_path / "wordless", has_words=False), "skeleton", {}, "without captions: it cannot read"),
        (saved_run(silent, tmp_path / "silent"), "skeleton", {}, "without text, on video, skeleton: it cannot read"),
        (run, "video", {}, "no clip has video"),
        (run, "skeleton", {"split": "train"}, "split = 'train'.*another split"),
        (run, "skeleton", {"split": "val"}, "no clip of split 'val'"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(folder, data, tmp_path / "out", modality, config=replace(QUICK, **changes))  # type: ignore[arg-type]
        assert not (tmp_path / "out" / "summary.json").exists()
    for name in ("n_answers", "n_layers", "max_words"):
        with pytest.raises(InputError, match=f"{name} = 0"):
            replace(QUICK, **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"label_smoothing = 1\.0"):
        replace(QUICK, label_smoothing=1.0)


def test_the_command_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    words = ("evaluate", run, "--task", "video-question-answering", "--modality", "skeleton", "--data")
    data = pose_questions(tmp_path / "data", 8)
    settings = ("steps=2", "precision=float32", "device=cpu", "n_answers=all")
    code, printed = oskar(*words, data, "--protocol", "finetune", *settings)
    assert code == 0, printed
    assert "coverage_percent" in printed
    assert (run / "evaluations/video-question-answering-finetune-skeleton-data-seed0/answers.json").is_file()
    code, printed = oskar(*words, data, "--protocol", "probe")
    assert code == 2
    assert "frozen or finetune" in printed


def written_out(state: dict[str, Tensor], clip: Tensor, question: Tensor, n_layers: int, n_heads: int) -> Tensor:
    """One item's scores from the tokens that exist, without a batch."""

    def norm(name: str, x: Tensor) -> Tensor:
        return networks.layer_norm(x, 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = question[None]
    for i in range(n_layers):
        own = f"layers.{i}."
        for norm_name, name in (("norm_self", "self_attention"), ("norm_cross", "cross_attention")):
            normed = norm(own + norm_name, x)
            weight, output = state[f"{own}{name}.query_key_value.weight"], state[f"{own}{name}.output.weight"]
            context = normed if name == "self_attention" else clip[None]
            x = x + torch.einsum("bqe,de->bqd", networks.attention(normed, context, weight, None, n_heads), output)
        both = torch.einsum("bqd,hd->bqh", norm(own + "norm_mlp", x), state[own + "mlp.gate_value.weight"])
        gate, value = both.chunk(2, -1)
        x = x + torch.einsum("bqh,dh->bqd", gate * torch.sigmoid(gate) * value, state[own + "mlp.output.weight"])
    hidden = state["answer.0.weight"] @ x[0].mean(0) + state["answer.0.bias"]
    hidden = norm("answer.2", hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))
    return state["answer.3.weight"] @ hidden + state["answer.3.bias"]


def test_the_head_written_out() -> None:
    """Scores do not see what pads a batch; a blind head has its learned token instead."""
    model = ModelConfig(width=16, n_blocks=1, n_heads=4)
    lengths = torch.tensor([[5], [2], [1]])
    clips = Latents(torch.randn(3, 5, 16), torch.arange(5) < lengths)
    questions = Latents(torch.randn(3, 4, 16), torch.arange(4) < torch.tensor([[1], [4], [2]]))
    for latents in (clips, questions):
        latents.tokens[~latents.is_valid] = 1e4
    for sees_clip, sees_question in ((True, True), (False, True), (True, False)):
        head = AnswerHead(model, 6, n_layers=2, sees_clip=sees_clip, sees_question=sees_question)
        state = networks.randomised(head).state_dict()
        scores = head(clips if sees_clip else None, questions if sees_question else None, 3)
        for i in range(3):
            clip = clips.tokens[i][clips.is_valid[i]] if sees_clip else state["clip_query"][None]
            question = questions.tokens[i][questions.is_valid[i]] if sees_question else state["question_query"][None]
            torch.testing.assert_close(scores[i], written_out(state, clip, question, 2, 4), rtol=1e-3, atol=1e-3)
