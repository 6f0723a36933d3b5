"""The encoders of a run, of a checkpoint or of a saved folder, whichever a path names."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from oskar.config import Config
from oskar.errors import InputError
from oskar.modalities import MODALITIES, Modality
from oskar.model.encoder import TokenEncoder
from oskar.pretraining import MaskedPrediction
from oskar.sharing.preprocessing import preprocessing_sha256
from oskar.tasks.transfer import Transfer, load_transfer, target_encoders, words_beside
from oskar.tokens.words import Words
from oskar.train.checkpoint import CONFIG_FILE, latest_checkpoint, load_module_strict, read_checkpoint, under
from oskar.train.sealed import MANIFEST

MODULE = "module/"
_FUSION = "module/fusion."


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """Encoders with what they need; ``fusion_tensors`` gives the weights of the fusion encoder, which few uses need.

    ``run`` is the folder whose records say how they were trained, None where there is none.

    The target encoders serve one modality alone, as in every task; the fusion encoder sees all of a clip's tokens.
    """

    transfer: Transfer
    fusion_tensors: Callable[[], Mapping[str, Tensor]]
    run: Path | None

    @property
    def config(self) -> Config:
        return self.transfer.config

    @property
    def words(self) -> Words | None:
        return self.transfer.words

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities it can encode."""
        return tuple(name for name in MODALITIES if name in self.config.tokens.modalities)

    @property
    def preprocessing_sha256(self) -> str:
        return preprocessing_sha256(self.config, self.words)

    def fusion(self) -> tuple[TokenEncoder, str]:
        """The fusion encoder, in evaluation mode, and the SHA-256 of its weights.

        Raises:
            InputError: the weights are not kept where the encoders came from, or do not fit.
        """
        encoder = self.transfer.module.fusion
        if self.transfer.module.momentum is None:
            return encoder.eval().requires_grad_(False), self.transfer.sha256
        tensors = self.fusion_tensors()
        load_module_strict(encoder, tensors, "the fusion encoder")
        return encoder.eval().requires_grad_(False), weights_sha256(tensors)


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 that a safetensors file of these tensors would have."""
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return hashlib.sha256(save(owned)).hexdigest()


def pretrained_run(run: Path) -> Pretrained:
    """The encoders of a run that has ended; the fusion encoder is that of its newest checkpoint.

    Raises:
        InputError: no encoder there, a damaged one, or one that does not fit its configuration.
    """
    transfer = load_transfer(run)
    folder = run if (run / "encoder").is_dir() else run.parent

    def fusion_tensors() -> Mapping[str, Tensor]:
        newest = latest_checkpoint(folder)
        if newest is None:
            raise InputError(
                f"{run} holds no weights of the fusion encoder: it has no checkpoints",
                fix="name the whole run folder, or a folder that save_pretrained wrote from it, or embed one modality",
            )
        return _fusion_of(read_checkpoint(newest)[0])

    return Pretrained(transfer, fusion_tensors, folder)


def pretrained_checkpoint(folder: Path) -> Pretrained:
    """The encoders as they were at a checkpoint, from its folder alone.

    Raises:
        InputError: no checkpoint, a damaged one, or one written before checkpoints held their configuration.
    """
    tensors, texts = read_checkpoint(folder)
    if CONFIG_FILE not in texts:
        raise InputError(
            f"{folder} holds no {CONFIG_FILE}: it is of a task, or of an older oskar",
            fix="name the folder of a pretraining run, or a checkpoint of one",
        )
    config = Config.from_json(texts[CONFIG_FILE], str(folder / CONFIG_FILE))
    module = MaskedPrediction(config)
    load_module_strict(module, under(MODULE, tensors), str(folder))
    sha256 = weights_sha256(target_encoders(module).state_dict())
    transfer = Transfer(config, words_beside(folder, config), sha256, module)
    return Pretrained(transfer, lambda: _fusion_of(tensors), None)


def is_sealed_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like ``RUN/checkpoints/step-XXXXXXXX``."""
    return (folder / MANIFEST).is_file() and (folder / "state.json").is_file()


def _fusion_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, since a file's own memory is mapped and the file may be removed."""
    return {name: tensor.clone() for name, tensor in under(_FUSION, tensors).items()}


__all__ = ["Pretrained", "is_sealed_checkpoint", "pretrained_checkpoint", "pretrained_run", "weights_sha256"]
