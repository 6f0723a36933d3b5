"""The pictures of a report: drawn on the run's own data, each beside random weights, and said where they cannot be."""

import csv
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import Page
from runs import TINY, packed_folder, shrunk, video_folder

from oskar.clip import ClipBatch
from oskar.config import Config
from oskar.data.people import PeopleWorld, generate
from oskar.errors import InputError
from oskar.masking.packing import build_batch
from oskar.pretraining import MaskedPrediction
from oskar.recipes import recipe
from oskar.reporting import error_map, pictured_run
from oskar.reporting.drawn_clip import draw_batch
from oskar.reporting.error_map import clip_errors, repeated
from oskar.reporting.page import write_report
from oskar.reporting.pictured_run import load_weights, places_of_data, start_weights, take_sample
from oskar.reporting.pictures import draw_pictures
from oskar.reporting.poses import saved_blocks
from oskar.reporting.retrieval_examples import chosen_queries, read_queries, retrieval_exhibit
from oskar.reporting.run_folder import read_run
from oskar.tokens.words import train_words
from oskar.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from oskar.train.pretrain import pretrain

MOST_BYTES = 8_000_000
SECTIONS = (
    *("Loss", "Health", "A batch as the model sees it", "Prediction error over space and time"),
    *("Principal components of features", "Nearest neighbours", "Predicted poses", "Retrieval examples"),
)


@pytest.fixture(autouse=True, scope="module")
def _few_clips() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictured_run, "MOST_CLIPS", 24)
        patch.setattr(error_map, "MOST_DRAWS", 24)
        yield


def write_predictions(folder: Path, ids: list[str]) -> None:
    """Retrieval of two captions: the first right, with rank 3 by random weights; the second wrong, with 4 and 1."""
    folder.mkdir(parents=True)
    columns = ["weights", "direction", "query", "rank", *(f"top{i + 1}" for i in range(10)), "caption", "not_read"]
    rest = [""] * 7
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for weights, ranks in (("pretrained", (1, 4)), ("random", (3, 1))):
            for which, (rank, caption) in enumerate(zip(ranks, ("a right one", "a wrong one"), strict=True)):
                best = ids[:3] if rank == 1 else ids[3:6]
                writer.writerow([weights, "text_to_video", f"{ids[which]}#0", rank, *best, *rest, caption, ""])
        writer.writerow(["pretrained", "video_to_text_group_max", ids[0], 1, *ids[:3], *rest, "", ""])
    values = {"task": "text-video-retrieval", "modality": "video", "metrics": {"text_to_video_r1_percent": 50.0}}
    (folder / "summary.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def people_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on the built-in people with captions, and a saved evaluation of retrieval."""
    run = tmp_path_factory.mktemp("runs") / "people"
    words = run.with_name("words.json")
    captions = generate(PeopleWorld(n_frames=2, resolution=16), torch.arange(64), 0).captions
    train_words(captions, 300).save(words)
    settings = ("data.captions=written", "tokens.vocabulary_size=300", f"data.tokenizer={words}")
    config = recipe("oskar-tiny").with_overrides([*TINY, *settings])
    pretrain(config, ["people:40"], run)
    ids = [f"people/0/test/{i:06d}" for i in range(6)]
    write_predictions(run / "evaluations" / "text-video-retrieval-video-people-seed0", ids)
    return run


@pytest.fixture(scope="module")
def page(people_run: Path) -> Page:
    path = write_report(people_run)
    assert path.stat().st_size < MOST_BYTES
    return Page(path.read_text("utf-8"))


def test_all_sections_are_there_in_order(page: Page) -> None:
    titles = re.findall(r"<h2>([^<]*)</h2>", page.source)
    assert [title for title in titles if title in SECTIONS] == list(SECTIONS)
    assert "could not be drawn" not in page.text


def test_every_picture_has_words_and_its_control(page: Page) -> None:
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) > 60
    assert all(attributes.get("alt") for attributes in images)
    assert all((attributes.get("src") or "").startswith("data:image/png;base64,") for attributes in images)
    labels = re.findall(r'<div class="strip[^"]*">\s*<p>([^<]*)</p>', page.source)
    of_run = [label for label in labels if label == "run" or label.startswith(("run:", "run "))]
    of_start = [label for label in labels if label.startswith("random weights")]
    assert len(of_run) == len(of_start) >= 12
    for one, other in zip(of_run, of_start, strict=False):
        assert one.removeprefix("run") in {label.removeprefix("random weights") for label in (other, *of_start)}
    assert not re.search(r"(?i)https?:|<script|<link|@import", page.source)


