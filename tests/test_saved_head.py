"""Heads met again: the same numbers on the same data, and a refusal that says what differs on any other."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import CommandLine, packed_folder, shrunk

from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.tasks.finetuning import FinetuneConfig, evaluate_finetuned
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.train.pretrain import save_transfer

PROBE = ProbeConfig(steps=10, precision="float32", device="cpu", seed=3)
TUNED = FinetuneConfig(steps=6, batch_size=4, precision="float32", device="cpu", seed=3)


def save_run(folder: Path, seed: int) -> Path:
    config = shrunk("oskar-tiny")
    config = replace(config, tokens=replace(config.tokens, modalities=("video", "skeleton"), n_frames=4))
    torch.manual_seed(seed)
    save_transfer(MaskedPrediction(config), config, None, folder / "encoder")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, data, and a frozen and a fine-tuned evaluation of them."""
    place = tmp_path_factory.mktemp("place")
    run, data = save_run(place / "run", 0), packed_folder(place / "data", 24)
    evaluate_recognition(run, [str(data)], "skeleton", place / "frozen", PROBE)
    evaluate_finetuned(run, [str(data)], "skeleton", place / "finetune", TUNED)
    return place


def again(
    place: Path, out: Path, protocol: str, data: Path, run: Path | None = None, **settings: Any
) -> dict[str, Any]:
    head = str(settings.pop("head", place / protocol))
    run = run or place / "run"
    if protocol == "frozen":
        return evaluate_recognition(run, [str(data)], "skeleton", out, replace(PROBE, seed=0, head=head, **settings))
    return evaluate_finetuned(run, [str(data)], "skeleton", out, replace(TUNED, seed=0, head=head, **settings))


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
def test_a_head_gives_its_own_numbers_again(place: Path, tmp_path: Path, protocol: str) -> None:
    """Also from a copy of the data elsewhere, and whatever seed the settings have."""
    copied = Path(shutil.copytree(place / "data", tmp_path / "elsewhere" / "data"))
    again(place, tmp_path / "out", protocol, copied)
    before, after = ((folder / "predictions.csv").read_text() for folder in (place / protocol, tmp_path / "out"))
    assert after == before
    assert not (tmp_path / "out" / "heads").exists()


def without(label: str) -> Callable[[str], str]:
    return lambda text: "\n".join(line for line in text.splitlines() if f",{label}," not in line) + "\n"


@pytest.mark.parametrize("protocol", ["frozen", "finetune"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("c"), ("other classes", "3 learned, 2 given", "the data lacks 1 ('c')", "the head lacks none")),
        (lambda text: text.replace(",c,", ",d,"), ("lacks 1 ('c')", "the head lacks 1 ('d')")),
        (
            lambda text: "\n".join(line for line in text.splitlines() if not line.startswith(("s1,", "s3,"))) + "\n",
            ("split 'test' is another", "12 clips then, 10 now", "gone: 2 ('data/s1', 'data/s3')", "new: none"),
        ),
        (
            lambda text: text.replace("train", "x").replace("test", "train").replace(",x", ",test"),
            ("split 'test' is another", "12 clips then, 12 now", "12 of them are what the head learned on"),
        ),
        (
            lambda text: text.replace("s1,6,12,a", "s1,6,12,b"),
            ("split 'test' is another", "the same 12 clips with other labels"),
        ),
    ],
)
def test_other_data_is_refused_with_the_difference(
    place: Path, tmp_path: Path, protocol: str, change: Callable[[str], str], named: tuple[str, ...]
) -> None:
    data = Path(shutil.copytree(place / "data", tmp_path / "data"))
    text = (data / "index.csv").read_text()
    assert change(text) != text
    (data / "index.csv").write_text(change(text))
    with pytest.raises(InputError) as refused:
        again(place, tmp_path / "out", protocol, data)
    for part in (*named, "heads/pretrained/head", "Fix: "):
        assert part in str(refused.value)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_another_split_encoder_or_protocol_is_refused(place: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(place / "data", tmp_path / "data"))
    renamed = (data / "index.csv").read_text().replace(",test", ",val")
    for words, out, change in (
        (("split 'test', not 'val'",), "split", {"split": "val"}),
        (("protocol frozen, this is finetune",), "protocol", {"head": place / "frozen"}),
        (("nowhere", "head folder"), "none", {"head": tmp_path / "nowhere"}),
        (("SHA-256",), "encoder", {"run": save_run(tmp_path / "other", 1)}),
    ):
        if "split" in change:
            (data / "index.csv").write_text(renamed)
        with pytest.raises(InputError) as refused:
            again(place, tmp_path / out, "finetune", data, **change)
        assert all(word in str(refused.value) for word in words), refused.value
        shutil.copy(place / "data/index.csv", data / "index.csv")


def test_classes_in_another_order_are_named(place: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(place / "data", tmp_path / "data"))
    ids = {"a": 1, "b": 0, "c": 2}
    lines = (data / "index.csv").read_text().splitlines()
    numbered = [lines[0] + ",label_id", *(f"{line},{ids[line.split(',')[3]]}" for line in lines[1:])]
    (data / "index.csv").write_text("\n".join(numbered) + "\n")
    with pytest.raises(InputError, match="class 0 is 'a' in the head, 'b' in the data"):
        again(place, tmp_path / "out", "frozen", data)


def test_a_damaged_head_is_refused(place: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(place / "finetune", tmp_path / "broken"))
    file = broken / "heads/pretrained/head/tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"tensors\.safetensors"):
        again(place, tmp_path / "out", "finetune", place / "data", head=broken)


def test_the_command_line_fine_tunes_and_meets_the_head_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oskar = CommandLine(monkeypatch, capsys)
    words = ["evaluate", place / "run", "--data", place / "data", "--modality", "skeleton", "--protocol", "finetune"]
    quick = ["steps=2", "precision=float32", "device=cpu"]
    code, printed = oskar(*words, *quick)
    assert code == 0, printed
    folder = place / "run/evaluations/action-recognition-finetune-skeleton-data-seed0"
    assert (folder / "summary.json").is_file()
    code, printed = oskar(*words, *quick, f"head={folder}", "--out", tmp_path / "again")
    assert code == 0, printed
    assert (tmp_path / "again/predictions.csv").read_text() == (folder / "predictions.csv").read_text()
    code, printed = oskar(*words, "mixup=-1", "--out", tmp_path / "wrong")
    assert (code, "mixup = -1.0" in printed) == (2, True)
