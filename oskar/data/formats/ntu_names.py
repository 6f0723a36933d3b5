"""Names, splits and lists of missing skeletons of NTU RGB+D 60 and 120 (Shahroudy et al. 2016, Liu et al. 2019)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from oskar.data.columns import read_text, shown
from oskar.errors import InputError

_NAME = re.compile("".join(rf"{letter}([0-9]{{3}})" for letter in "SCPRA"))
_HIGHEST = (32, 3, 106, 999, 120)  # setup, camera, performer, replication, action
_TRAIN_PERFORMERS_60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
# fmt: off
_TRAIN_PERFORMERS_120 = (
    *_TRAIN_PERFORMERS_60, 45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85,
    86, 89, 91, 92, 93, 94, 95, 97, 98, 100, 103,
)
# fmt: on


@dataclass(frozen=True, order=True, slots=True)
class SampleName:
    """``SsssCcccPpppRrrrAaaa`` taken apart; all numbers start at 1."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int

    def __str__(self) -> str:
        numbers = (self.setup, self.camera, self.performer, self.replication, self.action)
        return "".join(f"{letter}{number:03d}" for letter, number in zip("SCPRA", numbers, strict=True))

    @property
    def label_id(self) -> int:
        """The class, counted from 0."""
        return self.action - 1


def is_sample_name(text: str) -> bool:
    """True where the text is the name of a sample that NTU RGB+D 60 or 120 may have."""
    match = _NAME.fullmatch(text)
    return match is not None and all(
        1 <= int(number) <= highest for number, highest in zip(match.groups(), _HIGHEST, strict=True)
    )


def parse_sample_name(text: str) -> SampleName:
    """The name of a sample; raises InputError where it is none."""
    if not is_sample_name(text):
        raise InputError(
            f"{shown(text)}: not the name of an NTU RGB+D sample",
            fix="use SsssCcccPpppRrrrAaaa, such as S001C001P001R001A001, with at most S032, C003, P106 and A120",
        )
    return SampleName(*(int(number) for number in re.findall("[0-9]{3}", text)))


@dataclass(frozen=True, kw_only=True, slots=True)
class NtuProtocol:
    """An official evaluation: which samples it has, and which values of ``part`` put one into train."""

    name: str
    n_setups: int
    n_performers: int
    n_actions: int
    part: Literal["performer", "camera", "setup"]
    train: frozenset[int]

    def split_of(self, sample: SampleName) -> Literal["train", "test"] | None:
        """The split of a sample; None where the protocol does not have it, as NTU60 has only part of NTU120."""
        is_there = (
            sample.setup <= self.n_setups and sample.performer <= self.n_performers and sample.action <= self.n_actions
        )
        if not is_there:
            return None
        numbers = {"performer": sample.performer, "camera": sample.camera, "setup": sample.setup}
        return "train" if numbers[self.part] in self.train else "test"

    @property
    def classes(self) -> tuple[str, ...]:
        """``A001`` and so on; a label id is the place of its class."""
        return tuple(f"A{action:03d}" for action in range(1, self.n_actions + 1))


def _ntu60(name: str, part: Literal["performer", "camera"], train: frozenset[int]) -> NtuProtocol:
    return NtuProtocol(name=name, n_setups=17, n_performers=40, n_actions=60, part=part, train=train)


def _ntu120(name: str, part: Literal["performer", "setup"], train: frozenset[int]) -> NtuProtocol:
    return NtuProtocol(name=name, n_setups=32, n_performers=106, n_actions=120, part=part, train=train)


NTU60_XSUB = _ntu60("ntu60_xsub", "performer", frozenset(_TRAIN_PERFORMERS_60))
NTU60_XVIEW = _ntu60("ntu60_xview", "camera", frozenset({2, 3}))
NTU120_XSUB = _ntu120("ntu120_xsub", "performer", frozenset(_TRAIN_PERFORMERS_120))
NTU120_XSET = _ntu120("ntu120_xset", "setup", frozenset(range(2, 33, 2)))
PROTOCOLS: Mapping[str, NtuProtocol] = MappingProxyType(
    {protocol.name: protocol for protocol in (NTU60_XSUB, NTU60_XVIEW, NTU120_XSUB, NTU120_XSET)}
)


def read_missing_names(path: Path) -> frozenset[str]:
    """The names in an official list of samples without skeletons; its lines of prose are passed over.

    Raises InputError where the file cannot be read or names no sample.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    names = frozenset(line for line in lines if is_sample_name(line))
    if not names:
        raise InputError(
            f"{path}: names no sample", fix="give the official list: one name such as S001C002P005R002A008 a line"
        )
    return names
