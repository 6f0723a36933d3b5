"""The lists of Kinetics and Something-Something: the given fixtures, their variants, every fault, and finding files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oskar.data.formats.kinetics import LabelledFile, kinetics_classes, read_kinetics, read_plain_list
from oskar.data.formats.listed_clips import FoundClips, ListedClip, count_splits, find_clips, label_ids
from oskar.data.formats.something_something import read_something, read_something_classes
from oskar.errors import InputError

FIXTURES = Path(__file__).parents[2] / "shared" / "spec" / "fixtures"
SAUSAGES = "cooking sausages (not on barbeque)"


def fixture(name: str) -> Path:
    path = FIXTURES / name
    if not path.is_file():
        pytest.skip(f"fixture not there: {path}")
    return path


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_kinetics_fixture() -> None:
    train = read_kinetics(fixture("k400/train.csv"))
    val, test = read_kinetics(fixture("k400/val.csv")), read_kinetics(fixture("k400/test.csv"))
    classes = kinetics_classes(train)
    assert classes == ("air drumming", SAUSAGES)
    assert train[1] == ListedClip(
        clip_id="exampleBBBB_000102_000112",
        file_names=(
            "exampleBBBB_000102_000112.mp4",
            f"{SAUSAGES}/exampleBBBB_000102_000112.mp4",
            "cooking_sausages_(not_on_barbeque)/exampleBBBB_000102_000112.mp4",
        ),
        label=SAUSAGES,
        split="train",
    )
    assert [(clip.clip_id, clip.label, clip.split) for clip in val + test] == [
        ("exampleCCCC_000000_000010", "air drumming", "val"),
        ("exampleDDDD_000033_000043", None, "test"),
    ]
    assert test[0].file_names == ("exampleDDDD_000033_000043.mp4",)
    assert label_ids(train + val + test, classes, Path("k400")) == (0, 1, 0, None)
    assert count_splits(train + val + test) == {"train": 2, "val": 1, "test": 1}
    assert read_plain_list(fixture("k400/list_val.csv")) == (
        LabelledFile(path="videos/exampleCCCC_000000_000010.mp4", label_id=0),
    )


@pytest.mark.parametrize(
    "text",
    [
        "label,youtube_id,time_start,time_end,split\nrun,a_-b,5,15,val\n",
        "label,youtube_id,time_start,time_end,split,is_cc\nrun,a_-b,5,15,validate,0\n",
        "split,time_end,time_start,youtube_id,label\r\nval,15.0,5.0,a_-b,run\r\n",
        '\ufefflabel,youtube_id,time_start,time_end,split\n"run",a_-b,5.9,15.5,val\n\n',
    ],
)
def test_columns_go_by_name_and_times_may_be_floats(tmp_path: Path, text: str) -> None:
    (clip,) = read_kinetics(write(tmp_path, text))
    assert clip == ListedClip(
        clip_id="a_-b_000005_000015",
        file_names=("a_-b_000005_000015.mp4", "run/a_-b_000005_000015.mp4"),
        label="run",
        split="val",
    )


def test_classes_come_from_the_training_clips_alone(tmp_path: Path) -> None:
    head = "label,youtube_id,time_start,time_end,split\n"
    path = write(
        tmp_path, head + "zumba,a,0,10,train\nbowling,b,0,10,train\nzumba,c,0,10,train\nabseiling,d,0,10,val\n"
    )
    clips = read_kinetics(path)
    assert kinetics_classes(clips) == ("bowling", "zumba")
    with pytest.raises(InputError, match=r"clip d_000000_000010 has label 'abseiling', not one of the 2 classes"):
        label_ids(clips, kinetics_classes(clips), path)


HEAD = "label,youtube_id,time_start,time_end,split\n"
KINETICS_FAULTS: dict[str, tuple[str, str]] = {
    "empty": ("", "line 1: no column youtube_id, time_start, time_end, split"),
    "no split": ("label,youtube_id,time_start,time_end\nrun,a,0,10\n", "line 1: no column split"),
    "header only": (HEAD, "lists no clip"),
    "a comma": (HEAD + "run, fast,a,0,10,train\n", "line 2: not 5 cells"),
    "too few": (HEAD + "run,a,0,10\n", "line 2: not 5 cells"),
    "split": (HEAD + "run,a,0,10,train\nrun,b,0,10,holdout\n", r"line 3, split = 'holdout'\. Fix: use one of train"),
    "time": (HEAD + "run,a,x,10,train\n", "line 2, time_start = 'x': not a time"),
    "time nan": (HEAD + "run,a,0,nan,train\n", "line 2, time_end = 'nan': not a time"),
    "negative time": (HEAD + "run,a,-1,10,train\n", "line 2, time_start = '-1'"),
    "id": (HEAD + "run,,0,10,train\n", "line 2, youtube_id = ''"),
    "id path": (HEAD + "run,../a,0,10,train\n", "line 2, youtube_id = '../a'"),
    "label": (HEAD + ",a,0,10,val\n", "line 2, label = '': a clip of val has none"),
    "twice": (HEAD + "run,a,0,10,train\nsit,a,0.5,10,train\n", "line 3: clip a_000000_000010 is also on line 2"),
    "quotes": (HEAD + '"run,a,0,10,train\n', "line 2: not CSV"),
}


@pytest.mark.parametrize("fault", KINETICS_FAULTS)
def test_faults_of_a_kinetics_list(tmp_path: Path, fault: str) -> None:
    text, message = KINETICS_FAULTS[fault]
    with pytest.raises(InputError, match=rf"list\.csv:? ?{message}") as caught:
        read_kinetics(write(tmp_path, text))
    assert ". Fix: " in str(caught.value)


@given(
    name=st.text(st.sampled_from("ab ./_-é"), min_size=1, max_size=12).filter(lambda n: n.strip() != ""),
    label=st.integers(0, 999),
)
def test_plain_lists_are_split_on_the_last_space(
    tmp_path_factory: pytest.TempPathFactory, name: str, label: int
) -> None:
    path = write(tmp_path_factory.mktemp("list"), f"first.mp4 3\n\n{name} {label}\r\n")
    assert read_plain_list(path) == (
        LabelledFile(path="first.mp4", label_id=3),
        LabelledFile(path=name, label_id=label),
    )


@pytest.mark.parametrize("line", ["a.mp4", "a.mp4 x", "a.mp4 -1", "a.mp4 1.5", " 7", "a.mp4 ²", "a.mp4\t7"])
def test_faults_of_a_plain_list(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"list\.csv line 2: .* is not a path, a space and a class\. Fix: write"):
        read_plain_list(write(tmp_path, f"a.mp4 1\n{line}\n"))
    with pytest.raises(InputError, match="lists no video"):
        read_plain_list(write(tmp_path, "\n"))


def test_the_something_something_fixture() -> None:
    folder = "ssv2/something-something-v2-"
    classes = read_something_classes(fixture(folder + "labels.json"))
    assert classes == ("Holding something next to something", "Turning something upside down")
    train = read_something(fixture(folder + "train.json"), classes, "train")
    val = read_something(fixture(folder + "validation.json"), classes, "val")
    test = read_something(fixture(folder + "test.json"), classes, "test")
    assert [clip.clip_id for clip in train + val + test] == ["900001", "900002", "900003", "900004"]
    assert label_ids(train + val + test, classes, Path("ssv2")) == (0, 1, 1, None)
    assert train[0] == ListedClip(
        clip_id="900001", file_names=("900001.webm", "900001.mp4"), label=classes[0], split="train"
    )
    assert count_splits(train + val + test) == {"train": 2, "val": 1, "test": 1}


def test_classes_go_by_their_number_not_by_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"b": "2", "a": "10", **{f"c{i}": str(i) for i in (0, 1, *range(3, 10))}}))
    classes = read_something_classes(path)
    assert (len(classes), classes[2], classes[10], classes[3]) == (11, "b", "a", "c3")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[]", "holds no object"),
        ("{}", "holds no object"),
        ('{"a": "0",}', "line 1: not JSON"),
        ('{"a": 0}', "'a': '0' is not a number of its own"),
        ('{"a": "0", "b": "0"}', "'b': \"'0'\" is not a number of its own"),
        ('{"a": "0", "b": "2"}', "no class has the number 1"),
        ('{"a": "00"}', "no class has the number 0"),
    ],
)
def test_faults_of_the_labels(tmp_path: Path, labels: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"list\.csv.*{message}.*Fix: "):
        read_something_classes(write(tmp_path, labels))


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ("{}", "holds no list of clips"),
        ("[]", "holds no list of clips"),
        ("[1]", "entry 0: id 'None' is not a text"),
        ('[{"id": 7, "template": "a"}]', "entry 0: id '7' is not a text"),
        ('[{"id": "../7", "template": "a"}]', "entry 0: id .*7'"),
        ('[{"id": "7", "template": "a"}, {"id": "7", "template": "a"}]', "entry 1: id 7 is there twice"),
        ('[{"id": "7", "label": "a"}]', r"entry 0 \(id 7\): a clip of val without a template"),
        ('[{"id": "7", "template": "A [b]"}]', r"entry 0 \(id 7\): 'A b' is not a class"),
    ],
)
def test_faults_of_the_clips(tmp_path: Path, clips: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"list\.csv.*{message}.*Fix: "):
        read_something(write(tmp_path, clips), ("a",), "val")


def test_finding_files_counts_and_names_what_is_missing(tmp_path: Path) -> None:
    clips = [
        ListedClip(clip_id=name, file_names=(f"{name}.mp4", f"air drumming/{name}.mp4"), label=None, split="val")
        for name in ("z", "a", "b", "c")
    ]
    (tmp_path / "air drumming").mkdir()
    for name in ("a.mp4", "air drumming/a.mp4", "air drumming/c.mp4", "b.mkv"):
        (tmp_path / name).touch()
    found = find_clips(clips, tmp_path)
    assert found == FoundClips(
        paths={"a": tmp_path / "a.mp4", "c": tmp_path / "air drumming" / "c.mp4"}, missing=("z", "b")
    )
    assert (found.n_expected, found.n_found) == (4, 2)
    with pytest.raises(InputError, match=r"nowhere: is not a folder\. Fix: "):
        find_clips(clips, tmp_path / "nowhere")