def test_numbers_stand_beside_those_of_random_weights(page: Page) -> None:
    heads = [row for row in page.rows if row[1:3] == ["run", "random weights"]]
    assert ["modality", "run", "random weights"] in heads
    assert ["", "run", "random weights", "mean pose"] in heads
    assert ["", "run", "random weights", "by chance"] in heads
    errors = next(row for row in page.rows if row[0] == "error")
    assert all(0.0 < float(cell) < 2.0 for cell in errors[1:])


def test_retrieval_shows_right_and_wrong(page: Page) -> None:
    assert "1 of 2 captions have their own clip first; with random weights 1." in page.text
    assert "“a right one” (its clip has rank 1, 3 with random weights)" in page.text
    assert "“a wrong one” (its clip has rank 4, 1 with random weights)" in page.text
    right = page.text[page.text.index("“a right one”") : page.text.index("Wrong, video")]
    assert right.count("✓") == 1
    assert right.count("✕") == 2
    assert page.text[page.text.index("“a wrong one”") :].count("✕") == 3


@pytest.mark.slow
def test_the_same_run_draws_the_same(people_run: Path, page: Page, tmp_path: Path) -> None:
    path = write_report(people_run, out=tmp_path / "again.html")
    assert path == tmp_path / "again.html"
    assert path.read_text("utf-8") == page.source


class Drawn:
    """The pictures of a run without the rest of its page: all their words, and their notes."""

    def __init__(self, run: Path, data: Sequence[str] = ()) -> None:
        pictures = draw_pictures(read_run(run), data)
        self.notes = " ".join(pictures.notes)
        self.titles = [exhibit.title for exhibit in pictures.exhibits]
        self.text = " ".join(" ".join(exhibit.paragraphs) for exhibit in pictures.exhibits)
        self.blocks = [block for exhibit in pictures.exhibits for block in exhibit.blocks]
        self.tables = [block.table.caption for block in self.blocks if block.table is not None]
        self.batch = pictures.batch


def copied(run: Path, to: Path) -> Path:
    shutil.copytree(run, to / run.name)
    return to / run.name


