"""Captions by an image-text-to-text model of transformers in a local folder; nothing is downloaded."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oskar.data.decoding import read_frames
from oskar.errors import InputError
from oskar.preparation.settings import CaptionsConfig

_NEEDS = 'pip install "oskar[hf]"'
_FAILURES = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError)


class CaptionModel:
    """A model and its processor, loaded at the first caption.

    The code of the folder itself is never run (``trust_remote_code`` stays off).

    Raises:
        InputError: no such folder, or no model in it that transformers knows for images and text.
    """

    def __init__(self, folder: Path, config: CaptionsConfig) -> None:
        if not (folder / "config.json").is_file():
            raise InputError(
                f"--caption-model {folder}: holds no config.json",
                fix="name the local folder of an image-text-to-text model; nothing is downloaded",
            )
        self.folder, self._config = folder, config

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def licence(self) -> str:
        """What the model card in the folder says."""
        card = self.folder / "README.md"
        text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
        front = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
        said = re.search(r"^license:\s*(\S.*)$", front.group(1), flags=re.MULTILINE) if front else None
        return said.group(1).strip() if said else "the folder does not say"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise InputError(f"--caption-model {self.folder}: transformers is not installed", fix=_NEEDS) from error
        try:
            processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)  # type: ignore[no-untyped-call]
            model: nn.Module = AutoModelForImageTextToText.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, dtype=getattr(torch, self._config.precision)
            )
            model = model.to(self._config.device).eval()
        except _FAILURES as error:
            raise InputError(
                f"--caption-model {self.folder}: cannot be loaded ({' '.join(str(error).split())[:300]})",
                fix="name a whole folder of an image-text-to-text model with safetensors and its processor",
            ) from error
        return processor, model

    def load(self) -> None:
        """Load the model now, so that a wrong one fails before any video is read."""
        _ = self._loaded

    def caption(self, path: Path, n_frames: int) -> str:
        """One caption of a video from evenly spaced frames; raises InputError where the model writes nothing."""
        n = min(self._config.n_frames, n_frames)
        idx = [int((i + 0.5) * n_frames / n) for i in range(n)]
        text = self._answer(list(read_frames(path, idx)))
        if not text:
            raise InputError(f"{path}: {self.folder} wrote no caption", fix="change captions.prompt or the model")
        return text

    def _answer(self, pictures: Sequence[Tensor]) -> str:
        from PIL import Image

        processor, model = self._loaded
        images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
        try:
            if getattr(processor, "chat_template", None) is None:  # captioners such as BLIP look at one picture
                inputs = processor(images=images[len(images) // 2], text=self._config.prompt, return_tensors="pt")
            else:
                content = [{"type": "image", "image": image} for image in images]
                content.append({"type": "text", "text": self._config.prompt})
                inputs = processor.apply_chat_template(
                    [{"role": "user", "content": content}],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                )
            with torch.inference_mode():
                inputs = inputs.to(self._config.device, model.dtype)
                ids = model.generate(**inputs, max_new_tokens=self._config.n_tokens, do_sample=False)
        except _FAILURES as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"--caption-model {self.folder}: fails on {len(images)} pictures ({reason})",
                fix="set captions.n_frames=1 for a model of single pictures, or change captions.prompt",
            ) from error
        return self._text(processor, ids, inputs)

    def _text(self, processor: Any, ids: Tensor, inputs: Any) -> str:
        """The answer without the prompt, which decoders repeat and encoder-decoders do not."""
        prompt = inputs.get("input_ids")
        ids = ids.cpu()
        prompt = None if prompt is None else prompt.cpu()
        n_prompt = 0 if prompt is None else prompt.shape[1]
        is_repeated = prompt is not None and ids.shape[1] >= n_prompt and torch.equal(ids[:, :n_prompt], prompt)
        answer = ids[:, n_prompt:] if is_repeated else ids
        text: str = processor.batch_decode(answer, skip_special_tokens=True)[0]
        return " ".join(text.split())
