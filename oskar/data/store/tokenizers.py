"""What the video tokens of a store hold: pixels, or the vectors of a model that lies in a local folder."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oskar.config import TokensConfig
from oskar.data.store.index import TokenizerFacts
from oskar.data.store.settings import StoreConfig
from oskar.errors import InputError
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD

_MODELS = ("videomae", "vjepa2")
_PREPROCESSING = ("preprocessor_config.json", "video_preprocessor_config.json")
_TYPES: dict[str, tuple[Literal["BF16", "F16", "F32"], torch.dtype]] = {
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
    "float32": ("F32", torch.float32),
}


class VideoTokenizer(Protocol):
    """Turns frames into the values of video tokens."""

    @property
    def facts(self) -> TokenizerFacts: ...

    def tokens(self, frames: Tensor) -> NDArray[Any]:
        """Values ``[V, places, steps, P]`` of V views ``[V, T, 3, H, W]`` uint8, tube by tube."""


def open_tokenizer(name: str, tokens: TokensConfig, store: StoreConfig) -> VideoTokenizer:
    """``raw``, or the model in a folder.

    Raises:
        InputError: no such folder, no model of a known kind, or one whose tokens are cut otherwise.
    """
    return RawTubelets(tokens) if name == "raw" else ModelVectors(Path(name), tokens, store)


class RawTubelets:
    """Pixels uint8 in the order frame, channel, row, column, as ``VideoTokens`` takes them."""

    def __init__(self, tokens: TokensConfig) -> None:
        self._depth, self._patch = tokens.tubelet_frames, tokens.patch_size
        width = tokens.tubelet_frames * 3 * tokens.patch_size**2
        self.facts = TokenizerFacts(kind="raw", width=width, type="U8")

    def tokens(self, frames: Tensor) -> NDArray[Any]:
        n_views, n_frames, _, height, width = frames.shape
        depth, patch = self._depth, self._patch
        grid = frames.view(n_views, n_frames // depth, depth, 3, height // patch, patch, width // patch, patch)
        tubes = grid.permute(0, 4, 6, 1, 2, 3, 5, 7)  # view, row, column, step, then the values
        values: NDArray[Any] = tubes.reshape(n_views, -1, n_frames // depth, self.facts.width).numpy()
        return values


class ModelVectors:
    """Vectors of a VideoMAE or V-JEPA 2 model: its patch embedding, or the features of its whole encoder.

    The patch embedding is a linear map of the token's own pixels. Features have seen the whole clip, so that a
    visible token may hold what is hidden (A8).
    """

    def __init__(self, folder: Path, tokens: TokensConfig, store: StoreConfig) -> None:
        self._encoder = _load(folder)
        self._is_vjepa = self._encoder.config.model_type == "vjepa2"
        self._layer = store.layer
        _require_same_grid(folder, self._encoder.config, tokens)
        self._steps = tokens.n_frames // tokens.tubelet_frames
        self._mean, self._std = _pixel_statistics(folder)
        kind, self._dtype = _TYPES[store.vector_type]
        self.facts = TokenizerFacts(
            kind=store.layer,
            width=int(self._encoder.config.hidden_size),
            type=kind,
            model=self._encoder.config.model_type,
            sha256=_weights_sha256(folder),
        )

    @torch.inference_mode()
    def tokens(self, frames: Tensor) -> NDArray[Any]:
        pixels = (frames.float() / 255.0 - self._mean) / self._std
        if self._is_vjepa:
            encoder = self._encoder.encoder
            found = encoder(pixels).last_hidden_state if self._layer == "features" else encoder.embeddings(pixels)
        elif self._layer == "features":
            found = self._encoder(pixels).last_hidden_state
        else:
            # Without the positions, which the model of this library adds itself.
            found = self._encoder.embeddings.patch_embeddings(pixels)
        vectors = found.to(self._dtype).view(len(frames), self._steps, -1, self.facts.width).transpose(1, 2)
        vectors = vectors.contiguous()
        if self._dtype is torch.bfloat16:
            vectors = vectors.view(torch.int16)  # numpy has no bfloat16
        values: NDArray[Any] = vectors.numpy()
        return values.view(np.uint16) if self._dtype is torch.bfloat16 else values


def _load(folder: Path) -> Any:
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder}: not a folder", fix="use raw, or the folder of a saved model")
    try:
        from transformers import AutoConfig, VideoMAEModel, VJEPA2Model
    except ImportError as error:
        raise InputError(f"--tokenizer {folder} needs transformers", fix='pip install "oskar[hf]"') from error
    fix = f"name the folder that save_pretrained of one of {', '.join(_MODELS)} wrote, with safetensors"
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kinds: dict[str, Any] = {"videomae": VideoMAEModel, "vjepa2": VJEPA2Model}
        if config.model_type not in kinds:
            raise InputError(f"--tokenizer {folder}: a {config.model_type} model", fix=fix)
        loaded = kinds[config.model_type].from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--tokenizer {folder}: cannot be loaded ({error})", fix=fix) from error
    model: nn.Module = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers fills them with random numbers
        raise InputError(f"--tokenizer {folder}: has no {', '.join(missing[:3])}", fix=fix)
    return model.eval()


def _require_same_grid(folder: Path, model: Any, tokens: TokensConfig) -> None:
    size = model.crop_size if model.model_type == "vjepa2" else model.image_size
    wanted = {"tokens.tubelet_frames": (tokens.tubelet_frames, model.tubelet_size)}
    wanted["tokens.patch_size"] = (tokens.patch_size, model.patch_size)
    if model.model_type != "vjepa2":  # its positions are rotary: any size will do
        wanted["tokens.resolution"] = (tokens.resolution, size)
        wanted["tokens.n_frames"] = (tokens.n_frames, model.num_frames)
    for key, (asked, given) in wanted.items():
        if asked != given:
            raise InputError(
                f"{key} = {asked}, but the model in {folder} has {given}",
                fix=f"set {key}={given}, or use another model",
            )


def _pixel_statistics(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and spread of colour that the model was trained with; those of ImageNet where it does not say."""
    values: dict[str, Any] = {}
    for name in _PREPROCESSING:
        if (folder / name).is_file():
            try:
                values = json.loads((folder / name).read_text("utf-8"))
            except ValueError as error:
                raise InputError(f"{folder / name}: not JSON ({error})", fix="repair or remove it") from error
    mean, std = values.get("image_mean", PIXEL_MEAN), values.get("image_std", PIXEL_STD)
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def _weights_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
