"""Spatiotemporal action localization: what each person does in a key frame, beside its controls (AVA)."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oskar.data.augmentation.colour_jitter import ColourJitter
from oskar.data.boxes import LabelledBoxes
from oskar.data.key_frame_data import KeyFrameData
from oskar.data.key_frame_reader import KeyFrameReader, images_to_learn_from
from oskar.data.open_key_frames import open_key_frames
from oskar.data.stream import MemoryStream, StepDataset, StepStream
from oskar.errors import InputError
from oskar.metrics.detection import MIN_IOU, FrameMAP
from oskar.modalities import Modality
from oskar.model.layers import set_drop_path
from oskar.settings import require, require_share
from oskar.tasks.localization_features import ScoredPeople, TokenBatches, encode_grids, score_people
from oskar.tasks.localization_head import ActionLocalization
from oskar.tasks.localization_results import (
    TRUTH,
    TestedPeople,
    by_class,
    chance,
    people_to_test,
    some_people,
    values,
    write_and_measure,
    write_ground_truth,
)
from oskar.tasks.task import Backbone, Evaluation, FitConfig, Protocol, fit
from oskar.tasks.transfer import Transfer, load_transfer, require_modality
from oskar.train.device import choose_device
from oskar.train.loop import BatchStream
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import prepare_run_folder, write_json_atomic

TASK = "action-localization"
_BYTES_OF_A_FEATURE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalizationConfig(FitConfig):
    """``boxes`` to test on: "truth", or the path of a file of detected people of ``min_box_score`` or more."""

    lr: float = 3e-2  # the head is one layer that starts near 0
    encoder_lr_share: float = 0.03
    boxes: str = TRUTH
    image_table: str | None = None  # the images of a .json file of people that does not list them itself
    min_box_score: float = 0.8
    n_windows: int = 1  # folders with boxes: windows of a clip, each with a key frame
    stride_frames: int = 4  # AVA: of the clip around a key frame
    movie_start_seconds: float = 0.0  # AVA: the time of every file's first frame
    drop_path: float = 0.0  # fine-tuning: of the last block; rises linearly from 0
    flip_probability: float = 0.0  # fine-tuning on crops; 0.5 for AVA, 0 where classes name sides
    hue_degrees: float = 0.0  # fine-tuning: each clip's hue turns by up to this, either way; AVA: 20
    saturation: float = 0.0  # likewise, added; AVA: 0.1
    brightness: float = 0.0
    max_feature_gib: float = 4.0  # frozen: features up to this are kept in memory, more are encoded at every step

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        for name in ("n_windows", "stride_frames"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        require_share(self, "localization", "drop_path", "flip_probability", "saturation", "brightness")
        require(self.drop_path < 1, "drop_path", self.drop_path, "use a share below 1")
        require(0 <= self.hue_degrees <= 180, "hue_degrees", self.hue_degrees, "use 0 to 180")
        require(self.max_feature_gib >= 0, "max_feature_gib", self.max_feature_gib, "use 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Job:
    """What every part of one evaluation knows."""

    transfer: Transfer
    train: KeyFrameData
    test: KeyFrameData
    tested: TestedPeople
    protocol: Protocol
    config: LocalizationConfig
    out: Path
    precision: PrecisionChoice
    device: torch.device


def evaluate_localization(
    run: Path, data: list[str], modality: Modality, out: Path, config: LocalizationConfig, protocol: Protocol
) -> dict[str, Any]:
    """Learn from people in the key frames of the training split, test on others; writes and returns ``summary.json``.

    Beside the result stand random weights, the whole frame instead of the box, and chance. Also
    writes ``predictions.csv`` (of the controls in ``controls/``) and ``ground_truth.csv`` in the
    format of AVA; the metric is that of these files. A clip that cannot be read has no detections,
    and is listed.

    Raises:
        InputError: wrong run, data, split, modality, boxes or setting.
    """
    if modality != "video":
        raise InputError(f"--modality {modality}: boxes lie on the grid of video tokens", fix="use --modality video")
    transfer = load_transfer(run)
    require_modality(transfer.config, modality)
    learnt = transfer.config.data.split
    if config.split == learnt:
        raise InputError(f"split = {config.split!r} is what the head learns on", fix="test on another split")
    train, test = (_open(data, transfer, split, config) for split in (learnt, config.split))
    tested = people_to_test(test, config.boxes, config.image_table, config.min_box_score)
    prepare_run_folder(out, resume=False)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    job = _Job(
        transfer=transfer, train=train, test=test, tested=tested, protocol=protocol, config=config, out=out,
        precision=precision, device=device,
    )  # fmt: skip
    modules = _modules(job)
    bad_train = _fit_all(job, modules)
    reader = KeyFrameReader(test, tested.images, tested.people, transfer.config)
    scored = score_people(
        modules, reader, transfer.config, batch_size=config.batch_size, precision=precision, device=device
    )
    summary = _write(job, scored, bad_train).to_json()
    write_json_atomic(out / "summary.json", summary)
    return summary


def _open(data: list[str], transfer: Transfer, split: str, config: LocalizationConfig) -> KeyFrameData:
    return open_key_frames(
        data,
        transfer.config,
        split,
        n_windows=config.n_windows,
        stride_frames=config.stride_frames,
        movie_start_seconds=config.movie_start_seconds,
    )


def _modules(job: _Job) -> dict[str, ActionLocalization]:
    """The head on the pretrained encoder, on random weights, and on the pretrained encoder's whole frame.

    All start from the same head; a frozen encoder is shared, so that its grids are made once.
    """

    def backbone(random_seed: int | None) -> Backbone:
        return Backbone(job.transfer, ("video",), is_trained=job.protocol == "finetune", random_seed=random_seed)

    pretrained = backbone(None)
    backbones = {
        "pretrained": pretrained,
        "random_weights": backbone(job.config.seed),
        "whole_frame": pretrained if job.protocol == "frozen" else backbone(None),
    }
    modules = {}
    for name, encoder in backbones.items():
        if job.protocol == "finetune":
            set_drop_path(encoder.encoder("video").blocks, job.config.drop_path)
        torch.manual_seed(job.config.seed)
        modules[name] = ActionLocalization(encoder, job.train.n_classes, sees_box=name != "whole_frame")
    return modules


def _fit_all(job: _Job, modules: dict[str, ActionLocalization]) -> dict[str, str]:
    """Train every module; returns the clips that could not be read, with the reason."""
    train = job.train
    images = images_to_learn_from(train.truth, train.excluded)
    if not images:
        raise InputError(f"data {train.name}: no key frame to learn from shows anybody", fix="choose other data")
    config = replace(job.config, steps=job.config.n_steps(len(images)))
    reader = KeyFrameReader(
        train,
        images,
        train.truth,
        job.transfer.config,
        is_augmented=job.protocol == "finetune",
        flip_probability=config.flip_probability,
    )
    streams, bad = _streams(job, modules, reader, config.steps)
    for name, module in modules.items():
        folder = job.out / "heads" / name
        done = fit(
            module, streams[name], config, folder, precision=job.precision, device=job.device, bad_budget=len(images)
        )
        bad |= done.bad
    return bad


def _streams(
    job: _Job, modules: dict[str, ActionLocalization], reader: KeyFrameReader, n_steps: int
) -> tuple[dict[str, BatchStream], dict[str, str]]:
    """What each module learns from, and the clips known to be bad: frozen features are made once if they fit."""
    config, run = job.config, job.transfer.config
    has_class = torch.from_numpy(job.train.truth.label_matrix(job.train.n_classes)).float()
    n_cells = (run.tokens.resolution // run.tokens.patch_size) ** 2
    n_bytes = 2 * len(reader) * run.model.width * n_cells * _BYTES_OF_A_FEATURE
    if job.protocol == "frozen" and n_bytes <= config.max_feature_gib * 2**30:
        backbones = [modules[name].backbone for name in ("pretrained", "random_weights")]
        pretrained, random = encode_grids(backbones, reader, run, precision=job.precision, device=job.device)
        if len(pretrained) == 0:
            raise InputError(f"no clip to learn from can be read ({pretrained.bad[0][1]})", fix="repair the data")
        cached_of = {name: random if name == "random_weights" else pretrained for name in modules}
        streams: dict[str, BatchStream] = {
            name: MemoryStream(
                len(cached),
                partial(cached.batch, has_class, config.seed),
                n_steps=n_steps,
                batch_size=config.batch_size,
                seed=config.seed,
            )
            for name, cached in cached_of.items()
        }
        return streams, dict(pretrained.bad)
    dataset = StepDataset(
        reader,
        TokenBatches(run, has_class, config.seed, _jitter(job)),
        n_steps=n_steps,
        batch_size=config.batch_size,
        accumulation=1,
        seed=config.seed,
    )
    return dict.fromkeys(modules, StepStream(dataset, config.workers)), {}


def _jitter(job: _Job) -> ColourJitter | None:
    """How colours change in fine-tuning."""
    config = job.config
    jitter = ColourJitter(hue_degrees=config.hue_degrees, saturation=config.saturation, value=config.brightness)
    return jitter if job.protocol == "finetune" and jitter != ColourJitter() else None


def _write(job: _Job, scored: ScoredPeople, bad_train: dict[str, str]) -> Evaluation:
    """Write detections and ground truth, and measure them."""
    test, tested, config = job.test, job.tested, job.config
    truth = write_ground_truth(job.out, test)
    people = some_people(tested.people, scored.is_scored)
    (job.out / "controls").mkdir()
    measured = {}
    for name, scores in scored.by_name.items():
        path = job.out / ("predictions.csv" if name == "pretrained" else f"controls/{name}.csv")
        measured[name] = write_and_measure(path, truth, people, scores[scored.is_scored], test)
    result = measured.pop("pretrained")
    controls = chance(truth, people, test, job.train, config.seed)
    controls |= {name: values(control) for name, control in measured.items()}
    n_images = len(tested.images)
    return Evaluation(
        task=TASK,
        modality="video",
        protocol=job.protocol,
        data=(test.name,),
        split=config.split,
        n_expected=n_images,
        n_found=n_images,
        n_evaluated=n_images - len(scored.bad),
        metrics={**values(result), "by_class": by_class(result, test)},
        controls=controls,
        recipe=job.transfer.config.recipe,
        seed=config.seed,
        checkpoint_sha256=job.transfer.sha256,
        data_sha256=test.sha256,
        bad_clips=dict(scored.bad),
        protocol_facts=_facts(job, result["exclusion"], truth) | {"bad_train_clips": bad_train},
    )


def _facts(job: _Job, result: FrameMAP, truth: LabelledBoxes) -> dict[str, Any]:
    """What else makes the numbers comparable."""
    return {
        "counts_are_of": "key frames",
        "n_boxes": len(job.tested.people.boxes),
        "n_boxes_below_score": job.tested.n_below_score,
        "n_boxes_elsewhere": job.tested.n_elsewhere,
        "n_truth_boxes": result.n_boxes,
        "n_truth_images": len(truth.images),
        "n_excluded_images": len(job.test.excluded),
        "n_left_out": job.test.n_left_out,
        "n_train_images": len(images_to_learn_from(job.train.truth, job.train.excluded)),
        "train_sha256": job.train.sha256,
        "min_iou": MIN_IOU,
        "views": "one: the whole frame, brought to a square",
        "selection": "last step",
        "settings": asdict(job.config),
    }


__all__ = ["TASK", "LocalizationConfig", "evaluate_localization"]
