"""What retrieval learns on and is tested on: its settings, and clips with their numbered sentences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from oskar.config import Config
from oskar.data.captioned import CaptionedClips, CaptionedSplit, WhichCaptions, open_captioned, open_official
from oskar.data.formats.caption_files import CaptionFilesConfig
from oskar.data.official_captions import caption_files
from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.settings import require
from oskar.tasks.pairs import Sentences, number_sentences
from oskar.tasks.task import FitConfig
from oskar.tasks.transfer import Transfer, require_modality, require_words, what_is_read, whole_clips
from oskar.tokens.words import Words


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalConfig(FitConfig):
    """How the projections, and in fine-tuning the encoders, learn; defaults are for small data.

    For the published sizes: ``lr=5e-5 batch_size=256`` and the steps of 20 epochs.
    """

    batch_size: int = 64
    layer_decay: float = 0.8
    warmup_share: float = 0.1
    width: int = 512  # of the common space
    max_words: int = 32  # of a caption; VATEX: 64
    crop_scale: tuple[float, float] = (0.5, 1.0)  # fine-tuning: share of a training clip's picture
    captions: WhichCaptions = "written"
    test_subjects: tuple[str, ...] = ()  # their clips are the test split, for data without splits
    files: CaptionFilesConfig = field(default_factory=CaptionFilesConfig)
    dual_softmax_temperature: float = 100.0  # of the column of its own

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        for name in ("width", "max_words", "dual_softmax_temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "use a positive number")
        low, high = self.crop_scale
        require(0 < low <= high <= 1, "crop_scale", (low, high), "give two shares, the smaller first")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CaptionedSide:
    """The clips of one split with their numbered sentences."""

    clips: CaptionedClips
    ids: Sequence[str]
    sentences: Sentences

    def own(self) -> tuple[Tensor, Tensor]:
        """Of every caption its clip and its sentence, int64 ``[captions]`` both."""
        pairs = [(i, number) for i, numbers in enumerate(self.sentences.of_clip) for number in numbers]
        clip, sentence = torch.tensor(pairs).unbind(1)
        return clip, sentence


def open_sides(
    data: list[str], transfer: Transfer, modality: Modality, config: RetrievalConfig
) -> tuple[CaptionedSide, CaptionedSide]:
    """The training and the test side; nothing is decoded yet.

    Raises:
        InputError: a run without the modality or without text, wrong data, split or files, a caption without a word.
    """
    require_modality(transfer.config, modality)
    words = require_words(transfer)
    read = whole_clips(what_is_read(transfer.config, modality), config.crop_scale)
    opened = _open(data, read, modality, config)
    train, test = (_side(clips, words, transfer.config, config) for clips in opened)
    return train, test


def _open(
    data: list[str], read: Config, modality: Modality, config: RetrievalConfig
) -> tuple[CaptionedClips, CaptionedClips]:
    official = caption_files(data[0]) if len(data) == 1 else None
    if official is not None:
        require(config.files.benchmark is None, "files.benchmark", config.files.benchmark, "the data name it already")
        files, videos = official
        return _open([str(videos)], read, modality, replace(config, files=files))
    if config.files.benchmark is None:
        named = [name for name, path in asdict(config.files).items() if path is not None]
        require(not named, "files.benchmark", None, f"files.{''.join(named[:1])} needs msrvtt, msvd or vatex")
    elif modality != "video" or config.split != "test" or config.test_subjects:
        raise InputError(
            f"files.benchmark={config.files.benchmark} with modality={modality}, split={config.split}, "
            f"test_subjects={list(config.test_subjects)}",
            fix="its files say what is tested, and have videos alone: leave these out",
        )
    else:
        return open_official(data, read, config.files)
    if config.split == read.data.split and not config.test_subjects:
        raise InputError(f"split = {config.split!r} is what the projections learn on", fix="test on another split")
    train, test = (
        CaptionedSplit(split=split, is_test=is_test, captions=config.captions, test_subjects=config.test_subjects)
        for split, is_test in ((read.data.split, False), (config.split, True))
    )
    return open_captioned(data, read, modality, train), open_captioned(data, read, modality, test)


def _side(clips: CaptionedClips, words: Words, config: Config, task: RetrievalConfig) -> CaptionedSide:
    ids = clips.ids
    sentences = number_sentences(clips.captions, ids, words, n_words=config.tokens.n_words, max_words=task.max_words)
    return CaptionedSide(clips=clips, ids=ids, sentences=sentences)
