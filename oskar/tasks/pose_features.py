"""What the frozen fusion encoder and predictor say of a clip's skeleton tokens, seeing none of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.reader import ClipReader, EvaluationWindow
from oskar.masking.packing import PackedTokens, PackedView, pack
from oskar.masking.plan import draw_views, index_set
from oskar.metrics.pose import box_sides
from oskar.modalities import N_JOINTS, Modality, modality_specs
from oskar.pretraining import MaskedPrediction
from oskar.progress import Progress
from oskar.randomness import hash_id
from oskar.tokens import SkeletonTokens, token_sources
from oskar.tokens.skeleton import by_segment
from oskar.train.precision import PrecisionChoice

BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Which weights predict, and whether the queries carry their person's box."""

    is_random: bool = False
    has_box: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseTargets:
    """The pseudo-labels of N skeleton tokens of F frames: ``joints`` ``[B, N, F, 2]`` in shares of the crop.

    ``is_counted`` ``[B, N, F]``: the joint is there and its person has a box. ``boxes`` ``[B, N, 4]`` is the box
    that a token's query carries, ``sides`` ``[B, N, F]`` the longer side of the person's box in each frame.
    """

    joints: Tensor
    is_counted: Tensor
    boxes: Tensor
    sides: Tensor

    def __len__(self) -> int:
        return len(self.joints)

    def rows(self, idx: Tensor) -> "PoseTargets":
        return PoseTargets(
            joints=self.joints[idx], is_counted=self.is_counted[idx], boxes=self.boxes[idx], sides=self.sides[idx]
        )

    def to(self, device: torch.device) -> "PoseTargets":
        moved = (t.to(device) for t in (self.joints, self.is_counted, self.boxes, self.sides))
        joints, is_counted, boxes, sides = moved
        return PoseTargets(joints=joints, is_counted=is_counted, boxes=boxes, sides=sides)


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedClips:
    """Some clips: of each variant the predictions ``[B, N, D_p]`` (0 where there is no token), and the targets."""

    clips: ClipBatch
    features: Mapping[str, Tensor]
    targets: PoseTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenPredictors:
    """The models that predict, by whether their weights are random, and how.

    ``visible`` are the modalities shown, within the run's own budget ``masking.n_visible``; every available joint
    is asked for, so that exclusivity, a rule of pretraining, does not apply here.
    """

    config: Config
    by_random: Mapping[bool, MaskedPrediction]
    variants: Mapping[str, Variant]
    visible: tuple[Modality, ...]
    seed: int
    precision: PrecisionChoice
    device: torch.device

    @torch.no_grad()
    def __call__(self, clips: ClipBatch) -> PredictedClips:
        """Predictions of every variant for clips that have something visible and some joint."""
        view = draw_pose_view(clips, self.config, self.visible, self.seed).to(self.device)
        features: dict[str, Tensor] = {}
        n_tokens = modality_specs(self.config.tokens)["skeleton"].n_tokens
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.is_autocast):
            for is_random, module in self.by_random.items():
                fused = module.fusion(view.view.visible, module.routing)
                for name, variant in self.variants.items():
                    if variant.is_random == is_random:
                        asked = view.view if variant.has_box else without_boxes(view.view)
                        predicted = module.predictor(fused, asked, 0)
                        features[name] = by_token(predicted, view.view.target, n_tokens).float().cpu()
        return PredictedClips(clips=clips, features=features, targets=pose_targets(clips, self.config))


@dataclass(frozen=True, slots=True)
class PoseView:
    """What is visible and what is asked of some clips, and which of them have both, bool ``[B]``."""

    view: PackedView
    is_usable: Tensor

    def to(self, device: torch.device) -> "PoseView":
        return PoseView(PackedView(self.view.visible.to(device), self.view.target.to(device)), self.is_usable)


