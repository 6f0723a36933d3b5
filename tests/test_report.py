"""The report of a run: verdict first, every number, whole in itself, for runs of every kind and state."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from pages import Page

from oskar.config import BlockConfig, Config, MaskingConfig, ModelConfig, PredictorConfig, TokensConfig
from oskar.data.people import PeopleWorld, generate
from oskar.data.people_reader import PeopleData, PeopleReader
from oskar.data.reader import EvaluationWindow
from oskar.errors import InputError
from oskar.masking.packing import build_batch
from oskar.reporting.curves import health_panels, loss_panel
from oskar.reporting.drawn_clip import draw_people
from oskar.reporting.figures import MAX_POINTS, STROKES, Series, line_panel, thin_out
from oskar.reporting.page import write_report
from oskar.tokens.words import Words, train_words

HEADS = ("attentive", "linear", "knn")
TOKENS = TokensConfig(n_frames=4, resolution=32, patch_size=8, n_people=2, n_words=12, vocabulary_size=200)
CONFIG = Config(
    recipe="oskar-test",
    tokens=TOKENS,
    masking=MaskingConfig(n_visible=16, n_target=16),
    model=ModelConfig(width=32, n_blocks=2, n_heads=4),
    predictor=PredictorConfig(width=24, n_layers=4, n_heads=4),
)
BLOCKS = replace(
    CONFIG,
    tokens=replace(TOKENS, modalities=("video",)),
    masking=MaskingConfig(
        style="blocks",
        blocks=(BlockConfig(n_blocks=3, spatial_scale=0.15), BlockConfig(n_blocks=1, spatial_scale=0.7)),
        n_visible=None,
        n_target=None,
        exclusivity="none",
    ),
)
ENVIRONMENT = {
    "oskar": "9.8.7",
    "python": "3.11.7",
    "torch": "2.13.0",
    "platform": "Plan-9",
    "cpu": {"model": "Abacus 3000", "count": 12, "available": 6},
    "threads": {"within_operations": 5},
    "device": {"type": "cpu"},
    "precision": {"dtype": "bfloat16", "reason": "measured faster", "speedup": 2.5},
}


def read(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "report.html"
    return Page(path.read_text("utf-8"))


def made_records(modalities: tuple[str, ...], n: int = 12) -> list[dict[str, Any]]:
    keys = [f"{key}_{side}" for key in ("response", "spread", "cosine", "rank") for side in ("target", "prediction")]
    records = []
    for i in range(1, n + 1):
        record: dict[str, Any] = {
            "step": 10 * i,
            "split": "train",
            "loss": 1.0 / i,
            "lr": 1e-3 * i,
            "n_skipped_steps": 0,
        }
        record |= {"grad_norm_fusion": 0.1 * i, "grad_norm_predictor": 10.0 * i}
        for m, name in enumerate(modalities):
            record[f"loss_{name}"] = (m + 1.0) / i
            record |= {f"{key}_{name}": 0.5 + 0.01 * i * m for key in keys}
            record |= {f"explained_{name}": -3.0 + 0.3 * i, f"explained_content_{name}": None}
        records.append(record)
    return records


def made_evaluation(modality: str, first: float) -> dict[str, Any]:
    """Every accuracy differs from all others: ``first``, then in steps of 1.37."""
    values = {
        f"{head}_top{k}": first + 1.37 * (2 * h + i) for h, head in enumerate(HEADS) for i, k in enumerate((1, 5))
    }
    return {
        "task": "action-recognition",
        "modality": modality,
        "protocol": "frozen",
        "data": ["people"],
        "split": "test",
        "n_classes": 28,
        "n_expected": 400,
        "n_found": 400,
        "n_evaluated": 397,
        "metrics": values,
        "controls": {"chance": first / 10, "random_weights": {key: value + 30 for key, value in values.items()}},
        "seed": 3,
    }


def write_run(run: Path, config: Config = CONFIG, *, has_records: bool = False) -> Path:
    """A run folder as an interruption leaves it; curves only where they are looked at, for they take time."""
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    if has_records:
        lines = [json.dumps(record) + "\n" for record in made_records(config.tokens.modalities)]
        (run / "metrics.jsonl").write_text("".join(lines))
    return run


def finish_run(run: Path, **changes: Any) -> None:
    summary = {
        "recipe": "oskar-test",
        "steps": 120,
        "samples_seen": 7680,
        "tokens_seen": 983_040,
        "wall_seconds": 3725.0,
        "samples_per_second": 28.04,
        "data_wait_share": 0.35,
        "health": {
            "verdict": "suspect",
            "by_modality": {"video": "healthy", "skeleton": "suspect"},
            "reasons": ["R1", "R2"],
        },
        "skipped_steps": 2,
        "data": ["people"],
        "n_clips": 100_000,
        "n_left_out": 17,
        "bad_clips": {"clip-7": "truncated"},
        "seed": 0,
    }
    (run / "summary.json").write_text(json.dumps(summary | changes))


def write_evaluation(run: Path, folder: str, values: dict[str, Any]) -> None:
    (run / "evaluations" / folder).mkdir(parents=True)
    (run / "evaluations" / folder / "summary.json").write_text(json.dumps(values))


def made_words() -> Words:
    return train_words(generate(PeopleWorld(n_frames=2, resolution=16), torch.arange(64), 0).captions, 200)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "complete", has_records=True)
    finish_run(run)
    made_words().save(run / "words.json")
    write_evaluation(run, "action-recognition-skeleton-people-seed3", made_evaluation("skeleton", 20.0))
    write_evaluation(run, "action-recognition-video-people-seed3", made_evaluation("video", 41.11))
    (run / "evaluations" / "half-done").mkdir()
    return run


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return read(finished)


def test_the_verdict_comes_first_with_its_reasons(page: Page) -> None:
    places = [page.text.index(words) for words in ("Suspect", "R1", "R2", "What ran", "Evaluations", "Loss", "Health")]
    assert places == sorted(places)
    assert places[0] < 60
    assert "video: healthy, skeleton: suspect" in page.text


def test_what_ran_and_where(page: Page) -> None:
    expected = (
        *("oskar-test", "120 of 1,000", "7,680", "983,040", "1 h 02 min", "28.0 clips/s", "35% of the time"),
        *(
            "100,000, and 17 left out",
            "1 (clip-7: truncated)",
            "Abacus 3000, 6 of 12 cores",
            "bfloat16 (measured faster)",
        ),
        *("oskar 9.8.7", "torch 2.13.0", "Plan-9"),
    )
    for fact in expected:
        assert fact in page.text


def test_every_number_of_the_table(page: Page) -> None:
    """Rows as read: head, then top-1 pretrained, random, chance, then top-5 pretrained, random."""
    rows = [row for row in page.rows if row and row[0] in HEADS]
    expected = []
    for first in (41.11, 20.0):  # video before skeleton
        for h, head in enumerate(HEADS):
            top1, top5 = first + 1.37 * 2 * h, first + 1.37 * (2 * h + 1)
            numbers = (top1, top1 + 30, first / 10, top5, top5 + 30)
            expected.append([head, *(f"{number:.1f}" for number in numbers)])
    assert rows == expected
    assert ["head", "OSKAR", "random weights", "chance", "OSKAR", "random weights"] in page.rows
    assert "397 of 400 clips evaluated, the other 3 count as wrong" in page.text
    assert "± 4.9 points" in page.text  # 1.96 sqrt(0.5 * 0.5 / 400) = 4.9 %
    assert "not finished: half-done" in page.text


def test_a_head_without_top5_and_a_task_of_another_kind(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(CONFIG, recipe="mine"))
    write_evaluation(run, "a", {"task": "x", "modality": "video", "metrics": {"knn_top1": 12.34}})
    controls = {"chance": {"map": 0.03125}, "random_weights": {"map": 0.125, "recall": 5}, "ceiling": {"other": 1.0}}
    counts = {"counts_are_of": "key frames", "n_expected": 9, "n_evaluated": 8}
    metrics = {"map": 0.25, "recall": 7, "by_class": {"bow": 0.5}}
    write_evaluation(run, "b", {"task": "y", "metrics": metrics, "controls": controls, **counts})
    found = read(run)
    assert ["knn", "12.3", "n/a", "n/a", "n/a", "n/a"] in found.rows
    assert ["metric", "mine", "chance", "random weights"] in found.rows
    assert ["map", "0.25", "0.03125", "0.125"] in found.rows
    assert ["recall", "7", "n/a", "5"] in found.rows
    assert not any("by_class" in row for row in found.rows)
    assert "8 of 9 key frames evaluated" in found.text
    assert "OSKAR" not in found.text


def test_the_page_is_whole_in_itself(page: Page) -> None:
    """No scripts, nothing fetched; references lead to ids of the page, which are unique."""
    assert not re.search(
        r"(?i)https?:|//www|@import|<script|<link|<iframe|\bsrc=(?!\"data:image/png;base64,)", page.source
    )
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    references = page.attributes("href")
    assert references
    for reference in references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in ids
    for reference in re.findall(r"url\(([^)]*)\)", page.source):
        assert reference.removeprefix("#") in ids


def test_the_page_fits_a_phone(page: Page) -> None:
    viewports = [attributes for tag, attributes in page.tags if tag == "meta" and attributes.get("name") == "viewport"]
    assert [v["content"] for v in viewports] == ["width=device-width, initial-scale=1"]
    for tag, attributes in page.tags:
        assert tag != "svg" or ("viewbox" in attributes and "width" not in attributes)
    assert not re.search(r"(?<!max-)(?<!min-)width: *\d{3,}px", page.source)


def test_figures_are_told_in_words_too(page: Page) -> None:
    labels = page.attributes("aria-label")
    assert (
        "Mean error per target token over steps. Last: all 0.08333, video 0.08333, skeleton 0.1667, text 0.25."
        in labels
    )
    assert "Gradient norm over steps. Last: fusion 1.2, predictor 120." in labels
    assert "No values in this run." in page.text  # explained_content is null throughout


def test_text_is_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<i>run</i>", replace(CONFIG, recipe="<script>alert(1)</script>"))
    evil = "<img src=x onerror=alert(1)>"
    finish_run(
        run,
        data=[evil],
        bad_clips={evil: evil},
        health={"verdict": evil, "by_modality": {evil: evil}, "reasons": [evil]},
    )
    write_evaluation(run, "e", made_evaluation(evil, 20.0) | {"data": [evil], "split": evil})
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT | {"platform": evil}))
    found = read(run)
    assert not {"script", "img", "i"} & {tag for tag, _ in found.tags}
    assert found.text.count(evil) >= 9
    assert not found.attributes("onerror")


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    found = read(write_run(tmp_path / "run", has_records=True))
    assert found.text.index("Not finished") < found.text.index("step 120 of 1,000")
    assert "There are no evaluations yet" in found.text
    assert "Rank of targets" in found.text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(CONFIG.to_json())
    found = read(run)
    assert "has not logged a step yet" in found.text
    assert "the machine is not known" in found.text
    (run / "metrics.jsonl").write_text('{"step": 10, "split": "train", "loss": null}\n{"step": 20, "sp')
    assert "step 10 of 1,000" in read(run).text


def test_a_healthy_run_without_reasons(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    finish_run(run, health={"verdict": "healthy", "by_modality": {}, "reasons": []})
    assert re.search(r"Healthy Nothing was found against it", read(run).text)
    finish_run(run, health={})
    assert re.search(r"Unknown summary.json holds no verdict", read(run).text)


def with_tokens(**changes: Any) -> Config:
    return replace(CONFIG, tokens=replace(TOKENS, **changes))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (BLOCKS, "one pair of visible and target tokens for each of 2 block settings"),
        (with_tokens(modalities=("skeleton",), n_people=1), "target joint: diamond"),
        (with_tokens(modalities=("video", "text"), n_people=5), "There is no caption to draw"),
        (with_tokens(modalities=("text",)), "there is nothing to draw"),
        (with_tokens(n_frames=24, tubelet_frames=2), "8 of 12 time steps of 2 frames"),
    ],
    ids=["blocks", "skeleton alone", "video and text without words", "text alone", "long clips"],
)
def test_recipes_of_other_kinds(config: Config, says: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config.to_json())
    found = read(run)
    assert says in found.text
    assert ("joint:" in found.text) == ("skeleton" in config.tokens.modalities)
    assert ("tubelet:" in found.text) == ("video" in config.tokens.modalities)


def test_wrong_folders_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run \(no config.json\)"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run")
    for damage in ("{", "[]"):
        (run / "summary.json").write_text(damage)
        with pytest.raises(InputError, match=r"summary\.json"):
            write_report(run)
    (run / "summary.json").unlink()
    write_evaluation(run, "e", {})
    (run / "evaluations" / "e" / "summary.json").write_text("nothing")
    with pytest.raises(InputError, match=r"e/summary\.json"):
        write_report(run)


def test_the_same_run_gives_the_same_page(finished: Path, page: Page, tmp_path: Path) -> None:
    """And it leaves no trace in matplotlib's settings, whatever they are."""
    copy = tmp_path / finished.name
    shutil.copytree(finished, copy)
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "pink"}):
        before = dict(mpl.rcParams)
        assert read(copy).source == page.source
        assert dict(mpl.rcParams) == before


