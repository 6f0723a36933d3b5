"""Finding the video files of clips: real folders, every suffix, and doubt refused."""

import csv
from pathlib import Path

import pytest

from oskar.data.formats.video_text import CaptionedVideo, find_videos
from oskar.errors import InputError

DATA_DIR = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize("name", ["jhmdb_masks", "gmdcsa24", "utd_mhad"])
def test_real_clips_are_found_and_missing_ones_listed(name: str) -> None:
    folder = DATA_DIR / name
    if not folder.is_dir():
        pytest.skip(f"shared/data/{name} is not there")
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        clips = [
            CaptionedVideo(clip_id=row["clip_id"], file_stems=(row["clip_id"],), captions=(row["caption"],), split="x")
            for row in csv.DictReader(stream)
        ]
    gone = CaptionedVideo(clip_id="gone", file_stems=("gone", "gone_too"), captions=("it is gone",), split="x")
    found = find_videos([*clips, gone, *clips], folder / "videos")
    assert found.missing == ("gone",)
    assert (found.n_expected, found.n_found) == (len(clips) + 1, len(clips))
    assert all(found.paths[clip.clip_id].name == f"{clip.clip_id}.mp4" for clip in clips)


def clip(name: str, *stems: str) -> CaptionedVideo:
    return CaptionedVideo(clip_id=name, file_stems=stems or (name,), captions=("text",), split="x")


def test_which_files_are_a_clip(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.AVI", "c.webm", "d.mkv", "e.gif", "f.txt", "a.b_1.mp4", "A.mp4.part"):
        (tmp_path / name).touch()
    (tmp_path / "g.mp4").mkdir()
    found = find_videos([clip(name) for name in ("a", "b", "c", "d", "e", "f", "g", "a.b_1", "A")], tmp_path)
    assert {name: path.name for name, path in found.paths.items()} == {
        "a": "a.mp4",
        "b": "b.AVI",
        "c": "c.webm",
        "d": "d.mkv",
        "e": "e.gif",
        "a.b_1": "a.b_1.mp4",
    }
    assert found.missing == ("f", "g", "A")
    assert find_videos([clip("a"), clip("e")], tmp_path, suffixes=(".gif",)).missing == ("a",)


def test_two_files_for_one_clip_are_refused(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.webm", "vid1.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"clip a could be a\.mp4 or a\.webm.*Fix: keep one of them"):
        find_videos([clip("a")], tmp_path)
    with pytest.raises(InputError, match=r"clip a could be a\.mp4 or vid1\.mp4"):
        find_videos([clip("a", "a", "vid1")], tmp_path, suffixes=(".mp4",))
    with pytest.raises(InputError, match=r"nowhere: is not a folder\. Fix: name the folder"):
        find_videos([clip("a")], tmp_path / "nowhere")
