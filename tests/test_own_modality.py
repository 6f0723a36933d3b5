"""The page on a modality of one's own: its blocks apply to the package, train, and keep what is hidden hidden."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_modality.md"

# Which motion tokens a batch shows is found by the values it packs, not by asking the plan.
PROBE = """
from dataclasses import replace
import torch
import train_motion as page
from oskar.masking.packing import build_batch, idle_batch
from oskar.pretraining import MaskedPrediction
from oskar.tokens.motion import MOTION_SCALE, MotionTokens

torch.manual_seed(0)
clips = page.made_clips(8)
assert clips.motion.isnan().all((1, 2)).nonzero().flatten().tolist() == [3, 7]
broken = clips.motion.clone()
broken[0, 5, 2] = torch.nan  # one sample of token 1
source = MotionTokens(broken, page.CONFIG.tokens)
measured = [[clip not in (3, 7) and (clip, k) != (0, 1) for k in range(16)] for clip in range(8)]
assert source.is_valid.tolist() == measured
taken = source.take(torch.tensor([2, 5]), torch.tensor([0, 15]))
by_hand = torch.stack([clips.motion[2, 0:4], clips.motion[5, 60:64]]) / torch.tensor(MOTION_SCALE)
assert torch.equal(taken, by_hand.flatten(1))

model = MaskedPrediction(page.CONFIG).eval()
n_hidden = n_shown = 0
for step in range(5):
    def fused(motion):
        view = build_batch(replace(clips, motion=motion), page.CONFIG, step).views[0]
        return view, model.fusion(view.visible, model.routing)
    view, before = fused(broken)
    shown, target = view.visible.tokens["motion"], view.target.tokens["motion"]
    n_slots = view.visible.segments.shape[1]
    is_shown = torch.zeros(8, 16, dtype=torch.bool)
    is_shown[shown.slots // n_slots, shown.token_idx] = True
    assert not (is_shown & ~source.is_valid).any()
    assert not is_shown[target.slots // view.target.segments.shape[1], target.token_idx].any()
    of_samples = is_shown.repeat_interleave(4, 1)[..., None]
    changed = torch.where(of_samples, broken, broken + 3.0)
    assert torch.equal(fused(changed)[1], before), "a hidden motion value reaches the encoder"
    assert not torch.equal(fused(torch.where(of_samples, broken + 3.0, broken))[1], before)
    n_hidden, n_shown = n_hidden + int((source.is_valid & ~is_shown).sum()), n_shown + int(is_shown.sum())
assert n_hidden > 50 and n_shown > 50, (n_hidden, n_shown)

for target in ("latent", "input"):
    config = replace(page.CONFIG, target=replace(page.CONFIG.target, space=target))
    for names in (("motion",), ("video", "skeleton", "text", "motion")):
        small = replace(config.tokens, modalities=names, resolution=32, n_words=8, vocabulary_size=50)
        config = replace(config, tokens=small)
        name = "loss_motion" if len(names) == 1 else "loss"  # one clip may draw no motion where there is more
        assert MaskedPrediction(config)(idle_batch(config))[name].isfinite(), (target, names)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package to which the page was applied, and the page's script beside it."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(ROOT / "oskar", folder / "oskar", ignore=shutil.ignore_patterns("__pycache__"))
    source, script = blocks("python")
    (diff,) = blocks("diff")
    (folder / "oskar" / "tokens" / "motion.py").write_text(source)
    (folder / "train_motion.py").write_text(script)
    (folder / "motion.diff").write_text(diff)
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}  # tmp may lie inside a repository
    command = ["git", "apply", "--unidiff-zero", "motion.diff"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_diff_changes_every_file_it_names(copy: Path) -> None:
    named = re.findall(r"^\+\+\+ b/(.*)$", (copy / "motion.diff").read_text(), flags=re.MULTILINE)
    assert len(named) > 5
    for name in named:
        assert (copy / name).read_text() != (ROOT / name).read_text(), name


@pytest.mark.slow
def test_the_script_learns_with_the_sensor_and_without(copy: Path) -> None:
    printed = dict(re.findall(r"^([a-z, ]+) (\{.*\})$", run(copy, "train_motion.py"), flags=re.MULTILINE))
    losses = {name: ast.literal_eval(text.replace("nan", "None")) for name, text in printed.items()}
    first, last = losses["first"], losses["last"]
    assert last["loss"] < 0.7 * first["loss"]
    assert last["loss_motion"] < 0.8 * first["loss_motion"]
    before, after = losses["without motion, before"], losses["without motion, after"]
    assert before["loss_motion"] is after["loss_motion"] is None
    assert after["loss"] < before["loss"]


@pytest.mark.slow
def test_what_is_hidden_of_the_sensor_does_not_reach_the_encoder(copy: Path) -> None:
    (copy / "probe.py").write_text(PROBE)
    run(copy, "probe.py")