def test_the_drawn_clip_is_what_training_would_see() -> None:
    """Roles of words and counts, against the packed batch of the same clip by the reader of the data."""
    words = made_words()
    batch = draw_people(CONFIG, words)
    assert batch is not None
    assert not batch.is_of_data
    (drawn,) = batch.clips
    reader = PeopleReader(PeopleData(), CONFIG, words, "train", is_labelled=False)
    index = next(i for i in range(16) if reader.clip_id(i) == drawn.clip_id)
    assert batch.is_searched == (index > 0)
    clips = reader.read([index], EvaluationWindow()).clips
    assert clips is not None
    (packed,) = build_batch(clips, CONFIG, 0).views
    (view,) = drawn.views
    for count in view.counts:
        assert count.n_visible == len(packed.visible.tokens[count.modality].token_idx)
        assert count.n_target == len(packed.target.tokens[count.modality].token_idx)
    roles = ["dropped"] * len(view.words)
    for role, part in (("visible", packed.visible), ("target", packed.target)):
        for token in part.tokens["text"].token_idx.tolist():
            roles[token] = role
    assert [word.role for word in view.words] == roles
    caption = generate(PeopleWorld(n_frames=4, resolution=32, n_people=2), torch.arange(16), 0).captions[index]
    pieces = "".join(word.text for word in view.words)
    assert len(pieces) > 20
    assert re.sub(r"\s", "", caption.lower()).startswith(pieces)  # cut at tokens.n_words