def test_without_a_checkpoint_features_are_drawn_and_errors_are_not(people_run: Path, tmp_path: Path) -> None:
    run = copied(people_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    found = Drawn(run)
    assert found.text.count("The run has no checkpoint any more, and its encoder alone predicts nothing.") == 2
    assert "Features of the target encoder, over 24 clips, evenly from people (split test)" in found.text
    shutil.rmtree(run / "encoder")
    found = Drawn(run)
    assert "There are no weights to draw with: the run has neither a checkpoint nor an encoder" in found.notes
    assert found.batch is not None
    assert found.batch.is_of_data  # it needs no weights
    assert found.titles == ["Retrieval examples"]


def test_a_damaged_checkpoint_is_named_and_the_rest_drawn(people_run: Path, tmp_path: Path) -> None:
    run = copied(people_run, tmp_path)
    newest = latest_checkpoint(run)
    assert newest is not None
    with (newest / "tensors.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\0\0\0\0\1\1\1\1")
    found = Drawn(run)
    assert re.search(r"There are no weights to draw with: \S*tensors\.safetensors", found.notes)
    assert found.batch is not None


def test_a_checkpoint_before_the_end_is_named(people_run: Path, tmp_path: Path) -> None:
    run = copied(people_run, tmp_path)
    text = (run / "config.json").read_text().replace('"steps": 3', '"steps": 30')
    (run / "config.json").write_text(text)
    (run / "summary.json").unlink()
    assert "Pictures are of step 3 of 30, the newest checkpoint." in Drawn(run).notes


@pytest.fixture(scope="module")
def skeleton_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Skeletons alone, of a folder with a test split; the run stands beside its data."""
    folder = tmp_path_factory.mktemp("skeletons")
    data = packed_folder(folder / "joints", 24)
    config = recipe("oskar-tiny").with_overrides([*TINY, 'tokens.modalities=["skeleton"]'])
    pretrain(config, [str(data)], folder / "run")
    return folder / "run"


def test_the_run_says_where_its_data_lie(skeleton_run: Path, people_run: Path) -> None:
    environment = json.loads((skeleton_run / "environment.json").read_text())
    assert environment["data"]["places"] == [str((skeleton_run.parent / "joints").resolve())]
    assert places_of_data(environment) == environment["data"]["places"]
    assert places_of_data(json.loads((people_run / "environment.json").read_text())) == ["people:40"]
    assert places_of_data({"data": {"names": ["people"], "sha256": ""}}) == ["people"]
    assert places_of_data({"data": {"names": ["kard"], "sha256": ""}}) == []
    assert places_of_data(None) == []


def test_data_that_are_gone_are_said_to_be(skeleton_run: Path, tmp_path: Path) -> None:
    found = Drawn(skeleton_run)
    assert "12 clips, evenly from joints (split test)" in found.text
    assert found.batch is not None
    assert found.batch.is_of_data
    assert found.notes == ""
    folder = tmp_path / "copy"
    shutil.copytree(skeleton_run.parent, folder)
    run = folder / "run"
    values = json.loads((run / "environment.json").read_text())
    values["data"]["places"] = [str(folder / "joints")]
    (run / "environment.json").write_text(json.dumps(values))
    shutil.rmtree(folder / "joints")
    page = Page(write_report(run).read_text("utf-8"))
    assert re.search(r"cannot be read, so no clip of them is drawn: data \S*joints: does not exist", page.text)
    assert "is of the built-in people" in page.text
    assert "Nearest neighbours" not in page.text
    del values["data"]["places"]
    (run / "environment.json").write_text(json.dumps(values))
    assert "name them with --data" in Drawn(run).notes


def test_other_data_are_drawn_and_named(skeleton_run: Path, tmp_path: Path) -> None:
    other = packed_folder(tmp_path / "others", 10)
    found = Drawn(skeleton_run, [str(other)])
    assert "5 clips, evenly from others (split test)" in found.text
    assert "which are not the data the run learned from" in found.notes
    with pytest.raises(InputError, match=r"nowhere: does not exist"):
        write_report(skeleton_run, [str(tmp_path / "nowhere")], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_clips_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    data = video_folder(tmp_path / "videos", 6)
    config = recipe("oskar-tiny").with_overrides([*TINY, 'tokens.modalities=["video"]', "train.steps=1"])
    pretrain(config, [str(data)], tmp_path / "run")
    (data / "v2.mkv").write_bytes(b"no video")
    found = Drawn(tmp_path / "run")
    assert re.search(r"1 of the clips chosen for pictures could not be read \(videos/v2: ", found.notes)
    assert "5 clips, evenly from videos (the clips it trains on)" in found.text
    assert not any("nearest that have" in caption for caption in found.tables)  # there are no classes
    for number in range(6):
        (data / f"v{number}.mkv").write_bytes(b"no video")
    found = Drawn(tmp_path / "run")
    assert re.search(r"no clip of \S*videos can be read", found.notes)


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("vjepa-tiny", "oskar-custom")), "mae-tiny"],
)
def test_recipes_of_every_kind_are_drawn(name: str, tmp_path: Path) -> None:
    """Several views, all tokens as context, no momentum encoder, an encoder for each modality."""
    config = replace(shrunk(name), data=replace(shrunk(name).data, captions="none"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    (run / "environment.json").write_text(json.dumps({"data": {"names": ["people"]}}))
    torch.manual_seed(1)
    module = MaskedPrediction(config)
    save_checkpoint(run, 20, {f"module/{key}": value for key, value in module.state_dict().items()}, {})
    found = Drawn(run)
    has_people = "skeleton" in config.tokens.modalities
    assert "Principal components of features" in found.titles
    assert any("share of the variance of features" in caption for caption in found.tables)
    assert any("Mean distance of predicted from measured" in caption for caption in found.tables) == has_people
    assert found.notes == ""


def seeded(config: Config, seed: int) -> MaskedPrediction:
    torch.manual_seed(seed)
    return MaskedPrediction(config).eval().requires_grad_(False)


def test_errors_are_means_over_the_draws(small_config: Config, make_clips: Any) -> None:
    """Against one draw at a time, read slot by slot in plain Python."""
    clips: ClipBatch = make_clips(3, small_config.tokens)
    module = seeded(small_config, 0)
    found = clip_errors(module, clips, 1, small_config, 30)  # more than are computed at once
    listed: dict[tuple[int, int], list[float]] = {}
    for draw in range(30):
        batch = build_batch(repeated(clips, torch.tensor([1]), draw), small_config, 0)
        with torch.no_grad():
            (output,) = module.compare(batch)
        for name, tokens in output.target.tokens.items():
            m = module.modalities.index(name)
            for slot, token in zip(tokens.slots.tolist(), tokens.token_idx.tolist(), strict=True):
                listed.setdefault((m, token), []).append(float(output.comparison.error[0, slot]))
    for m, name in enumerate(module.modalities):
        errors = found[name].errors
        for token, value in enumerate(errors):
            assert np.isnan(value) == ((m, token) not in listed)
            if not np.isnan(value):
                assert value == pytest.approx(np.mean(listed[m, token]), rel=1e-4)
        assert found[name].mean == pytest.approx(np.nanmean(errors))


def test_draws_of_one_clip_differ(small_config: Config, make_clips: Any) -> None:
    clips = make_clips(2, small_config.tokens)
    batch = build_batch(repeated(clips, torch.tensor([1, 1, 1])), small_config, 0)
    targets = [set(batch.views[0].target.segments[i].tolist()) for i in range(3)]
    tokens = batch.views[0].target.tokens["video"]
    chosen = [frozenset(tokens.token_idx[tokens.slots // 16 == i].tolist()) for i in range(3)]
    assert len(set(chosen)) == 3
    assert all(targets)


def test_weights_are_those_of_the_checkpoint_and_of_the_seed(people_run: Path) -> None:
    config = Config.load(people_run / "config.json")
    weights = load_weights(people_run, config)
    newest = latest_checkpoint(people_run)
    assert newest is not None
    stored, _ = load_checkpoint(newest)
    torch.manual_seed(config.train.seed)
    start = MaskedPrediction(config)
    assert weights.step == 3
    for key, value in weights.run.state_dict().items():
        assert torch.equal(value, stored[f"module/{key}"])
    for key, value in weights.start.state_dict().items():
        assert torch.equal(value, start.state_dict()[key])
    assert not torch.equal(weights.run.fusion.norm.weight, weights.start.fusion.norm.weight)
    before = torch.get_rng_state()
    start_weights(config)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_drawn_batch_is_packed_as_training_packs_it() -> None:
    config = recipe("oskar-tiny").with_overrides([*TINY, "data.captions=none"])
    sample = take_sample(["people:40"], config, None)
    assert len(sample.clips) == 24
    assert sample.drawn is not None
    drawn = draw_batch(sample.drawn, sample.drawn_ids, config, None)
    (view,) = build_batch(sample.drawn, config, 0).views
    assert [clip.clip_id for clip in drawn.clips] == list(sample.drawn_ids)
    names = list(config.tokens.modalities)
    for row, clip in enumerate(drawn.clips):
        for count in clip.views[0].counts:
            m = names.index(count.modality)
            assert count.n_visible == int((view.visible.segments[row] == m).sum())
            assert count.n_target == int((view.target.segments[row] == m).sum())
    assert [len(clip.views[0].pictures) for clip in drawn.clips] == [2, 2, 2, 2]


def test_predictions_that_are_damaged_are_named(people_run: Path, tmp_path: Path) -> None:
    run = copied(people_run, tmp_path)
    path = next(run.glob("evaluations/*/predictions.csv"))
    queries = read_queries(path)
    assert [(q.caption, q.rank, q.random_rank, q.is_right) for q in queries] == [
        ("a right one", 1.0, 3.0, True),
        ("a wrong one", 4.0, 1.0, False),
    ]
    path.write_text("weights,direction\npretrained,text_to_video\n")
    with pytest.raises(InputError, match=r"predictions\.csv is not the predictions of retrieval"):
        retrieval_exhibit(run, ())


def test_examples_are_taken_evenly(people_run: Path) -> None:
    query = read_queries(next(people_run.glob("evaluations/*/predictions.csv")))[1]
    many = [replace(query, clip_id=str(i)) for i in range(30)]
    assert [q.clip_id for q in chosen_queries(many, is_right=False)] == ["5", "15", "25"]
    assert chosen_queries(many, is_right=True) == []
    assert [q.clip_id for q in chosen_queries(many[:2], is_right=False)] == ["0", "1"]


def test_saved_poses_are_shown(people_run: Path, tmp_path: Path) -> None:
    run = copied(people_run, tmp_path)
    folder = run / "evaluations" / "pose-decoding-video-people-seed0"
    (folder / "pictures").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"task": "pose-decoding", "metrics": {}}))
    png = bytes.fromhex("89504e470d0a1a0a") + b"rest"
    (folder / "pictures" / "00-clip.png").write_bytes(png)
    (folder / "pictures" / "01-fake.png").write_bytes(b"<script>")
    (block,) = saved_blocks(run)
    assert block.heading == "Saved by pose-decoding-video-people-seed0"
    real, fake = (strip.pictures[0] for strip in block.strips)
    assert real.source == "data:image/png;base64,iVBORw0KGgpyZXN0"
    assert fake.source is None  # no PNG, so an empty place
    assert saved_blocks(tmp_path) == []
