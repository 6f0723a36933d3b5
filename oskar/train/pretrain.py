"""A pretraining run from a configuration and data to a run folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oskar.config import Config
from oskar.data.open import OpenedData, open_training
from oskar.data.people_reader import parse_people
from oskar.data.stream import StepDataset, StepStream
from oskar.errors import InputError
from oskar.files import write_text_atomic
from oskar.masking.packing import Batch, build_batch, idle_batch
from oskar.modalities import MODALITIES
from oskar.pretraining import MaskedPrediction
from oskar.tokens.words import Words, load_words
from oskar.train.checkpoint import CONFIG_FILE, save_encoder
from oskar.train.compiling import compile_blocks, uncompiled
from oskar.train.device import choose_device, cpu_threads
from oskar.train.distributed import Processes, n_processes
from oskar.train.health import Verdict, judge, observe
from oskar.train.loop import Progressed, Trainer
from oskar.train.precision import PrecisionChoice, choose_precision
from oskar.train.record import environment, prepare_run_folder, read_metrics, write_json_atomic
from oskar.train.replica import whole

WORDS_FILE = "words.json"
ENVIRONMENT_FILE = "environment.json"


def pretrain(config: Config, data: Sequence[str], out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train a recipe on data into the run folder ``out``; returns ``summary.json``, with its health.

    Raises:
        InputError: wrong data, configuration or folder; another configuration or other data than the run resumed.
        StoppedRunError: the run cannot go on.
        InterruptedRunError: after a signal, with everything saved.
    """
    _check_batch(config, n_processes())
    device = choose_device(config.train.device)
    joined = Processes.join(config.train.collective_timeout_seconds, with_cuda=device.type == "cuda")
    with cpu_threads(config.data.workers), joined as processes:
        return _pretrain(config, data, out, processes, processes.device(device), resume=resume)


def _pretrain(
    config: Config, data: Sequence[str], out: Path, processes: Processes, device: torch.device, *, resume: bool
) -> dict[str, Any]:
    # A restart by torchrun repeats the command, and goes on if the run had begun.
    resume = processes.first(resume or (processes.is_restart and (out / "config.json").exists()))
    if processes.is_first:
        prepare_run_folder(out, resume)
    processes.enter("opening the data")
    if resume:
        config = _same_run(config, Config.load(out / CONFIG_FILE), out)
    words_path = out / WORDS_FILE
    has_words = resume and words_path.exists()  # without resume they are left from a start that was cut short
    words = load_words(words_path, vocabulary_size=config.tokens.vocabulary_size) if has_words else None
    opened = open_training(data, config, words)
    processes.require_same(
        {"configuration": config.to_json(), "--data sha256": opened.sha256},
        fix="give every process the same command and the same data",
    )
    if resume:
        precision = _stored_start(opened, out)
    else:
        precision = _agreed_precision(config, device, processes)
        if processes.is_first:
            start = environment(device, precision) | {"data": _identity(opened, data), "processes": processes.n}
            _write_start(config, opened.words, start, out)
    processes.enter("building the model")
    torch.manual_seed(config.train.seed)
    module = MaskedPrediction(config)
    watch = partial(observe, module)
    if config.train.compile:
        compile_blocks(module, device)
    trainer = Trainer(
        module,
        _stream(config, opened, processes),
        config.train,
        out,
        precision=precision,
        device=device,
        bad_budget=int(config.data.max_bad_share * len(opened.reader)),
        observe=uncompiled(watch) if config.train.compile else watch,
        processes=processes,
        idle=idle_batch(config).to(device),
        files={CONFIG_FILE: config.to_json()} | _words_file(opened.words),
    )
    trainer.resume()
    done = trainer.fit()
    processes.enter("writing the results")
    encoder = whole(target_encoders(module).state_dict(), is_kept=processes.is_first)
    summary: dict[str, Any] = {}
    if processes.is_first:
        _write_encoder(encoder, config, opened.words, out / "encoder")
        summary = _summary(config, opened, done, judge(read_metrics(out))) | {"processes": processes.n}
        write_json_atomic(out / "summary.json", summary)
    return processes.first(summary)


