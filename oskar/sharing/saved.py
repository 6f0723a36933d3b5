"""Encoders as one folder to hand on, in the layout of model hubs: weights, configuration, preprocessing, card."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oskar.config import Config
from oskar.errors import InputError
from oskar.pretraining import MaskedPrediction
from oskar.settings import apply_overrides, validate
from oskar.sharing.card import FACTS_FILE, RunFacts, model_card
from oskar.sharing.preprocessing import PREPROCESSING_FILE, preprocessing_json
from oskar.sharing.pretrained import Pretrained, weights_sha256
from oskar.tasks.transfer import Transfer, target_encoders, words_beside
from oskar.train.checkpoint import CONFIG_FILE, load_module_strict, require_fit, under
from oskar.train.pretrain import WORDS_FILE
from oskar.train.sealed import TEMPORARY, not_written, put_in_place, refuse_pickle

FORMAT = "oskar-pretrained"
VERSION = 1
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
ENCODER, FUSION = "encoder.", "fusion."
_FIX = "copy the whole folder again, or write it with save_pretrained"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Saved:
    """What ``config.json`` of a saved folder holds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Literal["oskar-pretrained"] = "oskar-pretrained"
    version: Literal[1] = 1
    model_type: Literal["oskar"] = "oskar"
    encoder_sha256: str
    weights_sha256: str
    licence: str | None = None
    config: dict[str, Any]


def save_pretrained(pretrained: Pretrained, folder: Path, *, licence: str | None = None) -> None:
    """Write weights, configuration, preprocessing, words and a model card into a new folder, whole or not at all.

    ``licence`` is that of the weights, which the data they learned from may bind; the card says where none is given.

    Raises:
        InputError: the folder is there and not empty, or the weights of the fusion encoder are gone.
        StoppedRunError: it cannot be written; nothing is left behind.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there and not empty", fix="name a new folder")
    module = pretrained.transfer.module
    tensors = _prefixed(ENCODER, target_encoders(module).state_dict())
    if module.momentum is not None:
        tensors |= _prefixed(FUSION, pretrained.fusion()[0].state_dict())
    temporary = folder.with_name(TEMPORARY + folder.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS_FILE, {"format": "pt"})
        saved = _Saved(
            encoder_sha256=pretrained.transfer.sha256,
            weights_sha256=sha256_of(temporary / WEIGHTS_FILE),
            licence=licence,
            config=json.loads(pretrained.config.to_json()),
        )
        facts, n_parameters = RunFacts.of(pretrained.run), sum(t.numel() for t in tensors.values())
        texts = {
            CONFIG_FILE: json.dumps(dataclasses.asdict(saved), indent=2) + "\n",
            PREPROCESSING_FILE: preprocessing_json(pretrained.config, pretrained.words),
            FACTS_FILE: facts.to_json(),
            CARD_FILE: model_card(
                pretrained.config, facts, licence, sha256=pretrained.transfer.sha256, n_parameters=n_parameters
            ),
        }
        texts |= {} if pretrained.words is None else {WORDS_FILE: pretrained.words.to_json()}
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / WEIGHTS_FILE).chmod((temporary / CONFIG_FILE).stat().st_mode)
        put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise not_written(folder, sum(t.nbytes for t in tensors.values()), str(error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def from_pretrained(
    folder: Path | str, *, overrides: Sequence[str] = (), keys: Sequence[str] | None = None
) -> Pretrained:
    """The encoders in a folder that ``save_pretrained`` wrote.

    Every key must be there with its shape, and no other. Only ``keys``, names or patterns such as
    ``"encoder.*.blocks.*"``, load in part: what they do not name keeps the random weights of ``train.seed``.
    ``overrides`` such as ``"tokens.resolution=320"`` change the configuration first; weights that then have another
    shape are among what a mismatch lists.

    Raises:
        InputError: no such folder, damaged or changed, or a mismatch, with the table of missing, unexpected and
            reshaped keys.
    """
    folder = Path(folder)
    saved, tensors = _read(folder)
    config = validate(Config, saved.config, str(folder / CONFIG_FILE))
    if overrides:
        config = apply_overrides(config, list(overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        module = MaskedPrediction(config)
    whole = nn.ModuleDict({"encoder": target_encoders(module)})
    if module.momentum is not None:
        whole["fusion"] = module.fusion
    source = str(folder / WEIGHTS_FILE)
    if keys is None:
        load_module_strict(whole, tensors, source)
    else:
        load_named(whole, tensors, keys, source)
    is_as_saved = keys is None and not overrides
    sha256 = saved.encoder_sha256 if is_as_saved else weights_sha256(target_encoders(module).state_dict())
    fusion = {name: tensor.clone() for name, tensor in under(FUSION, whole.state_dict()).items()}
    return Pretrained(Transfer(config, words_beside(folder, config), sha256, module), lambda: fusion, folder)


def is_saved_folder(folder: Path) -> bool:
    """Whether a folder looks like one of ``save_pretrained``."""
    return (folder / WEIGHTS_FILE).is_file()


def load_named(module: nn.Module, tensors: Mapping[str, Tensor], keys: Sequence[str], source: str) -> tuple[str, ...]:
    """Load the weights that ``keys`` name or match, and no others; returns their names.

    Raises:
        InputError: a key that names nothing in the file or nothing in the module, or weights of another shape; then
            nothing was changed.
    """
    wanted = module.state_dict()
    chosen: dict[str, Tensor] = {}
    for key in keys:
        of_file = [name for name in tensors if fnmatchcase(name, key)]
        both = [name for name in of_file if name in wanted]
        if not both:
            where = "the model" if of_file else "the file"
            raise InputError(
                f"{source}: key {key!r} names no weight of {where}",
                fix=f"name or match some, such as {next(iter(wanted if of_file else tensors))}",
            )
        chosen |= {name: tensors[name] for name in both}
    require_fit({name: wanted[name] for name in chosen}, chosen, "the weights that are named", source)
    module.load_state_dict(chosen, strict=False)
    return tuple(chosen)


def _read(folder: Path) -> tuple[_Saved, dict[str, Tensor]]:
    """The configuration and the weights, checked against the SHA-256 that stands in it."""
    refuse_pickle(folder)
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{folder} holds no {CONFIG_FILE} ({error.strerror})", fix=_FIX) from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})", fix=_FIX) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path} is not the configuration of a folder of save_pretrained", fix=_FIX)
    if values.get("version") != VERSION:
        found = values.get("version")
        raise InputError(f"{path}: version = {found!r}, this oskar reads {VERSION}", fix="use the oskar that wrote it")
    saved = validate(_Saved, values, str(path))
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(f"{weights} is missing", fix=_FIX)
    digest = sha256_of(weights)
    if digest != saved.weights_sha256:
        raise InputError(
            f"{weights} is truncated or changed: sha256 {digest[:16]}..., written as {saved.weights_sha256[:16]}...",
            fix=_FIX,
        )
    return saved, load_file(weights)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
