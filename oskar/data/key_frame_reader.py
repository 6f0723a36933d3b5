"""Key frames as a clip reader: the clip around each, cropped, with the people of the key frame moved along."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.boxes import ImageBoxes, LabelledBoxes
from oskar.data.cropping import Crop, crop_boxes, crop_frames, sample_crop, whole_frame
from oskar.data.key_frame_data import KeyFrameData
from oskar.data.reader import Draw, ReadClips, TrainingDraw
from oskar.errors import InputError
from oskar.randomness import clip_keys, hash_id, uniform

_CROP_STREAM, _FLIP_STREAM = 9101, 9102
_MOST_CROPS = 10  # drawn until one of them keeps somebody; then the whole frame


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrameClips(ClipBatch):
    """Clips around key frames with the n people of these frames, in the order of the clips.

    ``person_boxes`` float32 ``[n, 4]`` in shares of the picture; ``clip_idx`` int64 ``[n]``, the clip
    of each; ``box_idx`` int64 ``[n]``, its row in the reader's table of people.
    """

    person_boxes: Tensor
    clip_idx: Tensor
    box_idx: Tensor


class KeyFrameReader:
    """Reads the clips of ``images`` with those of ``people`` who are on them.

    A clip is the whole frame, brought to the square of the tokens. To train on, where the data allow
    it and ``is_augmented``, it is a random crop that keeps somebody, mirrored with
    ``flip_probability``; boxes are cut at its edges, and who is outside is left out.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        data: KeyFrameData,
        images: Sequence[str],
        people: ImageBoxes,
        config: Config,
        *,
        is_augmented: bool = False,
        flip_probability: float = 0.0,
    ) -> None:
        self.images, self.people = tuple(images), people
        self._data, self._resolution = data, config.tokens.resolution
        self._clip_config = replace(config.clip, flip_probability=0.0)
        self._flip_probability = flip_probability
        self._is_augmented = is_augmented and data.is_cropped
        rows: dict[str, list[int]] = {image: [] for image in images}
        for row, image_idx in enumerate(people.image_idx.tolist()):
            if people.images[image_idx] in rows:
                rows[people.images[image_idx]].append(row)
        self._rows = {image: torch.tensor(numbers, dtype=torch.int64) for image, numbers in rows.items()}
        self._boxes = torch.from_numpy(people.boxes).float()

    def __len__(self) -> int:
        return len(self.images)

    def clip_id(self, index: int) -> str:
        return self.images[index]

    def label(self, index: int) -> int:
        """Clips have none, people do."""
        return -1

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        """The clips that could be read as ``KeyFrameClips``."""
        images = [self.images[index] for index in indices]
        kept: list[str] = []
        frames, boxes, rows = [], [], []
        bad: list[tuple[str, str]] = []
        for image, whole in zip(images, self._data.read(images), strict=True):
            if isinstance(whole, InputError):
                bad.append((image, str(whole)))
                continue
            of_image = self._rows[image]
            crop = self._crop(image, (whole.shape[2], whole.shape[3]), draw)
            placed, is_inside = crop_boxes(self._boxes[of_image], crop)
            kept.append(image)
            frames.append(crop_frames(whole, crop, self._resolution))
            boxes.append(placed[is_inside])
            rows.append(of_image[is_inside])
        if not kept:
            return ReadClips(None, tuple(bad))
        counts = torch.tensor([len(some) for some in rows])
        clips = KeyFrameClips(
            clip_ids=torch.tensor([hash_id(image) for image in kept], dtype=torch.int64),
            labels=torch.full((len(kept),), -1),
            frames=torch.stack(frames),
            has_video=torch.ones(len(kept), dtype=torch.bool),
            person_boxes=torch.cat(boxes),
            clip_idx=torch.arange(len(kept)).repeat_interleave(counts),
            box_idx=torch.cat(rows),
        )
        return ReadClips(clips, tuple(bad))

    def _crop(self, image: str, frame_size: tuple[int, int], draw: Draw) -> Crop:
        if not (self._is_augmented and isinstance(draw, TrainingDraw)):
            return whole_frame()
        keys = clip_keys(draw.seed, draw.step, torch.tensor([hash_id(image)]))
        is_flipped = bool(uniform(keys, _FLIP_STREAM) < self._flip_probability)
        boxes = self._boxes[self._rows[image]]
        for u in uniform(keys, _CROP_STREAM, (_MOST_CROPS, 5))[0].tolist():
            crop = sample_crop(u, frame_size, self._clip_config)
            if bool(crop_boxes(boxes, crop)[1].any()):
                return replace(crop, flip=is_flipped)
        return replace(whole_frame(), flip=is_flipped)


def images_to_learn_from(truth: LabelledBoxes, excluded: frozenset[str]) -> tuple[str, ...]:
    """The images that show somebody and are not excluded."""
    shown = set(truth.image_idx.tolist())
    return tuple(image for i, image in enumerate(truth.images) if i in shown and image not in excluded)
