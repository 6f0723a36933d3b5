"""A clip: one sample holding any non-empty subset of the modalities, time-aligned.

Shapes: T frames, S people, J joints (the internal 17), H W pixels, B clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from oskar.errors import InputError
from oskar.randomness import hash_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip after decoding, temporal sampling and the spatial crop.

    ``frames`` uint8 ``[T, 3, H, W]``. ``joints`` float32 ``[S, T, 17, 3]``: x, y in [0, 1) of the
    crop and a confidence; an unavailable joint has confidence 0. ``boxes`` float32 ``[S, T, 4]``:
    x1, y1, x2, y2 in [0, 1] of the crop. ``word_ids`` int64 ``[n]``. A modality that the clip
    does not have is None. ``label`` is -1 where unknown.
    """

    clip_id: str
    frames: Tensor | None = None
    joints: Tensor | None = None
    boxes: Tensor | None = None
    word_ids: Tensor | None = None
    label: int = -1


class UnreadableClipsError(InputError):
    """Clips of a batch whose chosen tokens cannot be read: row of the batch -> (clip id, reason)."""

    def __init__(self, clips: Mapping[int, tuple[str, str]]) -> None:
        name, reason = next(iter(clips.values()))
        super().__init__(f"{len(clips)} clips cannot be read, {name}: {reason}", fix="see the reason")
        self.clips = clips


class Tubelets(Protocol):
    """The video tokens of clips ``[B]`` that are read when they are chosen, instead of whole frames.

    ``is_valid`` bool ``[B, N]``; ``is_stored`` bool ``[B]``: the clip's tokens come from here.
    """

    @property
    def is_valid(self) -> Tensor: ...

    @property
    def is_stored(self) -> Tensor: ...

    def __getitem__(self, idx: Tensor) -> Self: ...

    def take(self, clip_idx: Tensor, token_idx: Tensor) -> Tensor:
        """Values ``[n, P]`` by clip ``[n]`` and token ``[n]``; raises UnreadableClipsError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipBatch:
    """Clips of one batch as dense tensors with a presence flag per modality.

    ``clip_ids`` int64 ``[B]`` (hashed names); ``frames`` uint8 ``[B, T, 3, H, W]``; ``joints``
    ``[B, S, T, 17, 3]``; ``boxes`` ``[B, S, T, 4]``; ``word_ids`` int64 ``[B, n_words]``, -1 after
    the caption's end; ``has_video`` and ``has_skeleton`` bool ``[B]``; ``labels`` int64 ``[B]``.
    Video is in ``frames``, in ``tubelets``, or, where data were pooled, of some clips in each.
    """

    clip_ids: Tensor
    labels: Tensor
    frames: Tensor | None = None
    has_video: Tensor | None = None
    joints: Tensor | None = None
    boxes: Tensor | None = None
    has_skeleton: Tensor | None = None
    word_ids: Tensor | None = None
    tubelets: Tubelets | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    def rows(self, idx: Tensor) -> "ClipBatch":
        """The clips at ``idx``: int64 ``[n]`` in that order, maybe repeated, or those where bool ``[B]`` is True."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        chosen: dict[str, Any] = {name: None if values is None else values[idx] for name, values in fields.items()}
        return replace(self, **chosen)


def collate_clips(clips: Sequence[Clip], *, n_words: int, n_people: int) -> ClipBatch:
    """Stack clips into a batch; a modality no clip has stays None.

    Captions longer than ``n_words`` are cut; people beyond ``n_people`` are dropped, fewer are
    padded as unavailable.

    Raises:
        InputError: when clips differ in size.
    """
    n = len(clips)
    frames = has_video = joints = boxes = has_skeleton = word_ids = None
    example = next((c.frames for c in clips if c.frames is not None), None)
    if example is not None:
        frames = example.new_zeros((n, *example.shape))
        has_video = torch.zeros(n, dtype=torch.bool)
        for i, clip in enumerate(clips):
            if clip.frames is not None:
                _check_alike(clip, "frames", clip.frames.shape, example.shape)
                frames[i] = clip.frames
                has_video[i] = True
    example = next((c.joints for c in clips if c.joints is not None), None)
    if example is not None:
        n_frames, n_joints = example.shape[1:3]
        joints = torch.zeros(n, n_people, n_frames, n_joints, 3)
        boxes = torch.zeros(n, n_people, n_frames, 4)
        has_skeleton = torch.zeros(n, dtype=torch.bool)
        for i, clip in enumerate(clips):
            if clip.joints is not None and clip.boxes is not None:
                _check_alike(clip, "joints", clip.joints.shape[1:], example.shape[1:])
                _check_alike(clip, "boxes", clip.boxes.shape, (*clip.joints.shape[:2], 4))
                people = min(n_people, len(clip.joints))
                joints[i, :people] = clip.joints[:people]
                boxes[i, :people] = clip.boxes[:people]
                has_skeleton[i] = True
    if any(c.word_ids is not None for c in clips):
        word_ids = torch.full((n, n_words), -1, dtype=torch.int64)
        for i, clip in enumerate(clips):
            if clip.word_ids is not None:
                ids = clip.word_ids[:n_words]
                word_ids[i, : len(ids)] = ids
    return ClipBatch(
        clip_ids=torch.tensor([hash_id(c.clip_id) for c in clips], dtype=torch.int64),
        labels=torch.tensor([c.label for c in clips], dtype=torch.int64),
        frames=frames,
        has_video=has_video,
        joints=joints,
        boxes=boxes,
        has_skeleton=has_skeleton,
        word_ids=word_ids,
    )


def _check_alike(clip: Clip, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse what assignment would silently repeat, such as one frame for all."""
    if tuple(shape) != tuple(expected):
        raise InputError(
            f"clip {clip.clip_id}: {name} {list(shape)} in a batch of {list(expected)}",
            fix="bring all clips to one number of frames and one resolution",
        )
