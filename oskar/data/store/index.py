"""The index of a store, ``store.json``: how the clips were cut, and every file with its size and checksum."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from oskar.config import ClipConfig, Config, TokensConfig
from oskar.data.store.arrays_file import ArraysFile
from oskar.data.store.texts import Texts, texts_of
from oskar.errors import InputError
from oskar.settings import validate

FORMAT, VERSION = "oskar-store", 1
INDEX_FILE, CLIPS_FILE, SHARDS_FOLDER = "store.json", "clips.safetensors", "shards"
PLAN_FILE = "plan.json"  # in a store that is being made

_STRICT = ConfigDict(extra="forbid")
# What of the tokens is settled in a store; the rest of the tokens' settings is free at every run.
_SETTLED = ("n_frames", "resolution", "tubelet_frames", "patch_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file of the store, by its path from the store's folder."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    file: str
    bytes: int
    sha256: str
    n_clips: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerFacts:
    """What the video tokens hold: the pixels of a tubelet, or a vector of a model, known by its weights' SHA-256."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: Literal["raw", "embedding", "features"]
    width: int
    type: Literal["U8", "BF16", "F16", "F32"]
    model: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreIndex:
    """All of ``store.json``.

    ``id_prefix`` is what pooling puts before the stored clip ids; ``bad`` are the clips that could not be read,
    with the reason.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    format: Literal["oskar-store"]
    version: int
    name: str
    has_prefix: bool
    tokenizer: TokenizerFacts
    tokens: TokensConfig
    clip: ClipConfig
    views: int
    seed: int
    split: str | None
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    n_clips: int
    data_sha256: str
    clips: StoredFile
    shards: tuple[StoredFile, ...]
    bad: tuple[tuple[str, str], ...] = field(default=())

    @property
    def n_places(self) -> int:
        """Tubes of a clip: places of the video's grid."""
        return (self.tokens.resolution // self.tokens.patch_size) ** 2

    @property
    def n_steps(self) -> int:
        """Tokens of a tube."""
        return self.tokens.n_frames // self.tokens.tubelet_frames

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_index(text: str, source: str) -> StoreIndex:
    """Parse and check; ``source`` names the file in errors."""
    try:
        values = json.loads(text)
        found = values["format"], values["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source}: not the index of a token store ({error!r})", fix="make the store anew") from error
    if found != (FORMAT, VERSION):
        raise InputError(
            f"{source}: format {found[0]!r}, version {found[1]!r}; this oskar reads {FORMAT!r}, version {VERSION}",
            fix="make the store anew with `oskar tokenize`",
        )
    return validate(StoreIndex, values, source)


def require_same_cut(index: StoreIndex, config: Config, source: str) -> None:
    """InputError unless a run's clips and tokens are those of the store."""
    for name in _SETTLED:
        _require_equal(f"tokens.{name}", getattr(config.tokens, name), getattr(index.tokens, name), source)
    for f in dataclasses.fields(ClipConfig):
        _require_equal(f"clip.{f.name}", getattr(config.clip, f.name), getattr(index.clip, f.name), source)
    if config.tokens.n_people > index.tokens.n_people:
        raise InputError(
            f"tokens.n_people = {config.tokens.n_people}, but {source} holds {index.tokens.n_people} people of a clip",
            fix=f"set tokens.n_people={index.tokens.n_people}, or make another store",
        )
    width = None if index.tokenizer.kind == "raw" else index.tokenizer.width
    if "video" in config.tokens.modalities:
        _require_equal("tokens.video_width", config.tokens.video_width, width, source)


def _require_equal(key: str, asked: object, stored: object, source: str) -> None:
    if asked != stored:
        shown = json.dumps(stored).replace(" ", "")
        raise InputError(
            f"{key} = {asked!r}, but the clips of {source} were cut with {stored!r}",
            fix=f"set {key}={shown}, or make another store with `oskar tokenize`",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipTable:
    """What is known of each clip, n of them, mapped from ``clips.safetensors``.

    ``shard`` int32 ``[n]``; ``video`` and ``skeleton`` int32 ``[n]``: the clip's place among those of its shard
    that have the modality, -1 where it has none; ``split_id`` int16 ``[n]`` into ``StoreIndex.splits``, -1 for none;
    ``label_id`` int32 ``[n]``, -1 for none; ``is_composed`` uint8 ``[n]``: the caption was made from the label.
    """

    file: ArraysFile
    ids: Texts
    captions: Texts
    shard: Any
    video: Any
    skeleton: Any
    split_id: Any
    label_id: Any
    is_composed: Any

    def __len__(self) -> int:
        return len(self.shard)


def read_clips(path: Path, facts: StoredFile) -> ClipTable:
    """Map the table of clips."""
    file = ArraysFile(path, facts.bytes)
    arrays: Mapping[str, Any] = file.arrays
    try:
        names = ("shard", "video", "skeleton", "split_id", "label_id", "is_composed")
        table = ClipTable(
            file=file,
            ids=texts_of(arrays, "ids"),
            captions=texts_of(arrays, "captions"),
            **{name: arrays[name] for name in names},
        )
    except KeyError as error:
        raise InputError(f"{path}: has no array {error}", fix="make the store anew") from error
    if not len(table) == len(table.ids) == len(table.captions) == facts.n_clips:
        raise InputError(f"{path}: arrays of different lengths", fix="copy the file again, or make the store anew")
    return table
