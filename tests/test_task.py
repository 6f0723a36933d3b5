"""The contract of tasks: what of an encoder learns, at which rate, and what its random control is."""

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MakeClips
from runs import shrunk
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.reader import Draw, ReadClips, TrainingDraw
from oskar.data.stream import MemoryStream
from oskar.masking.packing import PackedTokens
from oskar.modalities import Modality
from oskar.pretraining import MaskedPrediction
from oskar.randomness import hash_id
from oskar.tasks.features import tokens_of, usable
from oskar.tasks.task import Backbone, FitConfig, TaskModule, fit
from oskar.tasks.transfer import Transfer, random_encoder, whole_clips
from oskar.train.precision import PrecisionChoice

SKELETON: tuple[Modality, ...] = ("skeleton",)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    return shrunk("oskar-tiny")


@pytest.fixture
def transfer(config: Config) -> Transfer:
    torch.manual_seed(5)
    return Transfer(config, None, "0" * 64, MaskedPrediction(config))


class Batch:
    """The tokens of some clips, which weigh as much as they are."""

    def __init__(self, packed: PackedTokens) -> None:
        self.packed, self.weight = packed, float(len(packed.segments))

    def __len__(self) -> int:
        return len(self.packed.segments)

    def to(self, device: torch.device) -> "Batch":
        return self


class Pull(TaskModule):
    """Pulls the first feature of every latent up: all of an encoder that learns must move."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self.head = torch.nn.Linear(32, 1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": -self.head(self.backbone("skeleton", batch.packed)).mean()}


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("is_trained", [True, False])
def test_an_encoder_learns_where_it_is_to_and_the_runs_own_never_does(
    config: Config, transfer: Transfer, make_clips: MakeClips, tmp_path: Path, is_trained: bool
) -> None:
    batch = Batch(tokens_of(make_clips(4, config.tokens), config, "skeleton"))
    backbone = Backbone(transfer, SKELETON, is_trained=is_trained)
    own, before = state(transfer.encoder("skeleton")), state(backbone)
    settings = FitConfig(steps=2, batch_size=1, lr=1e-2, warmup_share=0.0)
    stream = MemoryStream(1, lambda chosen, step: batch, n_steps=2, batch_size=1, seed=0)
    precision = PrecisionChoice(dtype=torch.float32, reason="test")
    fit(Pull(backbone), stream, settings, tmp_path, precision=precision, device=CPU)
    after = state(backbone)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    of_skeleton = {name for name in before if not any(f".{other}" in name for other in ("video", "text"))}
    assert moved == (of_skeleton if is_trained else set())
    for name, weight in transfer.encoder("skeleton").named_parameters():
        assert torch.equal(weight, own[name])


def test_rates_fall_with_depth_by_hand(transfer: Transfer) -> None:
    backbone = Backbone(transfer, SKELETON, is_trained=True)
    settings = FitConfig(layer_decay=0.5, encoder_lr_share=0.8)
    for name, depth_from_head in (
        ("encoders.skeleton.norm.weight", 0),
        ("encoders.skeleton.blocks.1.mlp.output.weight", 1),
        ("encoders.skeleton.blocks.0.attention.output.weight", 2),
        ("encoders.skeleton.embedding.content.skeleton.projection.weight", 3),
    ):
        assert name in dict(backbone.named_parameters())
        assert backbone.lr_scale(name, settings) == pytest.approx(0.8 * 0.5**depth_from_head)


def test_the_random_control_is_the_seeds_and_not_the_runs(config: Config, transfer: Transfer) -> None:
    control = Backbone(transfer, SKELETON, is_trained=False, random_seed=3).encoder("skeleton")
    pretrained = Backbone(transfer, SKELETON, is_trained=False).encoder("skeleton")
    for (name, weight), expected in zip(
        control.named_parameters(), random_encoder(config, "skeleton", 3).parameters(), strict=True
    ):
        assert torch.equal(weight, expected), name
    name = "blocks.0.mlp.output.weight"
    assert not torch.equal(control.get_parameter(name), pretrained.get_parameter(name))


def test_whole_clips_are_whole_and_never_mirrored(config: Config) -> None:
    mirrored = replace(config, clip=replace(config.clip, flip_probability=0.5, temporal="stride"))
    clip = whole_clips(mirrored, (0.4, 0.9)).clip
    assert (clip.temporal, clip.span_share, clip.crop_scale) == ("span", (1.0, 1.0), (0.4, 0.9))
    assert clip.flip_probability == 0.0


def test_a_frozen_encoder_moves_with_its_module_and_is_no_part_of_its_state(transfer: Transfer) -> None:
    module = Pull(Backbone(transfer, SKELETON, is_trained=False))
    assert list(module.state_dict()) == ["head.weight", "head.bias"]
    module.to(torch.float64)
    assert {p.dtype for p in module.backbone.encoder("skeleton").parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in module.backbone.encoder("skeleton").parameters())
    trained = Pull(Backbone(transfer, SKELETON, is_trained=True))
    assert any(name.startswith("backbone.encoders.skeleton.blocks.0") for name in trained.state_dict())


class Read:
    """A reader of two made clips, of which the second has no joint."""

    classes = ("a",)

    def __init__(self, clips: ClipBatch) -> None:
        self._clips = clips

    def __len__(self) -> int:
        return 2

    def clip_id(self, index: int) -> str:
        return ("seen", "empty")[index]

    def label(self, index: int) -> int:
        return index

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        ids = torch.tensor([hash_id(self.clip_id(i)) for i in indices])
        return ReadClips(
            dataclasses.replace(self._clips.rows(torch.tensor(indices)), clip_ids=ids), (("gone", "lost"),)
        )


def test_clips_with_nothing_to_see_are_listed(config: Config, make_clips: MakeClips) -> None:
    clips = make_clips(2, config.tokens, absent={"skeleton": {1}})
    reader = usable(Read(clips), config, "skeleton")
    assert (len(reader), reader.clip_id(1), reader.label(1), reader.classes) == (2, "empty", 1, ("a",))
    read = reader.read([1, 0, 1], TrainingDraw(0, 0))
    assert read.clips is not None
    assert read.clips.clip_ids.tolist() == [hash_id("seen")]
    assert read.bad == (("gone", "lost"), ("empty", "no usable token of skeleton"))
    assert reader.read([1], TrainingDraw(0, 0)).clips is None
    whole = usable(Read(clips), config, "video").read([0, 1], TrainingDraw(0, 0))
    assert whole.clips is not None
    assert (len(whole.clips), whole.bad) == (2, (("gone", "lost"),))
