"""Pose decoding: joints from what the frozen predictor says of skeleton tokens it was not shown (Figure 4)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from oskar.config import Config
from oskar.data.folder_reader import FolderReader
from oskar.data.open import OpenedData, open_split
from oskar.data.order import epoch_order
from oskar.data.stream import MemoryStream
from oskar.errors import AbsentError, InputError
from oskar.metrics.pose import PCK_SHARES
from oskar.modalities import Modality, modality_specs
from oskar.randomness import hash_id
from oskar.settings import require
from oskar.tasks.pose_decoder import PoseBatch, PoseDecoder, Standard, mean_of, placed_mean
from oskar.tasks.pose_features import FrozenPredictors, PoseTargets, PredictedClips, Variant, read_poses
from oskar.tasks.pose_pictures import PosePicture, draw_poses
from oskar.tasks.pose_results import PredictedPoses
from oskar.tasks.task import Evaluation, HeadConfig
from oskar.tasks.transfer import Transfer, load_predicting, load_transfer, random_predicting, require_modality
from oskar.train.device import choose_device
from oskar.train.loop import Trainer
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic
from oskar.train.sealed import remove_folder

TASK = "pose-decoding"
MEAN_POSE, MEAN_IN_FRAME = "mean_pose", "mean_pose_without_box"
_FEATURE_BYTES = 4
_ORDER_SEED = 41


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseDecodingConfig(HeadConfig):
    """How the decoder learns, what is shown, and whether queries without their box are tried too."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    steps: int = 400
    width: int = 96  # of the decoder
    n_layers: int = 2
    n_heads: int = 4
    visible: tuple[Literal["video", "text"], ...] = ("video", "text")  # of those the run has
    without_box: bool = True  # also ask without the box embedding, and place joints in the whole crop
    n_pictures: int = 4
    max_feature_gib: float = 2.0  # as many training clips, drawn by the seed, as their features leave room for

    def __post_init__(self) -> None:
        HeadConfig.__post_init__(self)
        for name in ("width", "n_layers", "n_heads", "max_feature_gib"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        require(self.width % self.n_heads == 0, "width", self.width, f"use a multiple of n_heads={self.n_heads}")
        require(self.n_pictures >= 0, "n_pictures", self.n_pictures, "use 0 or more")
        require(bool(self.visible), "visible", self.visible, 'show something: ["video","text"], ["video"] or ["text"]')

    def variants(self) -> dict[str, Variant]:
        """What is compared, by name."""
        known = {"pretrained": Variant(), "random_weights": Variant(is_random=True)}
        if self.without_box:
            known["without_box"] = Variant(has_box=False)
            known["random_weights_without_box"] = Variant(is_random=True, has_box=False)
        return known


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What every part of one evaluation knows."""

    transfer: Transfer
    train: OpenedData
    test: OpenedData
    predict: FrozenPredictors
    config: PoseDecodingConfig
    out: Path

    @property
    def run(self) -> Config:
        return self.transfer.config


@dataclass(frozen=True, slots=True)
class _Learned:
    """The decoder of each variant, the two mean poses, and what they learned on."""

    decoders: dict[str, PoseDecoder]
    means: dict[bool, Tensor]
    n_train: int
    bad: dict[str, str]


def evaluate_pose_decoding(
    run: Path, data: list[str], modality: Modality, out: Path, config: PoseDecodingConfig
) -> dict[str, Any]:
    """Decode joints from a run's frozen predictor; writes and returns ``summary.json``.

    Beside it stand the same decoder on random weights, both without the queries' boxes, and the mean pose of the
    training clips, in each person's box and in the whole crop. Also writes ``predictions.csv``, from which every
    figure can be computed again, and ``pictures/``.

    Raises:
        InputError: a run without checkpoint or without a modality, wrong data or split.
    """
    if modality != "video":
        raise InputError(f"--modality {modality}: poses are to be found without it", fix="use --modality video")
    transfer = load_transfer(run)
    require_modality(transfer.config, "skeleton")
    visible = tuple(name for name in config.visible if name in transfer.config.tokens.modalities)
    if not visible:
        raise AbsentError(f"visible = {list(config.visible)}: the run has none of it", fix="show what the run has")
    if config.split == transfer.config.data.split:
        raise InputError(f"split = {config.split!r} is what the decoder learns on", fix="test on another split")
    predicting, step = load_predicting(run, transfer)
    train, test = (_open(data, transfer, split, visible) for split in (transfer.config.data.split, config.split))
    prepare_run_folder(out, resume=False)
    device = choose_device(config.device)
    by_random = {False: predicting, True: random_predicting(transfer.config, config.seed)}
    predict = FrozenPredictors(
        config=transfer.config,
        by_random={is_random: module.to(device).eval() for is_random, module in by_random.items()},
        variants=config.variants(),
        visible=visible,
        seed=config.seed,
        precision=choose_precision(config.precision, device),
        device=device,
    )
    job = _Job(transfer=transfer, train=train, test=test, predict=predict, config=config, out=out)
    learned = _learn(job)
    poses, bad, pictures = _score(job, learned)
    poses.write(out / "predictions.csv")
    draw_poses(out / "pictures", pictures)
    evaluation = _evaluation(job, learned, poses, bad, step)
    summary: dict[str, Any] = json.loads(json.dumps(evaluation.to_json()))  # settings hold tuples, JSON has none
    write_json_atomic(out / "summary.json", summary)
    return summary


def _open(data: list[str], transfer: Transfer, split: str, visible: Sequence[Modality]) -> OpenedData:
    """One split of the data: clips with joints, of which some have what is to be seen."""
    opened = open_split(data, transfer.config, transfer.words, split, "skeleton")
    reader = opened.reader
    if isinstance(reader, FolderReader) and not any(set(visible) & set(reader.modalities_of(r)) for r in reader.rows):
        raise AbsentError(
            f"data {', '.join(opened.names)}: no clip with joints has {' or '.join(visible)}",
            fix="use data with videos or captions beside the joints",
        )
    return opened


def _learn(job: _Job) -> _Learned:
    """Predict for the training clips once, then train the decoder of every variant."""
    config, run = job.config, job.run
    spec = modality_specs(run.tokens)["skeleton"]
    n_bytes = len(job.predict.variants) * spec.n_tokens * run.predictor.width * _FEATURE_BYTES
    n_most = max(int(config.max_feature_gib * 2**30 / n_bytes), 1)
    reader = job.train.reader
    chosen = sorted(epoch_order(len(reader), _ORDER_SEED + config.seed, 0)[:n_most].tolist())
    bad: dict[str, str] = {}
    parts = list(read_poses(reader, chosen, job.predict, bad))
    if not parts:
        reason = next(iter(bad.values()), "none is there")
        raise InputError(
            f"data {', '.join(job.train.names)}: no clip to learn from ({reason})", fix="choose other data"
        )
    targets = _joined([part.targets for part in parts])
    means = {has_box: mean_of(targets, has_box=has_box) for has_box in (True, False)}
    decoders = {}
    for name, variant in job.predict.variants.items():
        features = torch.cat([part.features[name] for part in parts])
        decoders[name] = _fit(job, name, means[variant.has_box], features, targets)
    return _Learned(decoders, means, len(targets), bad)


def _joined(parts: Sequence[PoseTargets]) -> PoseTargets:
    return PoseTargets(
        joints=torch.cat([part.joints for part in parts]),
        is_counted=torch.cat([part.is_counted for part in parts]),
        boxes=torch.cat([part.boxes for part in parts]),
        sides=torch.cat([part.sides for part in parts]),
    )


def _fit(job: _Job, name: str, mean: Tensor, features: Tensor, targets: PoseTargets) -> PoseDecoder:
    """The decoder of one variant; all start from the same weights."""
    config, run = job.config, job.run
    torch.manual_seed(config.seed)
    decoder = PoseDecoder(
        mean,
        Standard.of(features, targets, modality_specs(run.tokens)["skeleton"].n_positions),
        n_frames=run.tokens.segment_frames,
        width=config.width,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        has_box=job.predict.variants[name].has_box,
    )
    stream = MemoryStream(
        len(features), partial(_batch, features, targets),
        n_steps=config.steps, batch_size=config.batch_size, seed=config.seed,
    )  # fmt: skip
    float32 = PrecisionChoice(dtype=torch.float32, reason="the decoder is small")
    folder = job.out / "heads" / name
    folder.mkdir(parents=True)
    Trainer(
        decoder, stream, config.train_config(), folder, precision=float32, device=job.predict.device, bad_budget=0
    ).fit()
    remove_folder(folder / "checkpoints")
    return decoder.eval()


def _batch(features: Tensor, targets: PoseTargets, chosen: Tensor, step: int) -> PoseBatch:
    return PoseBatch(features[chosen], targets.rows(chosen))


@torch.no_grad()
def _score(job: _Job, learned: _Learned) -> tuple[PredictedPoses, dict[str, str], list[PosePicture]]:
    """The places that every variant and both mean poses give for the test clips, read in batches and not kept."""
    poses = PredictedPoses([*learned.decoders, MEAN_POSE, MEAN_IN_FRAME])
    bad: dict[str, str] = {}
    pictures: list[PosePicture] = []
    reader = job.test.reader
    name_of = {hash_id(reader.clip_id(i)): reader.clip_id(i) for i in range(len(reader))}
    n_people = job.run.tokens.n_people
    for part in read_poses(reader, range(len(reader)), job.predict, bad):
        predicted = {name: _decoded(job, decoder, part, name) for name, decoder in learned.decoders.items()}
        for name, has_box in ((MEAN_POSE, True), (MEAN_IN_FRAME, False)):
            predicted[name] = placed_mean(learned.means[has_box], part.targets, has_box=has_box)
        clip_ids = [name_of[clip_id] for clip_id in part.clips.clip_ids.tolist()]
        poses.add(clip_ids, part.targets, predicted, n_people)
        if len(pictures) < job.config.n_pictures:
            pictures += _pictures(part, predicted, clip_ids, n_people)[: job.config.n_pictures - len(pictures)]
    if not poses.clip_ids:
        raise InputError(f"data {', '.join(job.test.names)}: no test clip can be used", fix="repair the data")
    return poses, bad, pictures


def _decoded(job: _Job, decoder: PoseDecoder, part: PredictedClips, name: str) -> Tensor:
    device = job.predict.device
    return decoder.joints(part.features[name].to(device), part.targets.to(device)).cpu()


def _pictures(
    part: PredictedClips, predicted: dict[str, Tensor], clip_ids: list[str], n_people: int
) -> list[PosePicture]:
    shown = [name for name in ("pretrained", "without_box", MEAN_POSE) if name in predicted]
    return [
        PosePicture(
            clip_id=clip_id,
            frames=None if part.clips.frames is None else part.clips.frames[i],
            is_counted=part.targets.is_counted[i],
            places={"pseudo-label": part.targets.joints[i], **{name: predicted[name][i] for name in shown}},
            n_people=n_people,
        )
        for i, clip_id in enumerate(clip_ids)
    ]


def _evaluation(job: _Job, learned: _Learned, poses: PredictedPoses, bad: dict[str, str], step: int) -> Evaluation:
    n_expected, n_evaluated = len(job.test.reader), len(poses.clip_ids)
    measured = {name: poses.metrics(name, n_evaluated / n_expected) for name in poses.names}
    joints = len(poses.column("joint"))
    run = job.run
    return Evaluation(
        task=TASK,
        modality="video",
        protocol="frozen",
        data=job.test.names,
        split=job.config.split,
        n_expected=n_expected,
        n_found=n_expected,
        n_evaluated=n_evaluated,
        metrics=measured.pop("pretrained"),
        controls=measured,
        recipe=run.recipe,
        seed=job.config.seed,
        checkpoint_sha256=job.transfer.sha256,
        data_sha256=job.test.sha256,
        bad_clips=bad,
        protocol_facts={
            "n_joints": joints,
            "n_left_out": job.test.n_left_out,
            "n_train": learned.n_train,
            "bad_train_clips": learned.bad,
            "train_data_sha256": job.train.sha256,
            "visible": list(job.predict.visible),
            "n_visible": run.masking.n_visible,
            "predictor_step": step,
            "trained_with_box_embedding": run.model.box_embedding,
            "pck_shares": list(PCK_SHARES),
            "pck_is_of": "the longer side of the person's box in the frame",
            "views": "one: the whole clip, centre crop",
            "test_ids_sha256": hashlib.sha256("\n".join(sorted(poses.clip_ids)).encode()).hexdigest(),
            "settings": asdict(job.config),
        },
    )


__all__ = ["TASK", "PoseDecodingConfig", "evaluate_pose_decoding"]
