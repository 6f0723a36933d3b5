"""MSR-VTT, MSVD and VATEX: invented files in the official layouts, the real ones, and every way to be broken."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from oskar.data.formats.msrvtt import read_msrvtt_1k_a, read_msrvtt_chosen, read_msrvtt_full, read_msrvtt_list
from oskar.data.formats.msvd import read_msvd, read_youtube_mapping
from oskar.data.formats.vatex import read_vatex, split_clip_id
from oskar.data.formats.video_text import CaptionedVideo, find_videos
from oskar.errors import InputError

SHARED = Path(__file__).parents[2] / "shared"
FIXTURES = SHARED / "spec" / "fixtures"
REAL = SHARED / "data" / "text_annotations"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="shared/spec/fixtures is not there")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/text_annotations is not there")

VIDEOS = [
    {"video_id": "video1", "split": "train", "start time": 12.5, "end time": 24.1, "category": 9, "id": 1},
    {"video_id": "video0", "split": "train", "start time": 0.5, "end time": 9.1, "category": 9, "id": 0},
    {"video_id": "video6", "split": "validate", "start time": 3, "end time": 4.5, "category": 1, "id": 6},
    {"video_id": "video9", "split": "test", "start time": 1.0, "end time": 11.5, "category": 2, "id": 9},
]
CAPTIONS = [("video0", "a kite"), ("video9", " a, b "), ("video0", "the kite"), ("video1", "dogs"), ("video6", "it")]
CAPTIONS += [("video9", "c")]
SENTENCES = [{"sen_id": i, "video_id": name, "caption": text} for i, (name, text) in enumerate(CAPTIONS)]
ANNOTATIONS = [{"id": i, "image_id": name, "caption": text} for i, (name, text) in enumerate(CAPTIONS)]
MSRVTT = {"info": {}, "videos": VIDEOS, "sentences": SENTENCES}
FROZEN = {"images": [], "annotations": ANNOTATIONS, "type": "captions"}


def write(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def captions_of(videos: tuple[CaptionedVideo, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(video.clip_id, video.captions) for video in videos]


def test_msrvtt_splits_of_the_annotations(tmp_path: Path) -> None:
    path = write(tmp_path / "MSRVTT_data.json", MSRVTT)
    assert captions_of(read_msrvtt_full(path, split="train")) == [
        ("video1", ("dogs",)),
        ("video0", ("a kite", "the kite")),
    ]
    assert captions_of(read_msrvtt_full(path, split="val")) == [("video6", ("it",))]
    assert read_msrvtt_full(path, split="test") == (
        CaptionedVideo(clip_id="video9", file_stems=("video9",), captions=("a, b", "c"), split="test"),
    )


@pytest.mark.parametrize("document", [MSRVTT, FROZEN], ids=["sentences", "annotations"])
@pytest.mark.parametrize("listed", ["video_id\nvideo9\nvideo0\n", "video9\r\n\r\nvideo0"], ids=["header", "bare"])
def test_msrvtt_lists_over_both_layouts(tmp_path: Path, document: object, listed: str) -> None:
    videos = read_msrvtt_list(write(tmp_path / "a.json", document), write(tmp_path / "ids.csv", listed), split="train")
    assert captions_of(videos) == [("video9", ("a, b", "c")), ("video0", ("a kite", "the kite"))]
    assert {video.split for video in videos} == {"train"}


def test_msrvtt_1k_a_takes_the_sentence_of_its_own_file(tmp_path: Path) -> None:
    text = 'key,vid_key,video_id,sentence\nret0,msr9,video9,"a ""cook"", slicing"\nret1,msr7,video7,dogs run\n'
    videos = read_msrvtt_1k_a(write(tmp_path / "MSRVTT_JSFUSION_test.csv", text))
    assert captions_of(videos) == [("video9", ('a "cook", slicing',)), ("video7", ("dogs run",))]
    assert {video.split for video in videos} == {"test"}


@pytest.mark.parametrize("number", [1, np.int64(1)], ids=["int", "numpy"])
def test_msrvtt_queries_chosen_by_number(tmp_path: Path, number: object) -> None:
    annotations = write(tmp_path / "MSR_VTT.json", FROZEN)
    ids = write(tmp_path / "val_list_jsfusion.txt", "video9\nvideo0\n")
    chosen = write(tmp_path / "idx.pkl", pickle.dumps({"video0": 0, "video9": number, "video1": 7}))
    assert captions_of(read_msrvtt_chosen(annotations, ids, chosen)) == [("video9", ("c",)), ("video0", ("a kite",))]


MSVD = {"a_b_0_10": [["a", "boy", "kicks"], ["the", "boy"]], "c_3_9": [["a", "cat", "."]], "d_1_2": [["no"]]}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_msvd_tokens_are_joined_by_one_space(tmp_path: Path, protocol: int) -> None:
    captions = write(tmp_path / "raw-captions.pkl", pickle.dumps(MSVD, protocol))
    ids = write(tmp_path / "train_list.txt", "c_3_9\na_b_0_10\n")
    assert captions_of(read_msvd(captions, ids, split="train")) == [
        ("c_3_9", ("a cat .",)),
        ("a_b_0_10", ("a boy kicks", "the boy")),
    ]
    as_texts = {name: [" ".join(tokens) for tokens in captions] for name, captions in MSVD.items()}
    in_json = write(tmp_path / "captions_msvd.json", as_texts)
    assert read_msvd(in_json, ids, split="train") == read_msvd(captions, ids, split="train")


def test_msvd_files_may_be_called_by_number(tmp_path: Path) -> None:
    captions = write(tmp_path / "raw-captions.pkl", pickle.dumps(MSVD))
    ids = write(tmp_path / "ids.txt", "c_3_9\n")
    mapping = write(tmp_path / "youtube_mapping.txt", "a_b_0_10 vid1\nc_3_9 vid2\n")
    assert read_youtube_mapping(mapping) == {"vid1": "a_b_0_10", "vid2": "c_3_9"}
    (video,) = read_msvd(captions, ids, split="test", mapping=mapping)
    assert (video.clip_id, video.file_stems) == ("c_3_9", ("c_3_9", "vid2"))
    for name in ("c_3_9.avi", "vid2.avi"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder / name, b"")
        assert find_videos([video], folder).paths == {"c_3_9": folder / name}


VATEX = [
    {"videoID": "ab_c__d-e_000006_000016", "enCap": ["one", "two"], "chCap": ["一"]},
    {"videoID": "xyz_000120_000130", "enCap": ["three"]},
]


def test_vatex_has_english_captions_and_lists(tmp_path: Path) -> None:
    annotations = write(tmp_path / "vatex_validation_v1.0.json", VATEX)
    assert captions_of(read_vatex(annotations, split="val")) == [
        ("ab_c__d-e_000006_000016", ("one", "two")),
        ("xyz_000120_000130", ("three",)),
    ]
    ids = write(tmp_path / "test.txt", "xyz_000120_000130\n")
    assert captions_of(read_vatex(annotations, split="test", ids=ids)) == [("xyz_000120_000130", ("three",))]


def test_vatex_ids_are_split_from_the_right() -> None:
    assert split_clip_id("ab_c__d-e_000006_000016") == ("ab_c__d-e", 6, 16)
    assert split_clip_id("_000001_000002_000010_000020") == ("_000001_000002", 10, 20)
    for name in ("xyz_6_16", "xyz_000006", "_000006_000016", "xyz_000016_000006", "xyz_000006_000016.mp4"):
        with pytest.raises(InputError, match=f"clip '{name}'.*Fix: name it like"):
            split_clip_id(name)


@needs_fixtures
def test_the_fixtures() -> None:
    folder = FIXTURES / "msrvtt"
    train = read_msrvtt_list(folder / "MSRVTT_data.json", folder / "MSRVTT_train.9k.csv", split="train")
    assert [(v.clip_id, len(v.captions)) for v in train] == [("video0", 2), ("video1", 2)]
    assert captions_of(read_msrvtt_1k_a(folder / "MSRVTT_JSFUSION_test.csv")) == [
        ("video9770", ("a cook slices an onion",))
    ]
    folder = FIXTURES / "msvd"
    n_captions = {
        split: [
            len(v.captions) for v in read_msvd(folder / "raw-captions.pkl", folder / f"{split}_list.txt", split=split)
        ]
        for split in ("train", "val", "test")
    }
    assert n_captions == {"train": [2], "val": [1], "test": [3]}
    (train_clip,) = read_msvd(folder / "raw-captions.pkl", folder / "train_list.txt", split="train")
    assert train_clip.captions[0] == "a boy kicks a ball"
    folder = FIXTURES / "vatex"
    names = ("vatex_training_v1.0", "vatex_validation_v1.0", "vatex_public_test_english_v1.1")
    clips = [read_vatex(folder / f"{name}.json", split="x") for name in names]
    assert [len(c) for c in clips] == [2, 1, 1]
    assert {len(clip.captions) for found in clips for clip in found} == {10}
    assert split_clip_id(clips[0][0].clip_id) == ("exVidAAAAAA", 6, 16)


@needs_real
def test_the_real_files_have_the_published_sizes() -> None:
    """MSVD: 48,774, 4,290 and 27,763 captions; MSR-VTT: 9,000 and 7,010 to train on, 1,000 queries among neither."""
    folder = REAL / "msvd"
    sizes = []
    for split in ("train", "val", "test"):
        videos = read_msvd(folder / "captions_msvd.json", folder / f"{split}_list.txt", split=split)
        sizes.append((len(videos), sum(len(video.captions) for video in videos)))
    assert sizes == [(1200, 48_774), (100, 4_290), (670, 27_763)]
    queries = read_msrvtt_1k_a(REAL / "msrvtt" / "MSRVTT_JSFUSION_test.csv")
    assert len({video.clip_id for video in queries}) == 1000
    assert queries[1].captions == ("a little girl does gymnastics",)


@needs_real
def test_the_real_train_lists_fit_annotations_of_either_layout(tmp_path: Path) -> None:
    document = {"annotations": [{"image_id": f"video{i}", "caption": f"caption {i}"} for i in range(10_000)]}
    annotations = write(tmp_path / "MSR_VTT.json", document)
    tested = {video.clip_id for video in read_msrvtt_1k_a(REAL / "msrvtt" / "MSRVTT_JSFUSION_test.csv")}
    for name, n_videos in (("9k", 9000), ("7k", 7010)):
        train = read_msrvtt_list(annotations, REAL / "msrvtt" / f"MSRVTT_train.{name}.csv", split="train")
        assert len({video.clip_id for video in train}) == n_videos
        assert not tested & {video.clip_id for video in train}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", r"a\.json line 1: not JSON"),
        ([], r"a\.json: holds a list, not an object"),
        ({"info": {}}, r"a\.json: has neither 'sentences' nor 'annotations', only 'info'.*Fix: name MSRVTT_data"),
        ({**MSRVTT, "sentences": []}, r"a\.json, sentences: a list, not a list of objects, or an empty one"),
        ({**MSRVTT, "sentences": {}}, r"a\.json, sentences: a dict, not a list"),
        ({**MSRVTT, "sentences": ["text"]}, r"sentences\[0\] = \"'text'\": not an object"),
        ({**MSRVTT, "sentences": [{"video_id": "video0"}]}, r"sentences\[0\]: has no 'caption', only 'video_id'"),
        ({**MSRVTT, "sentences": [{"video_id": 0, "caption": "x"}]}, r"sentences\[0\], video_id = '0': not a text"),
        (
            {**MSRVTT, "sentences": [{"video_id": "video0", "caption": " "}]},
            r"sentences\[0\], caption = .*an empty one",
        ),
        (
            {**MSRVTT, "sentences": [{"video_id": "video5", "caption": "x"}]},
            r"sentences\[0\], video_id = .*video5.*: not among the videos",
        ),
        ({**MSRVTT, "videos": [*VIDEOS, VIDEOS[0]]}, r"videos\[4\]: video 'video1' is in .*videos\[0\] too"),
        ({**MSRVTT, "sentences": SENTENCES[1:2]}, r"video 'video0' has no caption.*Fix: use the list"),
    ],
)
def test_broken_annotations_of_msrvtt(tmp_path: Path, document: object, message: str) -> None:
    ids = write(tmp_path / "ids.csv", "video0\n")
    with pytest.raises(InputError, match=message):
        read_msrvtt_list(write(tmp_path / "a.json", document), ids, split="train")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (FROZEN, r"a\.json: has no 'videos' and so no splits.*Fix: use MSRVTT_data\.json"),
        (
            {**MSRVTT, "videos": [{**VIDEOS[0], "split": "tset"}, *VIDEOS[1:]]},
            r"videos\[0\], split = .*tset.*not one of",
        ),
        ({**MSRVTT, "videos": [{"video_id": "v"}], "sentences": [{"video_id": "v", "caption": "c"}]}, "has no 'split'"),
        (
            {**MSRVTT, "videos": [v for v in VIDEOS if v["id"] != 9], "sentences": SENTENCES[:1]},
            "none is of split 'test'",
        ),
        ({**MSRVTT, "sentences": SENTENCES[:1]}, r"a\.json: video 'video9' has no caption"),
    ],
)
def test_broken_splits_of_msrvtt(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_msrvtt_full(write(tmp_path / "a.json", document), split="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"q\.csv: lists nothing"),
        ("key,vid_key,video_id,sentence\n", r"q\.csv: lists nothing"),
        (
            "key,video_id\nret0,video9\n",
            r"q\.csv line 1: the header is 'key,video_id', without sentence.*separated by commas",
        ),
        ("video_id,sentence,video_id\n", r"line 1: the header is .*without distinct names"),
        ("video_id,sentence\nvideo9,a, b\n", r"q\.csv line 2: 3 cells, the header has 2"),
        ('video_id,sentence\nvideo9,"a\n', r"q\.csv line 2: not a table"),
        ("video_id,sentence\nvideo9,\n", r"q\.csv line 2, sentence = .*empty"),
        ("video_id,sentence\nvideo9,a\nvideo9,b\n", r"q\.csv line 3: video 'video9' is in .*q\.csv line 2 too"),
        (b"video_id,sentence\nvideo9,\xff\n", r"q\.csv line 2: not UTF-8"),
    ],
)
def test_broken_queries_of_msrvtt(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_msrvtt_1k_a(write(tmp_path / "q.csv", text))


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", r"ids\.txt: lists nothing"),
        ("video_id\n", r"ids\.txt: lists nothing"),
        ("video0\n\nvideo0\n", r"ids\.txt line 3: id 'video0' is in .*ids\.txt line 1 too"),
        ("video0\nvideo77\n", r"ids\.txt with .*a\.json: video 'video77' has no caption"),
        ("video0\nvideo_id\n", r"ids\.txt with .*: video 'video_id' has no caption"),
    ],
)
def test_broken_lists(tmp_path: Path, listed: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_msrvtt_list(write(tmp_path / "a.json", FROZEN), write(tmp_path / "ids.txt", listed), split="train")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([1, 2], r"idx\.pkl: holds a list"),
        ({"video0": 0}, r"idx\.pkl, video9 = 'None': its captions are 0 to 1"),
        ({"video9": 2}, r"idx\.pkl, video9 = '2': its captions are 0 to 1.*Fix: use the list"),
        ({"video9": -1}, r"idx\.pkl, video9 = '-1'"),
        ({"video9": "1"}, r"idx\.pkl, video9 = "),
    ],
)
def test_broken_choices(tmp_path: Path, chosen: object, message: str) -> None:
    ids = write(tmp_path / "ids.txt", "video9\n")
    with pytest.raises(InputError, match=message):
        read_msrvtt_chosen(write(tmp_path / "a.json", FROZEN), ids, write(tmp_path / "idx.pkl", pickle.dumps(chosen)))


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch trapped",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([["a"]], r"raw-captions\.pkl: holds a list"),
        ({"d_1_2": [["a"]]}, r"ids\.txt: clip 'c_3_9' is not in .*raw-captions\.pkl"),
        ({"c_3_9": []}, r"raw-captions\.pkl, c_3_9 = .*an empty one"),
        ({"c_3_9": [[]]}, r"raw-captions\.pkl, c_3_9\[0\] = .*an empty one"),
        ({"c_3_9": [["a"], ["b", 3]]}, r"raw-captions\.pkl, c_3_9\[1\]\[1\] = '3': not a text"),
        ({"c_3_9": [["a"], "b c"]}, r"raw-captions\.pkl, c_3_9\[0\] = .*not a text"),
        ({"c_3_9": [[Trap()]]}, r"raw-captions\.pkl: the pickle names .*system"),
    ],
)
def test_broken_captions_of_msvd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    captions = write(tmp_path / "raw-captions.pkl", pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read_msvd(captions, write(tmp_path / "ids.txt", "c_3_9\n"), split="train")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("", r"map\.txt: lists nothing"),
        ("c_3_9\n", r"map\.txt line 1: 'c_3_9'.*Fix: write lines of a clip and its vid number"),
        ("a vid1\n\na vid2\n", r"map\.txt line 3: clip 'a' is in .*map\.txt line 1 too"),
        ("a vid1\nb vid1\n", r"map\.txt line 2: number 'vid1' is in"),
        ("a vid1\n", r"ids\.txt: clip 'c_3_9' is not in .*map\.txt"),
    ],
)
def test_broken_mappings_of_msvd(tmp_path: Path, mapping: str, message: str) -> None:
    captions = write(tmp_path / "raw-captions.pkl", pickle.dumps(MSVD))
    ids = write(tmp_path / "ids.txt", "c_3_9\n")
    with pytest.raises(InputError, match=message):
        read_msvd(captions, ids, split="test", mapping=write(tmp_path / "map.txt", mapping))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"videoID": "x"}, r"v\.json: a dict, not a list of objects"),
        ([{"videoID": "xyz_000120_000130", "chCap": ["一"]}], r"v\.json\[0\]: has no 'enCap', only 'videoID', 'chCap'"),
        ([{"videoID": "xyz_000120_000130", "enCap": "text"}], r"v\.json\[0\], enCap = .*not a list of texts"),
        ([{"videoID": "xyz_000120_000130", "enCap": ["a", ""]}], r"v\.json\[0\], enCap\[1\] = "),
        ([{"videoID": "xyz_120_130", "enCap": ["a"]}], r"v\.json\[0\], videoID = .*not <youtube>_<start>_<end>"),
        ([VATEX[1], VATEX[0], VATEX[1]], r"v\.json\[2\]: clip 'xyz_000120_000130' is in .*v\.json\[0\] too"),
    ],
)
def test_broken_annotations_of_vatex(tmp_path: Path, entries: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_vatex(write(tmp_path / "v.json", entries), split="train")


def test_a_list_of_another_release_of_vatex(tmp_path: Path) -> None:
    ids = write(tmp_path / "ids.txt", "gone_000001_000011\n")
    with pytest.raises(InputError, match=r"ids\.txt: clip 'gone_000001_000011' is not in .*v\.json"):
        read_vatex(write(tmp_path / "v.json", VATEX), split="test", ids=ids)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (lambda path: read_vatex(path, split="x"), read_msrvtt_1k_a, read_youtube_mapping):
        with pytest.raises(InputError, match=r"none\.json: cannot be read \(No such file"):
            read(tmp_path / "none.json")
