"""A pretraining run from a configuration and data to a run folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oskar.config import Config
from oskar.data.open import OpenedData, open_training
from oskar.data.stream import StepDataset, StepStream
from oskar.errors import InputError
from oskar.files import write_text_atomic
from oskar.masking.packing import Batch, build_batch
from oskar.modalities import MODALITIES
from oskar.pretraining import MaskedPrediction
from oskar.tokens.words import Words, load_words
from oskar.train.checkpoint import save_encoder
from oskar.train.device import choose_device, cpu_threads
from oskar.train.health import Verdict, judge, observe
from oskar.train.loop import Progressed, Trainer
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import environment, prepare_run_folder, read_metrics, write_json_atomic

WORDS_FILE = "words.json"
ENVIRONMENT_FILE = "environment.json"


def pretrain(config: Config, data: Sequence[str], out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a recipe on data into the run folder ``out``; returns ``summary.json``, with its health.

    Raises:
        InputError: wrong data, configuration or folder; another configuration or other data than the run resumed.
        StoppedRunError: the run cannot go on.
        InterruptedRunError: after a signal, with everything saved.
    """
    with cpu_threads(config.data.workers):
        return _pretrain(config, data, out, resume=resume)


def _pretrain(config: Config, data: Sequence[str], out: Path, *, resume: bool) -> dict[str, Any]:
    prepare_run_folder(out, resume)
    if resume:
        config = _same_run(config, Config.load(out / "config.json"), out)
    device = choose_device(config.train.device)
    words_path = out / WORDS_FILE
    has_words = resume and words_path.exists()  # without resume they are left from a start that was cut short
    words = load_words(words_path, vocabulary_size=config.tokens.vocabulary_size) if has_words else None
    opened = open_training(data, config, words)
    if resume:
        precision = _stored_start(opened, out)
    else:
        precision = choose_precision(config.train.precision, device)
        _write_start(config, opened, out, device, precision)
    torch.manual_seed(config.train.seed)
    module = MaskedPrediction(config)
    trainer = Trainer(
        module,
        _stream(config, opened),
        config.train,
        out,
        precision=precision,
        device=device,
        bad_budget=int(config.data.max_bad_share * len(opened.reader)),
        observe=partial(observe, module),
    )
    trainer.resume()
    done = trainer.fit()
    save_transfer(module, config, opened.words, out / "encoder")
    summary = _summary(config, opened, done, judge(read_metrics(out)))
    write_json_atomic(out / "summary.json", summary)
    return summary


def save_transfer(module: MaskedPrediction, config: Config, words: Words | None, folder: Path) -> None:
    """Write ``encoder/``: the weights transfer uses, the configuration, and the words of captions."""
    source = module.fusion if module.momentum is None else module.momentum.encoders
    files = {} if words is None else {WORDS_FILE: words.to_json()}
    save_encoder(folder, source.state_dict(), config.to_json(), files)


def _stream(config: Config, opened: OpenedData) -> StepStream:
    train = config.train
    dataset = StepDataset(
        opened.reader,
        partial(_build, config),
        n_steps=train.steps,
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        seed=train.seed,
        clips_per_decode=config.data.clips_per_decode,
    )
    return StepStream(dataset, config.data.workers)


def _build(config: Config, clips: Any, step: int) -> Batch:
    return build_batch(clips, config, step)


def _same_run(config: Config, saved: Config, out: Path) -> Config:
    """The saved configuration, if the one asked for agrees with it."""
    # How clips are fetched changes nothing of what they are, and may differ.
    asked_data = config.data
    fetched = replace(
        saved.data,
        workers=asked_data.workers,
        cache_gib=asked_data.cache_gib,
        cache_dir=asked_data.cache_dir,
        cache_dir_gib=asked_data.cache_dir_gib,
    )
    saved = replace(saved, data=fetched)
    asked, stored = asdict(config), asdict(saved)
    for section, values in asked.items():
        if values != stored[section]:
            keys = [k for k in values if values[k] != stored[section][k]] if isinstance(values, dict) else []
            name = f"{section}.{keys[0]}" if keys else section
            have = stored[section][keys[0]] if keys else stored[section]
            want = values[keys[0]] if keys else values
            raise InputError(
                f"--resume: {name} = {want!r}, but {out} was started with {have!r}",
                fix=f"leave {name} as it was, or start another run in another --out",
            )
    return saved


def _stored_start(opened: OpenedData, out: Path) -> PrecisionChoice:
    """The precision a run was started with, since a timing is never twice the same; refuses other data."""
    path = out / ENVIRONMENT_FILE
    try:
        stored = json.loads(path.read_text("utf-8"))
        names, sha256 = stored["data"]["names"], stored["data"]["sha256"]
        precision = stored["precision"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--resume: {path} cannot be read ({error!r})", fix="start the run anew") from error
    if sha256 != opened.sha256:
        raise InputError(
            f"--resume: --data {', '.join(opened.names)}, but {out} was started with other data ({', '.join(names)})",
            fix="name the same data, in the same order, or start another run in another --out",
        )
    return PrecisionChoice.from_json(precision, str(path))


def _write_start(
    config: Config, opened: OpenedData, out: Path, device: torch.device, precision: PrecisionChoice
) -> None:
    if opened.words is not None:
        opened.words.save(out / WORDS_FILE)
    data = {"names": list(opened.names), "sha256": opened.sha256}
    write_json_atomic(out / ENVIRONMENT_FILE, environment(device, precision) | {"data": data})
    write_text_atomic(out / "config.json", config.to_json())  # last: it marks the folder as a run


def _summary(config: Config, opened: OpenedData, done: Progressed, verdict: Verdict) -> dict[str, Any]:
    return {
        "recipe": config.recipe,
        "steps": done.step,
        "samples_seen": done.samples_seen,
        "tokens_seen": done.tokens_seen,
        "wall_seconds": done.seconds,
        "samples_per_second": done.samples_seen / max(done.seconds, 1e-9),
        "data_wait_share": done.wait_seconds / max(done.seconds, 1e-9),
        "health": verdict.to_json(),
        "skipped_steps": done.skipped_steps,
        "data": list(opened.names),
        "data_sha256": opened.sha256,
        "n_clips": len(opened.reader),
        "n_left_out": opened.n_left_out,
        "bad_clips": done.bad,
        "modalities": [m for m in MODALITIES if m in config.tokens.modalities],
        "seed": config.train.seed,
    }
