"""From a run folder to the encoders that transfer uses, and the same encoders with random weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from oskar.config import Config
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.model.encoder import TokenEncoder
from oskar.model.momentum import MomentumEncoders
from oskar.pretraining import MaskedPrediction
from oskar.tokens.words import Words, load_words
from oskar.train.checkpoint import CONFIG_FILE, encoder_sha256, load_encoder, load_module_strict
from oskar.train.pretrain import WORDS_FILE
from oskar.train.sealed import MANIFEST


@dataclass(frozen=True, slots=True)
class Transfer:
    """The target encoders of a run; ``encoder`` gives the one of a modality, ``random_encoder`` its control."""

    config: Config
    words: Words | None
    sha256: str
    module: MaskedPrediction

    def encoder(self, modality: Modality) -> TokenEncoder:
        """The pretrained encoder of a modality, in evaluation mode, without gradients."""
        require_modality(self.config, modality)
        return self.module.encoder(modality).eval().requires_grad_(False)


def load_transfer(run: Path) -> Transfer:
    """Load ``RUN/encoder`` (or the encoder folder itself).

    Raises:
        InputError: missing, damaged, or not fitting its own configuration; never loads a pickle.
    """
    folder = run / "encoder" if (run / "encoder").is_dir() else run
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{run} holds no encoder", fix="name the folder of a pretraining run that has ended, or its encoder folder"
        )
    tensors, files = load_encoder(folder)
    config = Config.from_json(files[CONFIG_FILE], str(folder / CONFIG_FILE))
    module = MaskedPrediction(config)
    load_module_strict(target_encoders(module), tensors, str(folder))
    return Transfer(config, words_beside(folder, config), encoder_sha256(folder), module)


def target_encoders(module: MaskedPrediction) -> nn.Module:
    """What ``RUN/encoder`` holds the weights of: the momentum encoders, or the fusion encoder where there are none."""
    return module.fusion if module.momentum is None else module.momentum.encoders


def words_beside(folder: Path, config: Config) -> Words | None:
    """The words in a folder of weights, None where the run had no captions."""
    path = folder / WORDS_FILE
    return load_words(path, vocabulary_size=config.tokens.vocabulary_size) if path.is_file() else None


def random_encoder(config: Config, modality: Modality, seed: int) -> TokenEncoder:
    """The control: the encoder a run starts from, with the weights of ``seed`` and no training."""
    require_modality(config, modality)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        online = TokenEncoder(config.tokens, config.model)
    if config.momentum.video is not None:
        return MomentumEncoders(online, config.momentum).encoder(modality).eval()
    return online.eval().requires_grad_(False)


def what_is_read(config: Config, modality: Modality) -> Config:
    """Only files that the modality needs can spoil a clip; joints of clips with a video lie on its frame."""
    names: tuple[Modality, ...] = ("video",) if modality == "video" else ("video", modality)
    kept = tuple(name for name in names if name in config.tokens.modalities)
    return replace(config, tokens=replace(config.tokens, modalities=kept))


def whole_clips(config: Config, crop_scale: tuple[float, float]) -> Config:
    """Clips whole, by frames evenly over all of them, and never mirrored: words may say left and right."""
    clip = replace(
        config.clip, temporal="span", span_share=(1.0, 1.0), crop_scale=crop_scale, flip_probability=0.0
    )  # fmt: skip
    return replace(config, clip=clip)


def require_words(transfer: Transfer) -> Words:
    """The words of the run; InputError where it was pretrained without text or without captions."""
    modalities = transfer.config.tokens.modalities
    if "text" not in modalities or transfer.words is None:
        reason = (
            f"without text, on {', '.join(modalities)}"
            if "text" not in modalities
            else "with text but without captions"
        )
        raise InputError(
            f"the run was pretrained {reason}: it cannot read sentences",
            fix="pretrain with text among tokens.modalities, on data with captions",
        )
    return transfer.words


def require_modality(config: Config, modality: Modality) -> None:
    if modality not in config.tokens.modalities:
        raise InputError(
            f"--modality {modality}: the run was pretrained on {', '.join(config.tokens.modalities)}",
            fix="choose one of these, or pretrain with the modality",
        )