def draw_pose_view(clips: ClipBatch, config: Config, visible: Sequence[Modality], seed: int) -> PoseView:
    """Visible tokens as in pretraining but from ``visible`` alone, at step 0 of ``seed``; all joints as targets."""
    specs, sources = modality_specs(config.tokens), token_sources(clips, config.tokens)
    shown = {name: source for name, source in sources.items() if name in visible}
    names = list(specs)
    (drawn,) = draw_views(shown, specs, config.masking, seed=seed, step=0, clip_ids=clips.clip_ids)
    is_joint = sources["skeleton"].is_valid if "skeleton" in sources else torch.zeros(len(clips), 1, dtype=torch.bool)
    asked = index_set({"skeleton": is_joint}, specs, max(int(is_joint.sum(1).max()), 1))
    packed = PackedView(pack(drawn.visible_idx, sources, names), pack(asked, sources, names))
    return PoseView(packed, packed.visible.is_valid.any(1) & is_joint.any(1))


def without_boxes(view: PackedView) -> PackedView:
    """The same with queries that do not say whose joints they ask for."""
    tokens = {name: replace(t, boxes=None) for name, t in view.target.tokens.items()}
    return PackedView(view.visible, replace(view.target, tokens=tokens))


def by_token(values: Tensor, packed: PackedTokens, n_tokens: int) -> Tensor:
    """``[B, N, D]`` from slots ``[B, K, D]`` of skeleton tokens, 0 where a token is not there."""
    n_clips, n_slots, width = values.shape
    dense = values.new_zeros(n_clips * n_tokens, width)
    tokens = packed.tokens["skeleton"]
    place = tokens.slots // n_slots * n_tokens + tokens.token_idx
    return dense.index_copy(0, place, values.flatten(0, 1)[tokens.slots]).view(n_clips, n_tokens, width)


def pose_targets(clips: ClipBatch, config: Config) -> PoseTargets:
    """The joints of a batch by token, with the boxes that queries carry."""
    assert clips.joints is not None
    assert clips.boxes is not None
    source = token_sources(clips, config.tokens)["skeleton"]
    assert isinstance(source, SkeletonTokens)
    n_frames = config.tokens.segment_frames
    joints = by_segment(clips.joints[..., :2], n_frames)
    n_clips, n_tokens = joints.shape[:2]
    clip_idx = torch.arange(n_clips).repeat_interleave(n_tokens)
    boxes = source.boxes(clip_idx, torch.arange(n_tokens).repeat(n_clips)).view(n_clips, n_tokens, 4)
    sides = box_sides(clips.boxes)[:, :, :, None, None].expand(-1, -1, -1, N_JOINTS, 1)
    of_token = by_segment(sides, n_frames).squeeze(-1)
    is_counted = (source.cells >= 0) & (of_token > 0) & (box_sides(boxes) > 0)[..., None]
    return PoseTargets(joints=joints, is_counted=is_counted, boxes=boxes, sides=of_token)


def read_poses(
    reader: ClipReader, chosen: Sequence[int], predict: FrozenPredictors, bad: dict[str, str]
) -> Iterator[PredictedClips]:
    """The chosen clips in batches, whole; those that cannot be used go to ``bad`` with the reason."""
    with Progress(len(chosen), unit="clips") as progress:
        for start in range(0, len(chosen), BATCH_SIZE):
            some = chosen[start : start + BATCH_SIZE]
            read = reader.read(some, EvaluationWindow())
            bad |= dict(read.bad)
            progress.advance(0.0, len(some))
            if read.clips is None:
                continue
            is_usable = _usable(read.clips, predict)
            names = {hash_id(reader.clip_id(i)): reader.clip_id(i) for i in some}
            for clip_id in read.clips.clip_ids[~is_usable].tolist():
                bad[names[clip_id]] = f"no joint in a box, or no token of {' or '.join(predict.visible)}"
            if bool(is_usable.any()):
                yield predict(read.clips.rows(is_usable))


def _usable(clips: ClipBatch, predict: FrozenPredictors) -> Tensor:
    is_shown = any({"video": clips.frames, "text": clips.word_ids}[name] is not None for name in predict.visible)
    if clips.joints is None or not is_shown:
        return torch.zeros(len(clips), dtype=torch.bool)
    counted = pose_targets(clips, predict.config).is_counted.flatten(1).any(1)
    return draw_pose_view(clips, predict.config, predict.visible, predict.seed).is_usable & counted
