"""The clips that go into a store: rows of a manifest or of the built-in people, read by number and view."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from oskar.clip import Clip
from oskar.config import Config, DataConfig
from oskar.data.folder_reader import FolderReader
from oskar.data.manifest import fingerprint, read_manifests, select
from oskar.data.people_reader import PeopleReader, parse_people
from oskar.data.reader import TrainingDraw
from oskar.data.store.settings import TokenizeConfig
from oskar.errors import InputError
from oskar.tokens.words import train_words


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What a store keeps of a row beside its pixels and joints."""

    clip_id: str
    caption: str | None
    is_caption_composed: bool
    label_id: int
    split: str | None


class ClipSource(Protocol):
    """Clips by number; ``name`` and ``has_prefix`` say how pooling calls them."""

    name: str
    has_prefix: bool
    classes: tuple[str, ...]
    sha256: str

    def __len__(self) -> int: ...

    def clip_id(self, number: int) -> str:
        """The id as the data have it, without the prefix of pooling."""

    def entries(self) -> Iterator[Entry]:
        """All entries in order."""

    def read(self, number: int, view: int, seed: int) -> Clip:
        """One view of a clip, as training step ``view`` of a run with that seed shows it; raises InputError."""


def open_source(data: str, config: TokenizeConfig) -> ClipSource:
    """The clips of data that are to be stored.

    Raises:
        InputError: naming the file or key, the value and the fix.
    """
    people = parse_people(data)
    # A window that is read once need not have its whole video decoded.
    cache_gib = 0.0 if config.store.views == 1 else 1.0
    run = Config(
        recipe="store",
        tokens=config.tokens,
        clip=config.clip,
        data=DataConfig(captions="all", cache_gib=cache_gib),
    )
    if people is None:
        return ManifestSource(data, run, config.store.split)
    if config.store.split not in ("train", None):
        raise InputError(f"store.split = {config.store.split!r}: people train on one split", fix="use train")
    return PeopleSource(PeopleReader(people, run, None, "train", is_labelled=False))


class ManifestSource:
    """The rows of a folder or manifest, of one split and of none."""

    has_prefix = True

    def __init__(self, data: str, run: Config, split: str | None) -> None:
        (whole,) = read_manifests([data])  # windows and crops are drawn by the ids that clips have in runs
        manifest = select(whole, split=split, keep_unsplit=True)
        self._prefix = manifest.id_prefix
        words = train_words(["a"], 3)  # so that captions count: rows that are text alone, and A7, no mirroring
        self._reader = FolderReader(manifest, run, words if "text" in run.tokens.modalities else None)
        self.name, self.classes, self.sha256 = manifest.name, manifest.classes, fingerprint(manifest)

    def __len__(self) -> int:
        return len(self._reader)

    def clip_id(self, number: int) -> str:
        return self._reader.rows[number].clip_id.removeprefix(self._prefix)

    def entries(self) -> Iterator[Entry]:
        for row in self._reader.rows:
            yield Entry(
                clip_id=row.clip_id.removeprefix(self._prefix),
                caption=self._reader.caption(row),
                is_caption_composed=row.is_caption_composed,
                label_id=-1 if row.label_id is None else row.label_id,
                split=row.split,
            )

    def read(self, number: int, view: int, seed: int) -> Clip:
        return self._reader.read_one(self._reader.rows[number], TrainingDraw(seed, view))


class PeopleSource:
    """The built-in people; all views of a clip are alike."""

    name, has_prefix = "people", False

    def __init__(self, reader: PeopleReader) -> None:
        self._reader, self.classes, self.sha256 = reader, reader.classes, reader.identity

    def __len__(self) -> int:
        return len(self._reader)

    def clip_id(self, number: int) -> str:
        return self._reader.clip_id(number)

    def entries(self) -> Iterator[Entry]:
        for i, caption in enumerate(self._reader.captions()):
            yield Entry(
                clip_id=self._reader.clip_id(i),
                caption=caption,
                is_caption_composed=False,
                label_id=self._reader.label(i),
                split=None,
            )

    def read(self, number: int, view: int, seed: int) -> Clip:
        clips = self._reader.read([number], TrainingDraw(seed, view)).clips
        assert clips is not None

        def only(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[0]

        return Clip(
            clip_id=self._reader.clip_id(number),
            frames=only(clips.frames),
            joints=only(clips.joints),
            boxes=only(clips.boxes),
        )


def n_bytes_at_most(config: TokenizeConfig, token_bytes: int) -> int:
    """Bytes of one clip that has everything."""
    tokens = config.tokens
    n_video = tokens.n_frames // tokens.tubelet_frames * (tokens.resolution // tokens.patch_size) ** 2
    skeleton = 4 * tokens.n_people * tokens.n_frames * (17 * 3 + 4)
    return config.store.views * math.ceil(n_video * (token_bytes + 5) + skeleton + 4)
