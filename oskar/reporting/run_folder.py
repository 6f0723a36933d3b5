"""What a run folder holds, read once: configuration, summary, records, words."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oskar.config import Config
from oskar.errors import InputError
from oskar.modalities import MODALITIES, Modality
from oskar.reporting.results import read_json
from oskar.tokens.words import Words, load_words
from oskar.train.pretrain import ENVIRONMENT_FILE, WORDS_FILE
from oskar.train.record import METRICS, read_metrics


@dataclass(frozen=True, slots=True, eq=False)
class RunFolder:
    """A run: ``records`` are those of training, ``summary`` is None while it has not ended."""

    path: Path
    config: Config
    summary: Mapping[str, Any] | None
    environment: Mapping[str, Any] | None
    records: tuple[Mapping[str, Any], ...]
    words: Words | None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def last_step(self) -> int:
        """Of the last record; 0 without any."""
        return max((int(record["step"]) for record in self.records), default=0)

    @property
    def modalities(self) -> list[Modality]:
        return [name for name in MODALITIES if name in self.config.tokens.modalities]


def read_run(path: Path) -> RunFolder:
    """Read a run folder; interrupted runs and runs that go on are runs too.

    Raises:
        InputError: no run folder, or one of its files is damaged.
    """
    if not (path / "config.json").is_file():
        raise InputError(f"{path} holds no run (no config.json)", fix="name the folder that `oskar pretrain` wrote")
    config = Config.load(path / "config.json")
    records = read_metrics(path) if (path / METRICS).is_file() else []
    return RunFolder(
        path=path,
        config=config,
        summary=read_json(path / "summary.json"),
        environment=read_json(path / ENVIRONMENT_FILE),
        records=tuple(record for record in records if record.get("split") == "train"),
        words=_words(path, config),
    )


def _words(run: Path, config: Config) -> Words | None:
    for path in (run / WORDS_FILE, run / "encoder" / WORDS_FILE):
        if path.is_file():
            return load_words(path, vocabulary_size=config.tokens.vocabulary_size)
    return None