def test_every_modality_is_drawn_with_both_kinds_of_tokens() -> None:
    words = made_words()
    for seed in range(4):
        drawn = draw_people(replace(CONFIG, train=replace(CONFIG.train, seed=seed)), words)
        assert drawn is not None
        counts = [count for view in drawn.clips[0].views for count in view.counts]
        assert all(count.n_visible > 0 and count.n_target > 0 for count in counts)


def test_lines_differ_without_colour() -> None:
    shapes = {name: (stroke.dashes, stroke.marker) for name, stroke in STROKES.items()}
    for names in (("all", "video", "skeleton", "text"), ("fusion", "predictor")):
        assert len({shapes[name] for name in names}) == len(names)


def test_a_line_is_where_its_values_are() -> None:
    """Heights in the figure are an affine function of the values, places of the steps."""
    values = (0.3, 0.9, 0.1, 0.4, 0.45)
    svg = line_panel([Series("video", (10.0, 20.0, 30.0, 40.0, 60.0), values)], "test")
    path = re.search(r'<path d="(M [^"]*)" clip-path="[^"]*" style="fill: none; stroke: #1f78b4', svg)
    assert path is not None
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])]
    assert len(points) == 5
    scale = (points[1][1] - points[0][1]) / (0.9 - 0.3)
    assert scale < 0  # upwards
    for (x, y), value, step in zip(points, values, (10, 20, 30, 40, 60), strict=True):
        assert y == pytest.approx(points[0][1] + scale * (value - 0.3), abs=1e-3)
        assert x == pytest.approx(points[0][0] + (points[1][0] - points[0][0]) * (step - 10) / 10, abs=1e-3)


def test_long_lines_are_thinned_to_means() -> None:
    line = Series("video", tuple(float(i) for i in range(700)), tuple(float(i % 3) for i in range(700)))
    thin = thin_out(line)
    assert len(thin.values) == 234 <= MAX_POINTS  # groups of 3
    assert thin.values[:-1] == (1.0,) * 233
    assert thin.steps[:2] == (1.0, 4.0)
    assert thin.values[-1] == 0.0  # the last group is one value, 699 % 3
    short = Series("video", (1.0, 2.0), (5.0, 6.0))
    assert thin_out(short) is short


def test_values_that_are_not_there_are_left_out() -> None:
    records = [{"step": i, "loss": value} for i, value in enumerate((1.0, None, math.nan, 2.0))]
    panel = loss_panel(records, ("video",))
    assert panel.last == "all 2"
    assert "No value for video." in panel.note
    assert all(p.svg is None for p in health_panels(records, ("video",)))
