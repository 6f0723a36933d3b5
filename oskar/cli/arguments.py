"""Arguments that several commands share, and how their words become values."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.config import Config
from oskar.errors import InputError
from oskar.modalities import MODALITIES, Modality
from oskar.recipes import recipe
from oskar.settings import apply_overrides

Data = Annotated[
    list[str],
    typer.Option(
        "--data", help="a folder, a manifest, people[:CLIPS[:SEED]], or official files as k400:FOLDER; repeat to pool"
    ),
]
Overrides = Annotated[list[str] | None, typer.Argument(help="settings as key=value, such as train.steps=1000")]
RecipeAndSettings = Annotated[list[str] | None, typer.Argument(metavar="RECIPE [KEY=VALUE]...")]
ConfigFile = Annotated[Path | None, typer.Option(help="a config.json to start from, instead of a recipe")]


def configure(words: list[str], config: Path | None) -> Config:
    """The recipe or file, with overrides; the first word is the recipe unless a file is given."""
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if config is not None:
        if names:
            raise InputError(f"--config {config} and recipe {names[0]!r}", fix="give one of the two")
        return with_overrides(Config.load(config), overrides)
    if len(names) != 1:
        raise InputError(
            f"{len(names)} recipes: {' '.join(names)}", fix="name one recipe; settings are written key=value"
        )
    return with_overrides(recipe(names[0]), overrides)


def with_overrides(config: Config, overrides: list[str]) -> Config:
    """The configuration with ``key=value`` words applied."""
    return apply_overrides(config, overrides) if overrides else config


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise InputError unless an option's value is a known one."""
    if value not in known:
        raise InputError(f"{option} {value!r} is not known", fix=f"use {' or '.join(known)}")


def seen_modality(name: str) -> Modality:
    """The modality a clip is seen by: video or skeleton."""
    for modality in MODALITIES:
        if name == modality and modality != "text":
            return modality
    raise InputError(f"--modality {name!r} is not known", fix="use video or skeleton")


def equal_filters(words: list[str]) -> tuple[tuple[str, str], ...]:
    """``column=value`` words as pairs."""
    pairs = [word.partition("=") for word in words]
    for word, (column, separator, _) in zip(words, pairs, strict=True):
        if not separator or not column.strip():
            raise InputError(f"filter {word!r} is not column=value", fix="write column=value, such as label=kick")
    return tuple((column.strip(), value) for column, _, value in pairs)
