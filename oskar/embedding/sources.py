"""What is embedded, item by item: clips of folders and manifests, the built-in people, sentences, clips in memory."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oskar.clip import Clip
from oskar.config import Config
from oskar.data.folder_reader import FolderReader
from oskar.data.people_reader import PeopleReader
from oskar.data.reader import ClipLength, EvaluationWindow, Span
from oskar.data.rows import Row
from oskar.modalities import Modality
from oskar.tokens.words import Words

PACKED_ROWS = ("joints_start", "joints_end")  # metadata: the rows of a clip in the joints file of its folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One clip or sentence before it is read.

    ``path`` is the file a person would open: the clip's video, else its joints, else the text file. ``embedded`` is
    the file, or text, whose SHA-256 the index states: what the modality is read from; of all modalities together
    that is the first of video, skeleton and text.
    """

    clip_id: str
    path: Path | None = None
    embedded: Path | str | None = None
    caption: str | None = None
    label: str | None = None
    label_id: int | None = None
    subject: str | None = None
    split: str | None = None
    joints_path: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


class Source(Protocol):
    """Items, and reading them."""

    @property
    def items(self) -> Sequence[Item]: ...

    def length(self, index: int) -> ClipLength:
        """How long an item is; raises InputError where it cannot be read."""

    def read(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        """The item once for each span; raises InputError where it cannot be read."""


class FolderSource:
    """The clips of a manifest that have the modality."""

    def __init__(self, reader: FolderReader, modality: Modality | None, packed: Path) -> None:
        self._reader, self._modality = reader, modality
        self.items = tuple(_item(reader, row, modality, packed) for row in reader.rows)

    def length(self, index: int) -> ClipLength:
        """Of text that is embedded alone a clip's frames say nothing."""
        return ClipLength(0, None) if self._modality == "text" else self._reader.length(index)

    def read(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        return self._reader.read_spans(index, spans)


def _item(reader: FolderReader, row: Row, modality: Modality | None, packed: Path) -> Item:
    joints = packed if row.packed_rows is not None else row.joints_path
    found: dict[Modality, Path | str | None] = {
        "video": row.video_path,
        "skeleton": joints,
        "text": reader.caption(row),
    }
    read = reader.modalities_of(row)
    embedded = found[modality] if modality is not None else next(found[name] for name in found if name in read)
    group = {} if row.group is None else {"group": row.group}
    rows = {} if row.packed_rows is None else dict(zip(PACKED_ROWS, map(str, row.packed_rows), strict=True))
    return Item(
        clip_id=row.clip_id,
        path=row.video_path or joints,
        embedded=embedded,
        caption=row.caption,
        label=row.label,
        label_id=row.label_id,
        subject=row.subject,
        split=row.split,
        joints_path=joints,
        metadata={**row.metadata, **group, **rows},
    )


class PeopleSource:
    """The built-in people; every clip is drawn as it is read, whole."""

    def __init__(self, reader: PeopleReader, split: str, n_frames: int) -> None:
        self._reader, self._n_frames = reader, n_frames
        captions = reader.captions()
        self.items = tuple(
            Item(
                clip_id=reader.clip_id(i),
                embedded=reader.clip_id(i),
                caption=captions[i],
                label=reader.classes[reader.label(i)],
                label_id=reader.label(i),
                split=split,
            )
            for i in range(len(reader))
        )

    def length(self, index: int) -> ClipLength:
        return ClipLength(self._n_frames, None)

    def read(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        """The same clip for every span."""
        clips = self._reader.read([index], EvaluationWindow()).clips
        assert clips is not None
        frames, joints, boxes, words = (
            None if part is None else part[0] for part in (clips.frames, clips.joints, clips.boxes, clips.word_ids)
        )
        clip = Clip(
            clip_id=self.items[index].clip_id,
            frames=frames,
            joints=joints,
            boxes=boxes,
            word_ids=None if words is None else words[words >= 0],
        )
        return [clip] * len(spans)


class SentenceSource:
    """Sentences by id, each perhaps from a line of a file."""

    def __init__(self, sentences: Sequence[tuple[str, str, Path | None]], words: Words, config: Config) -> None:
        self._words, self._n_words = words, config.tokens.n_words
        self.items = tuple(
            Item(clip_id=clip_id, path=path, embedded=text, caption=text) for clip_id, text, path in sentences
        )

    def length(self, index: int) -> ClipLength:
        return ClipLength(0, None)

    def read(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        item = self.items[index]
        word_ids = self._words.encode(item.caption or "", self._n_words)
        return [Clip(clip_id=item.clip_id, word_ids=word_ids)] * len(spans)


class ClipSource:
    """Clips that are in memory; their spans are the whole of them."""

    def __init__(self, clips: Sequence[Clip], config: Config) -> None:
        self._clips, self._n_frames = clips, config.tokens.n_frames
        self.items = tuple(
            Item(clip_id=clip.clip_id, label_id=None if clip.label < 0 else clip.label) for clip in clips
        )

    def length(self, index: int) -> ClipLength:
        clip = self._clips[index]
        return ClipLength(0 if clip.frames is None and clip.joints is None else self._n_frames, None)

    def read(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        return [self._clips[index]] * len(spans)


class Hashes:
    """SHA-256 of files and texts; a file that several items share is read once."""

    def __init__(self) -> None:
        self._last: tuple[Path, str] | None = None

    def of(self, embedded: Path | str | None) -> str | None:
        if embedded is None:
            return None
        if isinstance(embedded, str):
            return hashlib.sha256(embedded.encode()).hexdigest()
        if self._last is None or self._last[0] != embedded:
            with embedded.open("rb") as stream:
                self._last = (embedded, hashlib.file_digest(stream, "sha256").hexdigest())
        return self._last[1]
