"""Clips of a manifest: temporal window, decoding, crop with joints and boxes moved along, word ids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from oskar.clip import Clip, collate_clips
from oskar.config import Config
from oskar.data.cropping import Crop, crop_frames, crop_people, sample_crop, side_crop
from oskar.data.decoding import probe, read_frames
from oskar.data.folder import IMAGE_SUFFIXES
from oskar.data.frame_cache import FrameCache
from oskar.data.frame_choice import evaluation_frames, n_uniforms, training_frames
from oskar.data.joint_arrays import Arrays
from oskar.data.manifest import Manifest
from oskar.data.parquet import ColumnRows, Mapped
from oskar.data.reader import ClipLength, Draw, EvaluationWindow, ReadClips, Span, TrainingDraw, n_repeats, repeated_id
from oskar.data.rows import Row
from oskar.data.skeletons import PackedSkeletons, SkeletonSequence, folder_layout, place, read_joints_file
from oskar.data.windows import evenly
from oskar.errors import AbsentError, InputError
from oskar.modalities import Modality
from oskar.randomness import clip_keys, hash_id, uniform
from oskar.tokens.words import Words

_CROP_STREAM, _WINDOW_STREAM, _YAW_STREAM = 9001, 9002, 9003
_LENGTH_TOLERANCE_SHARE = 0.1  # how far a joints file may differ in length from its video


class FolderReader:
    """Reads the rows of one manifest as clips.

    Only the recipe's modalities are read; rows that have none of them, or not the one that is
    ``needed``, are left out (their number is ``n_left_out``). ``words`` turns captions into ids;
    without it there is no text.
    """

    def __init__(self, manifest: Manifest, config: Config, words: Words | None, needed: Modality | None = None) -> None:
        self._prepare(manifest.folder, config, words, manifest.joints)
        listed = [(row, self.modalities_of(row)) for row in manifest.rows]
        self.rows: Sequence[Row] = tuple(row for row, names in listed if names and (needed is None or needed in names))
        self.n_left_out = len(manifest.rows) - len(self.rows)
        if not self.rows:
            wanted = needed or "any of " + ", ".join(config.tokens.modalities)
            raise AbsentError(
                f"data {manifest.folder}: no clip has {wanted}",
                fix="choose among the modalities that are there, or a recipe that has them, or set tokens.modalities",
            )
        self.classes = manifest.classes

    def _prepare(self, folder: Path, config: Config, words: Words | None, joints: Arrays | None = None) -> None:
        self._config, self._words, self._folder = config, words, folder
        cache_dir = config.data.cache_dir
        tokens = config.tokens
        self._short_side = math.ceil(tokens.resolution / math.sqrt(config.clip.crop_scale[0]))
        self._cache = FrameCache(
            None if cache_dir is None else Path(cache_dir),
            short_side=self._short_side,
            memory_bytes=int(config.data.cache_gib * 2**30),
            folder_bytes=int(config.data.cache_dir_gib * 2**30),
        )
        self._packed = PackedSkeletons(folder, arrays=joints)
        self._layout = folder_layout(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def clip_id(self, index: int) -> str:
        return self.rows[index].clip_id

    def label(self, index: int) -> int:
        label_id = self.rows[index].label_id
        return -1 if label_id is None else label_id

    def modalities_of(self, row: Row) -> tuple[Modality, ...]:
        """The modalities of a row that the recipe reads."""
        is_text_read = self.caption(row) is not None
        return tuple(m for m in row.modalities if m in self._config.tokens.modalities and (m != "text" or is_text_read))

    def caption(self, row: Row) -> str | None:
        """The caption that counts as text: composed ones give the label away (``data.captions``)."""
        which = self._config.data.captions
        if self._words is None or which == "none" or (which == "written" and row.is_caption_composed):
            return None
        return row.caption

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        clips: list[Clip] = []
        bad: list[tuple[str, str]] = []
        n = n_repeats(draw)
        for index in indices[::n]:
            try:
                clips += self._read_views(self.rows[index], n, draw)
            except InputError as error:
                bad.append((self.clip_id(index), str(error)))
        tokens = self._config.tokens
        batch = collate_clips(clips, n_words=tokens.n_words, n_people=tokens.n_people) if clips else None
        return ReadClips(batch, tuple(bad))

    def _read_views(self, row: Row, n: int, draw: Draw) -> list[Clip]:
        """Several clips of a row, each with draws of its own, of a video that is decoded once."""
        rows = [replace(row, clip_id=repeated_id(row.clip_id, number)) for number in range(n)]
        video = self._video(row) if n > 1 else None
        if video is None or self._cache.frames(video) is not None:
            return [self.read_one(view, draw) for view in rows]
        sequence, n_frames = self._sequence(row), probe(video).n_frames
        wanted = sorted({i for view in rows for i in self._shown(view, n_frames, sequence, draw)})
        decoded = dict(zip(wanted, read_frames(video, wanted, short_side=self._short_side), strict=True))
        return [self.read_one(view, draw, decoded) for view in rows]

    def read_one(self, row: Row, draw: Draw, decoded: Mapping[int, Tensor] | None = None) -> Clip:
        """One clip; raises InputError where a file of it cannot be read.

        ``decoded`` are frames of its video by number, all that the clip shows among them.
        """
        sequence, video = self._sequence(row), self._video(row)
        frames, idx = None, None
        if video is not None:
            frames, idx = self._frames(row, video, sequence, draw, decoded)
        elif sequence is not None:
            idx = self._window(sequence.n_frames, row, draw)
        return self._clip(row, sequence, frames, idx, draw)

    def length(self, index: int) -> ClipLength:
        """How long a clip is in the modalities that are read; raises InputError where a file cannot be read."""
        row = self.rows[index]
        sequence, video = self._sequence(row), self._video(row)
        if video is None:
            return ClipLength(0 if sequence is None else sequence.n_frames, row.fps)
        info = probe(video)
        n_frames = info.n_frames if sequence is None else _common_length(row, info.n_frames, sequence.n_frames)
        return ClipLength(n_frames, None if video.suffix.lower() in IMAGE_SUFFIXES else info.fps)

    def read_spans(self, index: int, spans: Sequence[Span]) -> list[Clip]:
        """The clip once for each span, shown by frames evenly over it; the file is opened once, and nothing is kept.

        Raises:
            InputError: a file cannot be read, or a span goes beyond it.
        """
        row, n_frames, draw = self.rows[index], self._config.tokens.n_frames, EvaluationWindow()
        sequence, video = self._sequence(row), self._video(row)
        if sequence is None and video is None:
            return [self._clip(row, None, None, None, draw) for _ in spans]
        shown = [evenly(span.first, span.end - span.first, n_frames) for span in spans]
        if video is None:
            return [self._clip(row, sequence, None, idx, draw) for idx in shown]
        wanted = sorted({i for idx in shown for i in idx})
        frames = read_frames(video, wanted, short_side=self._short_side)
        place = {i: k for k, i in enumerate(wanted)}
        return [self._clip(row, sequence, frames[[place[i] for i in idx]], idx, draw) for idx in shown]

    def _clip(
        self, row: Row, sequence: SkeletonSequence | None, frames: Tensor | None, idx: list[int] | None, draw: Draw
    ) -> Clip:
        """Frames ``idx`` of a clip, cropped, with its joints in them and its words."""
        joints = boxes = None
        if sequence is not None and idx is not None:
            joints, boxes = self._people(sequence, idx, row, draw, is_virtual=frames is None)
        if frames is not None:
            crop = self._crop((frames.shape[2], frames.shape[3]), row, draw)
            frames = crop_frames(frames, crop, self._config.tokens.resolution)
            if joints is not None and boxes is not None:
                joints, boxes = crop_people(joints, boxes, crop)
        caption = self.caption(row) if "text" in self.modalities_of(row) else None
        word_ids = None
        if caption is not None and self._words is not None:
            word_ids = self._words.encode(caption, self._config.tokens.n_words)
        label = -1 if row.label_id is None else row.label_id
        return Clip(clip_id=row.clip_id, frames=frames, joints=joints, boxes=boxes, word_ids=word_ids, label=label)

    def _video(self, row: Row) -> Path | None:
        return row.video_path if "video" in self.modalities_of(row) else None

    def _sequence(self, row: Row) -> SkeletonSequence | None:
        if "skeleton" not in self.modalities_of(row):
            return None
        frame_size = (row.width, row.height) if row.width and row.height else None
        if row.packed_rows is not None:
            return self._packed.sequence(*row.packed_rows, frame_size)
        if row.joints_path is None:
            return None
        if frame_size is None and row.video_path is not None:
            info = probe(row.video_path)
            frame_size = (info.width, info.height)
        has_video = row.video_path is not None
        return read_joints_file(row.joints_path, frame_size=frame_size, layout=self._layout, prefer_2d=has_video)

    def _frames(
        self,
        row: Row,
        video: Path,
        sequence: SkeletonSequence | None,
        draw: Draw,
        decoded: Mapping[int, Tensor] | None,
    ) -> tuple[Tensor, list[int]]:
        """The window's frames, uint8 ``[T, 3, h, w]``, and their numbers."""
        cached = self._cache.frames(video) if decoded is None else None
        n_frames = probe(video).n_frames if cached is None else len(cached)
        idx = self._shown(row, n_frames, sequence, draw)
        if decoded is not None:
            return torch.stack([decoded[i] for i in idx]), idx
        if cached is None:
            return read_frames(video, idx, short_side=self._short_side), idx
        return cached[torch.tensor(idx)], idx

    def _shown(self, row: Row, n_frames: int, sequence: SkeletonSequence | None, draw: Draw) -> list[int]:
        """The numbers of the frames that a clip with a video shows."""
        if sequence is not None:
            n_frames = _common_length(row, n_frames, sequence.n_frames)
        return self._window(n_frames, row, draw)

    def _window(self, n_available: int, row: Row, draw: Draw) -> list[int]:
        n_frames, clip = self._config.tokens.n_frames, self._config.clip
        if isinstance(draw, EvaluationWindow):
            return evaluation_frames(n_available, n_frames=n_frames, config=clip, n_clips=draw.n_windows)[draw.number]
        u = _uniforms(row, draw, _WINDOW_STREAM, n_uniforms(n_frames))
        return training_frames(n_available, n_frames=n_frames, config=clip, u=u)

    def _people(
        self, sequence: SkeletonSequence, idx: list[int], row: Row, draw: Draw, *, is_virtual: bool
    ) -> tuple[Tensor, Tensor]:
        clip = self._config.clip
        yaw = 0.0
        if isinstance(draw, TrainingDraw) and is_virtual:
            yaw = math.radians(clip.yaw_degrees) * (2.0 * _uniforms(row, draw, _YAW_STREAM, 1)[0] - 1.0)
        joints, boxes = place(
            sequence,
            torch.tensor(idx),
            projection=clip.projection,
            focal_length=clip.focal_lengths,
            yaw_radians=yaw,
            margin=clip.box_margin,
            virtual_frame=is_virtual,
        )
        return joints, boxes

    def _crop(self, frame_size: tuple[int, int], row: Row, draw: Draw) -> Crop:
        if isinstance(draw, EvaluationWindow):
            return side_crop(frame_size, draw.crop, draw.n_crops)
        u = _uniforms(row, draw, _CROP_STREAM, 5)
        # A7: a mirrored frame would make a caption's "left" and "right" wrong.
        return sample_crop(u, frame_size, self._config.clip, is_flip_allowed="text" not in self.modalities_of(row))


