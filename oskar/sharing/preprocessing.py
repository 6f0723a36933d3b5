"""What is done to a clip before the encoder sees it, as one JSON object: with it the weights can be used elsewhere."""

import hashlib
import json
import math
from typing import Any

from oskar.config import Config
from oskar.tokens.layouts import INTERNAL
from oskar.tokens.skeleton import JOINT_MEAN, JOINT_STD
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD
from oskar.tokens.words import Words

PREPROCESSING_FILE = "preprocessing.json"
VERSION = 1


def preprocessing(config: Config, words: Words | None) -> dict[str, Any]:
    """Facts by modality, of the modalities that the configuration names; see ``docs/export.md``."""
    tokens, clip = config.tokens, config.clip
    of_modality: dict[str, dict[str, Any]] = {
        "video": {
            "frames": "uint8 RGB, upright, evenly over the clip or window, its first and its last frame among them",
            "resize_shorter_side": math.ceil(tokens.resolution / math.sqrt(clip.crop_scale[0])),
            "crop": "the square in the middle",
            "resize_crop": tokens.resolution,
            "interpolation": "bilinear, antialiased",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "tubelet": [tokens.tubelet_frames, tokens.patch_size, tokens.patch_size],
            "min_contrast": tokens.min_contrast,
        },
        "skeleton": {
            "joints": list(INTERNAL),
            "coordinates": "shares of the crop of the frame, y down; without a video, of the square around all joints",
            "n_people": tokens.n_people,
            "min_confidence": tokens.min_confidence,
            "segment_frames": tokens.segment_frames,
            "joint_frame": tokens.joint_frame,
            "projection": clip.projection,
            "focal_lengths": clip.focal_lengths,
            "box_margin": clip.box_margin,
            "mean": list(JOINT_MEAN),
            "std": list(JOINT_STD),
        },
        "text": {
            "tokenizer": "lower-case WordPiece without special tokens",
            "n_words": tokens.n_words,
            "vocabulary_sha256": None if words is None else _vocabulary_sha256(words),
        },
    }
    facts: dict[str, Any] = {name: of_modality[name] for name in of_modality if name in tokens.modalities}
    return {"format": "oskar-preprocessing", "version": VERSION, "n_frames": tokens.n_frames, **facts}


def preprocessing_json(config: Config, words: Words | None) -> str:
    return json.dumps(preprocessing(config, words), indent=2) + "\n"


def preprocessing_sha256(config: Config, words: Words | None) -> str:
    """What files of embeddings state: vectors of other preprocessing are not to be compared."""
    return hashlib.sha256(preprocessing_json(config, words).encode()).hexdigest()


def _vocabulary_sha256(words: Words) -> str:
    """Over the entries in the order of their ids: how a tokenizer's file is written may change, its words do not."""
    entries = sorted(words.tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0]))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
