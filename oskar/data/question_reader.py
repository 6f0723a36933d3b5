"""Readers over questions: items (clip, question, answer) to train on, asked clips and question texts to encode once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.data.questions import OpenedQuestions
from oskar.data.reader import ClipReader, Draw, ReadClips
from oskar.errors import InputError
from oskar.randomness import hash_id
from oskar.tokens.words import Words


@dataclass(frozen=True, slots=True)
class QuestionWords:
    """How questions become words: the first ``max_words`` of each, in batches ``n_words`` wide."""

    words: Words
    n_words: int
    max_words: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Int64 ``[n, n_words]``, -1 after a question's end; InputError for a text without a word."""
        word_ids = torch.full((len(texts), self.n_words), -1, dtype=torch.int64)
        for i, text in enumerate(texts):
            ids = self.words.encode(text, min(self.max_words, self.n_words))
            word_ids[i, : len(ids)] = ids
        return word_ids

    def has_word(self, text: str) -> bool:
        """Whether there is anything to encode: a text of control characters, say, has no word."""
        try:
            return len(self.words.encode(text, 1)) > 0
        except InputError:
            return False


class QuestionReader:
    """Items as clips: the clip of question ``chosen[i]``, the question as its words, ``answer_idx[i]`` as its label.

    Every question in ``chosen`` has a clip. Without ``is_clip_read`` the clips hold nothing but words.
    """

    def __init__(
        self,
        opened: OpenedQuestions,
        words: QuestionWords,
        chosen: Sequence[int],
        answer_idx: Sequence[int],
        classes: tuple[str, ...],
        *,
        is_clip_read: bool,
    ) -> None:
        self._reader, self._words, self._is_clip_read = opened.reader, words, is_clip_read
        self._questions = [opened.questions[i] for i in chosen]
        self._clip_idx = [place for i in chosen if (place := opened.clip_idx[i]) is not None]
        self._answer_idx, self.classes = answer_idx, classes

    def __len__(self) -> int:
        return len(self._questions)

    def clip_id(self, index: int) -> str:
        return self._questions[index].clip_id

    def label(self, index: int) -> int:
        return self._answer_idx[index]

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        """The items whose clip can be read; a clip that several of them ask about is read once."""
        places = dict.fromkeys(self._clip_idx[i] for i in indices)
        read = self._reader.read(list(places), draw) if self._is_clip_read else ReadClips(self._bare(list(places)))
        if read.clips is None:
            return read
        row_of = {clip_id: row for row, clip_id in enumerate(read.clips.clip_ids.tolist())}
        rows = {i: row for i in indices if (row := row_of.get(hash_id(self.clip_id(i)))) is not None}
        kept = [i for i in indices if i in rows]
        items = replace(
            read.clips.rows(torch.tensor([rows[i] for i in kept])),
            labels=torch.tensor([self.label(i) for i in kept]),
            word_ids=self._words.encode([self._questions[i].question for i in kept]),
        )
        return ReadClips(items, read.bad)

    def _bare(self, places: list[int]) -> ClipBatch:
        ids = torch.tensor([hash_id(self._reader.clip_id(place)) for place in places], dtype=torch.int64)
        return ClipBatch(clip_ids=ids, labels=torch.full((len(places),), -1))


class AskedClips:
    """The clips at ``places`` of a reader; the label of a clip is its place there."""

    classes: tuple[str, ...] = ()

    def __init__(self, reader: ClipReader, places: Sequence[int]) -> None:
        self._reader, self._places = reader, places

    def __len__(self) -> int:
        return len(self._places)

    def clip_id(self, index: int) -> str:
        return self._reader.clip_id(self._places[index])

    def label(self, index: int) -> int:
        return self._places[index]

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        return self._reader.read([self._places[i] for i in indices], draw)


class QuestionTexts:
    """Distinct questions as clips of words alone; the label of a text is its number, its id the text."""

    classes: tuple[str, ...] = ()

    def __init__(self, texts: Sequence[str], words: QuestionWords) -> None:
        self._texts, self._words = texts, words

    def __len__(self) -> int:
        return len(self._texts)

    def clip_id(self, index: int) -> str:
        return self._texts[index]

    def label(self, index: int) -> int:
        return index

    def read(self, indices: Sequence[int], draw: Draw) -> ReadClips:
        word_ids = self._words.encode([self._texts[i] for i in indices])
        ids = torch.tensor([hash_id(self._texts[i]) for i in indices], dtype=torch.int64)
        return ReadClips(ClipBatch(clip_ids=ids, labels=torch.tensor(indices), word_ids=word_ids))