class ColumnReader(FolderReader):
    """Reads the rows of a mapped Parquet manifest, to train on; ``name`` is what it is called among pooled data.

    A row is looked at when its clip is read: a fault in it makes that clip unreadable, and no other. Labels are not
    read.
    """

    def __init__(self, mapped: Mapped, config: Config, words: Words | None, name: str) -> None:
        self._prepare(mapped.source.parent, config, words)
        self._columns = ColumnRows(mapped, name)
        self.rows, self.n_left_out = self._columns, mapped.n_left_out
        self.classes = ()
        self.identity = f"parquet:{mapped.sha256}"

    def clip_id(self, index: int) -> str:
        return self._columns.clip_id(index)

    def label(self, index: int) -> int:
        return -1


def _uniforms(row: Row, draw: TrainingDraw, stream: int, n: int) -> list[float]:
    keys = clip_keys(draw.seed, draw.step, torch.tensor([hash_id(row.clip_id)]))
    values: list[float] = uniform(keys, stream, (n,))[0].tolist()
    return values


def is_length_alike(n_video: int, n_joints: int) -> bool:
    """True where joints of ``n_joints`` frames may belong to a video of ``n_video`` frames."""
    return abs(n_video - n_joints) <= max(2, _LENGTH_TOLERANCE_SHARE * n_video)


def _common_length(row: Row, n_video: int, n_joints: int) -> int:
    """Frames that both have; a large difference means that the files do not belong together."""
    if not is_length_alike(n_video, n_joints):
        source = row.joints_path or row.clip_id
        raise InputError(
            f"{source}: {n_joints} frames of joints for {n_video} frames of video {row.video_path}",
            fix="give one row of joints per frame of the video",
        )
    return min(n_video, n_joints)
