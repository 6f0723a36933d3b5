"""The built-in people as a clip reader: ``people``, ``people:CLIPS`` or ``people:CLIPS:SEED``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.formats.video_text import VideoQuestion
from oskar.data.people import ACTIONS, PeopleWorld, clip_name, describe, generate
from oskar.data.reader import Draw, ReadClips, n_repeats, repeated_id
from oskar.errors import InputError
from oskar.randomness import hash_id
from oskar.tokens.words import Words

Split = Literal["train", "test"]
N_LABELLED: dict[Split, int] = {"train": 1200, "test": 600}  # what a task's head learns on, and is tested on
_N_CAPTIONS = 4096  # enough to meet every word of the templates


@dataclass(frozen=True, slots=True)
class PeopleData:
    """Which people: ``n_clips`` to pretrain on, and the seed of the world."""

    n_clips: int = 100_000
    seed: int = 0


def parse_people(data: str) -> PeopleData | None:
    """The settings in ``people[:CLIPS[:SEED]]``, None for any other data."""
    name, *numbers = data.split(":")
    if name != "people":
        return None
    try:
        settings = PeopleData(*(int(number) for number in numbers))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"--data {data!r} is not valid", fix="write people, people:CLIPS or people:CLIPS:SEED"
        ) from error
    if settings.n_clips < 1:
        raise InputError(f"--data {data!r}: {settings.n_clips} clips", fix="ask for at least one")
    return settings


class PeopleReader:
    """Clips are generated as they are read; evaluation windows and crops are all the same, the whole clip."""

    classes = ACTIONS

    def __init__(self, data: PeopleData, config: Config, words: Words | None, split: str, *, is_labelled: bool) -> None:
        if split not in ("train", "test"):
            raise InputError(f"people have no split {split!r}", fix="use train or test")
        self._split: Split = "train" if split == "train" else "test"
        self._n = N_LABELLED[self._split] if is_labelled else data.n_clips
        self._seed, self._config, self._words = data.seed, config, words
        tokens = config.tokens
        if tokens.n_people not in (2, 3):
            raise InputError(
                f"tokens.n_people = {tokens.n_people}: --data people has clips of 2 or 3 people", fix="use 2 or 3"
            )
        self._world = PeopleWorld(n_frames=tokens.n_frames, resolution=tokens.resolution, n_people=tokens.n_people)

    def __len__(self) -> int:
        return self._n

    @property
    def identity(self) -> str:
        """Tells these clips from all others, for fingerprints."""
        tokens = self._config.tokens
        return f"people:{self._n}:{self._seed}:{self._split}:{tokens.n_frames}:{tokens.resolution}:{tokens.n_people}"

    def clip_id(self, index: int) -> str:
        return clip_name(self._seed, index, self._split)

    def label(self, index: int) -> int:
        return index % len(ACTIONS)

    def captions(self) -> list[str]:
        """The caption of every clip, without drawing any."""
        return describe(self._world, torch.arange(self._n), self._seed, self._split)

    def questions(self) -> tuple[VideoQuestion, ...]:
        """All questions about the clips in order; they are the same at any size, so none is drawn large."""
        world = PeopleWorld(n_frames=2, resolution=16, n_people=self._world.n_people)
        asked = generate(world, torch.arange(self._n), self._seed, self._split).questions
        return tuple(
            VideoQuestion(
                question_id=f"{self.clip_id(i)}/{number}",
                clip_id=self.clip_id(i),
                file_stems=(),
                question=q.question,
                answer=q.answer,
                kind=q.kind,
                split=self._split,
            )
            for i, of_clip in enumerate(asked)
            for number, q in enumerate(of_clip)
        )

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        names = [repeated_id(self.clip_id(i), place % n_repeats(draw)) for place, i in enumerate(indices)]
        people = generate(self._world, torch.tensor(indices), self._seed, self._split)
        tokens = self._config.tokens
        word_ids = None
        if self._words is not None and "text" in tokens.modalities and self._config.data.captions != "none":
            word_ids = torch.full((len(indices), tokens.n_words), -1, dtype=torch.int64)
            for i, caption in enumerate(people.captions):
                ids = self._words.encode(caption, tokens.n_words)
                word_ids[i, : len(ids)] = ids
        is_present = torch.ones(len(indices), dtype=torch.bool)
        has_video, has_skeleton = "video" in tokens.modalities, "skeleton" in tokens.modalities
        return ReadClips(
            ClipBatch(
                clip_ids=torch.tensor([hash_id(name) for name in names], dtype=torch.int64),
                labels=people.labels,
                frames=people.frames if has_video else None,
                has_video=is_present if has_video else None,
                joints=people.joints if has_skeleton else None,
                boxes=people.boxes if has_skeleton else None,
                has_skeleton=is_present if has_skeleton else None,
                word_ids=word_ids,
            )
        )


def people_captions(seed: int) -> list[str]:
    """Captions to train a tokenizer on; their clips are as small as can be."""
    world = PeopleWorld(n_frames=2, resolution=16)
    return generate(world, torch.arange(_N_CAPTIONS), seed).captions