def places_of(data: Sequence[str]) -> list[str]:
    """``--data`` as it can be given from any folder: paths absolute, all else (``people``) as it is."""
    return [str(Path(name).resolve()) if parse_people(name) is None and Path(name).exists() else name for name in data]


def save_transfer(module: MaskedPrediction, config: Config, words: Words | None, folder: Path) -> None:
    """Write ``encoder/``: the weights transfer uses, the configuration, and the words of captions."""
    _write_encoder(target_encoders(module).state_dict(), config, words, folder)


def target_encoders(module: MaskedPrediction) -> nn.Module:
    """What ``RUN/encoder`` holds the weights of: the momentum encoders, or the fusion encoder where there are none."""
    return module.fusion if module.momentum is None else module.momentum.encoders


def _write_encoder(tensors: Mapping[str, Tensor], config: Config, words: Words | None, folder: Path) -> None:
    save_encoder(folder, tensors, config.to_json(), _words_file(words))


def _words_file(words: Words | None) -> dict[str, str]:
    return {} if words is None else {WORDS_FILE: words.to_json()}


def _check_batch(config: Config, n: int) -> None:
    n_parts = n * config.train.accumulation
    if config.train.batch_size % n_parts:
        raise InputError(
            f"train.batch_size = {config.train.batch_size} for {n} processes with "
            f"train.accumulation = {config.train.accumulation}: no equal parts",
            fix=f"use a multiple of {n_parts}",
        )


def _agreed_precision(config: Config, device: torch.device, processes: Processes) -> PrecisionChoice:
    """That of the first process: a timing is never twice the same."""
    values = choose_precision(config.train.precision, device).to_json() if processes.is_first else {}
    return PrecisionChoice.from_json(processes.first(values), "the first process")


def _stream(config: Config, opened: OpenedData, processes: Processes) -> StepStream:
    train = config.train
    dataset = StepDataset(
        opened.reader,
        partial(_build, config),
        n_steps=train.steps,
        batch_size=train.batch_size,
        accumulation=train.accumulation,
        seed=train.seed,
        rank=processes.rank,
        n_processes=processes.n,
        clips_per_decode=config.data.clips_per_decode,
    )
    return StepStream(dataset, config.data.workers)


def _build(config: Config, clips: Any, step: int) -> Batch:
    return build_batch(clips, config, step)


def _same_run(config: Config, saved: Config, out: Path) -> Config:
    """The saved configuration, if the one asked for agrees with it."""
    # How clips are fetched changes nothing of what they are, and may differ; nor does how a batch is shared out,
    # but for rounding.
    train = replace(
        saved.train,
        accumulation=config.train.accumulation,
        parallel=config.train.parallel,
        collective_timeout_seconds=config.train.collective_timeout_seconds,
    )
    data = replace(
        saved.data,
        workers=config.data.workers,
        cache_gib=config.data.cache_gib,
        cache_dir=config.data.cache_dir,
        cache_dir_gib=config.data.cache_dir_gib,
    )
    saved = replace(saved, data=data, train=train)
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


def _write_start(config: Config, words: Words | None, start: dict[str, Any], out: Path) -> None:
    if words is not None:
        words.save(out / WORDS_FILE)
    write_json_atomic(out / ENVIRONMENT_FILE, start)
    write_text_atomic(out / CONFIG_FILE, config.to_json())  # last: it marks the folder as a run


def _identity(opened: OpenedData, given: Sequence[str]) -> dict[str, Any]:
    return {"names": list(opened.names), "sha256": opened.sha256, "places": places_of(given)}


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
        "n_quarantined": opened.n_quarantined,
        "bad_clips": done.bad,
        "modalities": [m for m in MODALITIES if m in config.tokens.modalities],
        "seed": config.train.seed,
    }
