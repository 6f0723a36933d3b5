"""Names, splits and missing lists of NTU RGB+D, against full enumerations, published counts and the given fixture."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oskar.data.formats.ntu_names import (
    NTU60_XSUB,
    NTU60_XVIEW,
    NTU120_XSET,
    NTU120_XSUB,
    PROTOCOLS,
    NtuProtocol,
    SampleName,
    is_sample_name,
    parse_sample_name,
    read_missing_names,
)
from oskar.errors import InputError

SPEC_DIR = Path(__file__).parents[2] / "shared" / "spec"

# Published, after the samples without skeletons were dropped: train, test, samples recorded, samples dropped.
PUBLISHED = {
    "ntu60_xsub": (40_091, 16_487, 56_880, 302),
    "ntu60_xview": (37_646, 18_932, 56_880, 302),
    "ntu120_xsub": (63_026, 50_919, 114_480, 535),
    "ntu120_xset": (54_468, 59_477, 114_480, 535),
}


@given(st.integers(1, 32), st.integers(1, 3), st.integers(1, 106), st.integers(1, 2), st.integers(1, 120))
def test_names_go_to_numbers_and_back(setup: int, camera: int, performer: int, replication: int, action: int) -> None:
    name = f"S{setup:03d}C{camera:03d}P{performer:03d}R{replication:03d}A{action:03d}"
    sample = parse_sample_name(name)
    assert sample == SampleName(setup, camera, performer, replication, action)
    assert str(sample) == name
    assert sample.label_id == action - 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "S001C001P001R001", "S001C001P001R001A001 ", "s001c001p001r001a001", "S01C001P001R001A001"),
        *("S000C001P001R001A001", "S033C001P001R001A001", "S001C004P001R001A001", "S001C001P107R001A001"),
        *(
            "S001C001P001R000A001",
            "S001C001P001R001A121",
            "S001C001P001R001A001_rgb",
            "S\u0660\u0660\u0661C001P001R001A001",
        ),
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    assert not is_sample_name(text)
    with pytest.raises(InputError, match=re.escape(repr(text)) + r".*Fix: use SsssC"):
        parse_sample_name(text)


def all_names(n_setups: int, n_performers: int, n_actions: int) -> list[SampleName]:
    ranges = (range(1, n + 1) for n in (n_setups, 3, n_performers, 2, n_actions))
    return [SampleName(*numbers) for numbers in itertools.product(*ranges)]


def test_splits_of_every_possible_name() -> None:
    """On the full grid of numbers each split has its share of them: 20 of 40 performers, 2 of 3 cameras and so on."""
    grid = all_names(17, 40, 60)[::7]  # 7 divides none of the sizes: all values of each number keep coming up
    for protocol, is_train in (
        (NTU60_XSUB, lambda s: s.performer in {*(1, 2, 4, 5, 8, 9), *range(13, 20), *(25, 27, 28, 31, 34, 35, 38)}),
        (NTU60_XVIEW, lambda s: s.camera != 1),
    ):
        assert all(protocol.split_of(s) == ("train" if is_train(s) else "test") for s in grid)
    small = [SampleName(s, c, p, 1, 120) for s, c, p in itertools.product(range(1, 33), (1, 3), range(1, 107))]
    assert Counter(map(NTU120_XSUB.split_of, small)) == {"train": 53 * 64, "test": 53 * 64}
    assert Counter(map(NTU120_XSET.split_of, small)) == {"train": 16 * 212, "test": 16 * 212}
    assert NTU120_XSET.split_of(SampleName(2, 1, 1, 1, 1)) == "train"
    assert {NTU60_XSUB.split_of(s) for s in small} == {None}


def test_ntu60_is_a_part_of_ntu120() -> None:
    """Cross-subject agrees on what both have; nothing beyond setup 17, performer 40 or action 60 is of NTU60."""
    assert {p for p in NTU120_XSUB.train if p <= 40} == NTU60_XSUB.train
    for outside in (SampleName(18, 1, 1, 1, 1), SampleName(1, 1, 41, 1, 1), SampleName(1, 1, 1, 1, 61)):
        assert NTU60_XSUB.split_of(outside) is None
        assert NTU60_XVIEW.split_of(outside) is None
        assert NTU120_XSUB.split_of(outside) is not None
    assert list(PROTOCOLS) == [p.name for p in (NTU60_XSUB, NTU60_XVIEW, NTU120_XSUB, NTU120_XSET)]
    assert NTU60_XSUB.classes[54] == "A055"
    assert len(NTU120_XSET.classes) == 120


def recorded(protocol: NtuProtocol) -> list[SampleName]:
    """As many samples as were recorded, with as many of each split; who was recorded in which setup is invented.

    Every performer who came to a setup did all actions of the set before three cameras, twice: 360 samples. So the
    published counts, which hold per pair of setup and performer, fix the numbers of pairs: of the 158 pairs of NTU60
    112 have a training performer; of the 160 pairs NTU120 adds, 64; and 152 of all 318 have an even setup.
    """
    train = sorted(NTU120_XSUB.train)
    test = [p for p in range(1, 107) if p not in train]

    def pairs(setups: range, performers: list[int], n: int, n_even: int) -> list[tuple[int, int]]:
        grid = [(s, p) for p in performers for s in setups]
        even, odd = ([pair for pair in grid if pair[0] % 2 == parity] for parity in (0, 1))
        return even[:n_even] + odd[: n - n_even]

    old, new = range(1, 18), range(18, 33)
    first = pairs(old, [p for p in train if p <= 40], 112, 50) + pairs(old, [p for p in test if p <= 40], 46, 20)
    later = pairs(new, [p for p in train if p > 40], 64, 40) + pairs(new, [p for p in test if p > 40], 96, 42)
    blocks = [(first, range(1, 61))] + ([(later, range(61, 121))] if protocol.n_actions == 120 else [])
    return [
        SampleName(setup, camera, performer, replication, action)
        for chosen, actions in blocks
        for setup, performer in chosen
        for camera, replication, action in itertools.product((1, 2, 3), (1, 2), actions)
    ]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_counts(name: str, tmp_path: Path) -> None:
    """The counts before dropping by the formula above, and those after dropping a list with as many of each split."""
    protocol, (n_train, n_test, n_recorded, n_dropped) = PROTOCOLS[name], PUBLISHED[name]
    samples = recorded(protocol)
    assert len(samples) == len(set(samples)) == n_recorded
    before = Counter(map(protocol.split_of, samples))
    assert (n_train + n_test, sum(before.values())) == (n_recorded - n_dropped, n_recorded)
    assert all(count % 360 == 0 for count in before.values()) or protocol.part == "camera"
    if protocol.part == "camera":
        assert before == {"train": 2 * n_recorded // 3, "test": n_recorded // 3}
    drop = {"train": before["train"] - n_train, "test": before["test"] - n_test}
    assert min(drop.values()) > 0
    assert sum(drop.values()) == n_dropped
    names = [str(s) for split, n in drop.items() for s in [s for s in samples if protocol.split_of(s) == split][:n]]
    path = tmp_path / "NTU_RGBD_samples_with_missing_skeletons.txt"
    path.write_text("302 samples lack skeletons.\nIgnore them.\n\n" + "\n".join(names) + "\n")
    missing = read_missing_names(path)
    after = Counter(protocol.split_of(s) for s in samples if str(s) not in missing)
    assert (after["train"], after["test"]) == (n_train, n_test)


def test_missing_list_of_the_fixture() -> None:
    path = SPEC_DIR / "fixtures" / "ntu" / "samples_with_missing_skeletons.txt"
    if not path.is_file():
        pytest.skip(f"fixture not there: {path}")
    assert read_missing_names(path) == {"S016C001P007R001A010", "S017C002P008R002A033"}


def test_a_list_without_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("Ignore these:\nS016C001P007\n")
    with pytest.raises(InputError, match=r"list\.txt: names no sample\. Fix: give the official list"):
        read_missing_names(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_missing_names(tmp_path / "gone.txt")


def test_training_performers_are_those_of_the_specification() -> None:
    path = SPEC_DIR / "benchmarks.md"
    if not path.is_file():
        pytest.skip(f"specification not there: {path}")
    text = path.read_text(encoding="utf-8")
    in_120 = re.search(r"NTU120 XSub train performers: ([\d, ]+)\.", text)
    in_60 = re.search(r"NTU60 XSub \| P ∈ \{([\d,]+)\}", text)
    assert in_120 is not None
    assert in_60 is not None
    assert {int(p) for p in in_120.group(1).split(",")} == NTU120_XSUB.train
    assert {int(p) for p in in_60.group(1).split(",")} == NTU60_XSUB.train
