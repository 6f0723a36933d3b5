"""Recipes against each other: equal budgets, nothing done twice, means and deviations, and what is refused."""

import csv
import json
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pages import Page
from runs import TINY, CommandLine, packed_folder, video_folder

from oskar.comparison import budget as budget_module
from oskar.comparison import compare as compare_module
from oskar.comparison.budget import Budget, seconds_per_step, steps_of
from oskar.comparison.compare import compare
from oskar.comparison.outcome import table_of
from oskar.config import Config
from oskar.errors import InputError, InterruptedRunError, StoppedRunError
from oskar.recipes import recipe
from oskar.reporting.curves import Curve, compared_panels
from oskar.reporting.figures import strokes_of
from oskar.reporting.side_by_side import report, write_compared
from oskar.tasks.recognition import ProbeConfig, evaluate_recognition
from oskar.train.pretrain import pretrain

SMALL = (*TINY, 'tokens.modalities=["skeleton"]')
PROBE = ProbeConfig(steps=4)
RECIPES = ("oskar-tiny", "mae-tiny")


@pytest.fixture
def oskar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_folder(tmp_path_factory.mktemp("data") / "joints", 24)


def run(
    data: Path, out: Path, *, recipes: Sequence[str] = RECIPES, seeds: Sequence[int] = (0, 1), samples: int = 14
) -> dict[str, Any]:
    return compare(recipes, [str(data)], Budget(samples=samples), seeds, out, SMALL, PROBE)


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes on two seeds, 14 clips each: three steps of 4."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    run(data, out)
    return out


def test_every_run_has_the_same_budget_and_its_own_seed(done: Path) -> None:
    values = json.loads((done / "comparison.json").read_text())
    assert (values["format"], values["version"], values["is_complete"]) == ("oskar-comparison", 1, True)
    assert values["budget"] == {"samples": 14}
    runs = {(entry["recipe"], entry["seed"]): entry for entry in values["runs"]}
    assert set(runs) == {(name, seed) for name in RECIPES for seed in (0, 1)}
    for (name, seed), entry in runs.items():
        config = Config.load(done / entry["folder"] / "config.json")
        summary = json.loads((done / entry["folder"] / "summary.json").read_text())
        assert (config.recipe, config.train.seed, config.train.steps) == (name, seed, 3)
        assert entry["steps"] == 3
        assert entry["samples_seen"] == summary["samples_seen"] == 12
        assert entry["verdict"] == summary["health"]["verdict"]
        (evaluated,) = entry["evaluations"]
        (folder,) = (done / entry["folder"] / "evaluations").iterdir()
        result = json.loads((folder / "summary.json").read_text())
        assert result["seed"] == seed
        assert evaluated["metrics"] == result["metrics"]
        assert evaluated["random_weights"] == result["controls"]["random_weights"]
        assert evaluated["n_expected"] == 12
    assert len(values["machines"]) == 1
    assert "torch 2." in values["machines"][0]


def test_the_table_is_the_rows_again(done: Path) -> None:
    """Means and deviations from ``comparison.csv`` by the standard library, and the rows from the evaluations."""
    values = json.loads((done / "comparison.json").read_text())
    with (done / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    order = [(entry["head"], entry["recipe"]) for entry in values["table"]]
    assert order == [(head, name) for head in ("attentive", "linear", "knn") for name in RECIPES]
    for entry in values["table"]:
        of = [r for r in rows if (r["recipe"], r["head"]) == (entry["recipe"], entry["head"])]
        assert [int(r["seed"]) for r in of] == entry["seeds"] == [0, 1]
        for key in ("pretrained_top1", "random_top1", "gain_top1"):
            numbers = [float(r[key]) for r in of]
            assert entry[key]["mean"] == pytest.approx(statistics.fmean(numbers))
            assert entry[key]["sd"] == pytest.approx(statistics.stdev(numbers))
        for r in of:
            assert float(r["gain_top1"]) == pytest.approx(float(r["pretrained_top1"]) - float(r["random_top1"]))
            assert float(r["chance_top1"]) == entry["chance_top1"]


def test_means_and_deviations_by_hand() -> None:
    rows = [
        {"data": "d", "modality": "video", "head": "linear", "recipe": name, "seed": seed, "chance_top1": 10.0,
         "pretrained_top1": top, "random_top1": 20.0, "gain_top1": top - 20.0}
        for name, seed, top in (("a", 0, 30.0), ("a", 1, 32.0), ("a", 2, 40.0), ("b", 0, 50.0))
    ]  # fmt: skip
    first, second = table_of(rows)
    assert first["pretrained_top1"] == {"mean": 34.0, "sd": pytest.approx(28.0**0.5)}  # (16 + 4 + 36) / 2
    assert first["gain_top1"] == {"mean": 14.0, "sd": pytest.approx(28.0**0.5)}
    assert second["pretrained_top1"] == {"mean": 50.0, "sd": None}
    assert (first["seeds"], second["seeds"]) == ([0, 1, 2], [0])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is pretrained ("p") and evaluated ("e") from here on."""
    calls: list[str] = []

    def counting_pretrain(config: Config, data: Sequence[str], out: Path, *, resume: bool = False) -> dict[str, Any]:
        calls.append(f"p {out.name} {resume}")
        return pretrain(config, data, out, resume=resume)

    def counting_evaluate(folder: Path, *rest: Any) -> dict[str, Any]:
        calls.append(f"e {folder.name}")
        return evaluate_recognition(folder, *rest)

    monkeypatch.setattr(compare_module, "pretrain", counting_pretrain)
    monkeypatch.setattr(compare_module, "evaluate_recognition", counting_evaluate)
    return calls


def test_what_is_finished_is_not_done_again(done: Path, data: Path, counted: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = json.loads((out / "comparison.json").read_text())
    assert run(data, out) == before
    assert counted == []
    # one run killed before its end, one while it was evaluated, one before it began
    (out / "runs/oskar-tiny-seed0/summary.json").unlink()
    (evaluation,) = (out / "runs/mae-tiny-seed0/evaluations").iterdir()
    (evaluation / "summary.json").unlink()
    shutil.rmtree(out / "runs/mae-tiny-seed1")
    (out / "runs/mae-tiny-seed1").mkdir()
    (out / "runs/mae-tiny-seed1/words.json").write_text("left over")
    again = run(data, out)
    assert counted == ["p oskar-tiny-seed0 True", "e mae-tiny-seed0", "p mae-tiny-seed1 False", "e mae-tiny-seed1"]
    assert again["table"] == before["table"]  # the same clips, masks, weights and heads


@pytest.mark.slow
def test_recipes_and_seeds_may_be_added(done: Path, data: Path, counted: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    values = run(data, out, recipes=("mae-tiny",), seeds=(0, 2))
    assert counted == ["p mae-tiny-seed2 False", "e mae-tiny-seed2"]
    assert [entry["folder"] for entry in values["runs"]] == ["runs/mae-tiny-seed0", "runs/mae-tiny-seed2"]


def test_another_comparison_in_the_folder_is_refused(done: Path, data: Path, tmp_path: Path) -> None:
    other = packed_folder(tmp_path / "other", 12)
    for change, words in (
        ({"samples": 20}, r'budget = \{"samples": 14\}, not \{"samples": 20\}'),
        ({"data": other}, "data = "),
    ):
        arguments: dict[str, Any] = {"data": data, "out": done, **change}
        with pytest.raises(InputError, match=words):
            run(**arguments)
    with pytest.raises(InputError, match="overrides = "):
        compare(RECIPES, [str(data)], Budget(samples=14), [0], done, [*SMALL, "train.lr=0.5"], PROBE)
    with pytest.raises(InputError, match="probe = "):
        compare(RECIPES, [str(data)], Budget(samples=14), [0], done, SMALL, ProbeConfig(steps=5))
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"full holds something else \(no plan.json\)"):
        run(data, full)
    (full / "plan.json").write_text('{"steps": 3')
    with pytest.raises(InputError, match=r"plan\.json cannot be read"):
        run(data, full)


def test_a_run_of_other_settings_in_its_place_is_refused(done: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    path = out / "runs/oskar-tiny-seed0/config.json"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    with pytest.raises(InputError, match="oskar-tiny-seed0 holds a run with other settings"):
        run(data, out)


def test_a_run_that_stops_is_listed_and_the_others_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oskar: CommandLine
) -> None:
    def stopping(config: Config, data: Sequence[str], out: Path, *, resume: bool = False) -> dict[str, Any]:
        if config.recipe == "oskar-tiny":
            raise StoppedRunError("step 1: loss nan", fix="lower train.lr")
        return pretrain(config, data, out, resume=resume)

    monkeypatch.setattr(compare_module, "pretrain", stopping)
    words = ("--data", data, "--budget-samples", 4, "--seeds", "0", "--out", tmp_path / "out", *SMALL, "probe.steps=2")
    code, printed = oskar("compare", *RECIPES, *words)
    assert code == 3
    assert "oskar-tiny-seed0" in printed
    assert "loss nan" in printed
    values = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [entry["status"] for entry in values["runs"]] == ["stopped", "finished"]
    assert {row["recipe"] for row in values["table"]} == {"mae-tiny"}
    found = Page((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert "runs/oskar-tiny-seed0 stopped: step 1: loss nan" in found.text


def test_an_interruption_says_how_to_go_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: Any, **more: Any) -> dict[str, Any]:
        raise InterruptedRunError("SIGINT after step 1", fix="go on with --resume")

    monkeypatch.setattr(compare_module, "pretrain", interrupted)
    with pytest.raises(InterruptedRunError, match="give the same command again"):
        run(data, tmp_path / "out")


def test_steps_of_a_budget() -> None:
    config = recipe("oskar-tiny")  # batches of 32
    assert steps_of(Budget(samples=100), config, [], Path()) == 3
    with pytest.raises(InputError, match="oskar-tiny: a step of 32 clips is more than the budget"):
        steps_of(Budget(samples=31), config, [], Path())


def test_minutes_become_steps_without_the_start_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(config: Config, data: Sequence[str], out: Path) -> dict[str, Any]:
        out.mkdir(parents=True)
        assert list(data) == ["people"]
        return {"wall_seconds": 7.0 + 0.25 * config.train.steps}

    monkeypatch.setattr(budget_module, "pretrain", timed)
    assert seconds_per_step(recipe("oskar-tiny"), ["people"], tmp_path / "x") == pytest.approx(0.25)
    assert not (tmp_path / "x").exists()
    assert steps_of(Budget(minutes=1.5), recipe("oskar-tiny"), ["people"], tmp_path / "x") == 360
    monkeypatch.setattr(budget_module, "pretrain", lambda config, data, out: {"wall_seconds": 5.0})
    assert seconds_per_step(recipe("oskar-tiny"), ["people"], tmp_path / "x") == pytest.approx(5.0 / 25)  # timing noise


def test_a_budget_is_one_positive_number() -> None:
    for arguments in ({}, {"samples": 3, "minutes": 1.0}, {"samples": 0}, {"minutes": -1.0}, {"minutes": float("inf")}):
        with pytest.raises(InputError, match="--budget-"):
            Budget(**arguments)


def test_minutes_are_measured_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that a trial gave stay those of the comparison, however fast the machine is later."""
    out = tmp_path / "out"
    monkeypatch.setattr(budget_module, "seconds_per_step", lambda config, data, scratch: 0.5)
    values = compare(["oskar-tiny"], [str(data)], Budget(minutes=0.02), [0], out, SMALL, PROBE)
    assert json.loads((out / "plan.json").read_text())["steps"] == {"oskar-tiny": 2}
    assert values["budget"] == {"minutes": 0.02}
    monkeypatch.setattr(budget_module, "seconds_per_step", lambda config, data, scratch: 0.1)
    again = compare(["oskar-tiny"], [str(data)], Budget(minutes=0.02), [0], out, SMALL, PROBE)
    assert again["runs"][0]["steps"] == values["runs"][0]["steps"] == 2
    assert "0.02 minutes of training" in Page(write_compared(out).read_text("utf-8")).text


def test_wrong_words_are_refused_before_anything_trains(
    oskar: CommandLine, data: Path, tmp_path: Path, counted: list[str]
) -> None:
    videos = video_folder(tmp_path / "videos", 2)
    common = ("--data", data, "--budget-samples", 8, *SMALL)
    for words, named in (
        (("oskar-tny", *common), ("oskar-tny", "oskar-tiny")),
        (("oskar-tiny", "oskar-tiny", *common), ("one twice",)),
        (("oskar-tiny", *common, "--seeds", "0,x"), ("--seeds", "0,x")),
        (("oskar-tiny", *common, "--seeds", "1,1"), ("seeds 1, 1",)),
        (common, ("nothing to compare",)),
        (("oskar-tiny", "--data", data, *SMALL), ("--budget-samples None and --budget-minutes None",)),
        (("oskar-tiny", *common, "--budget-minutes", 1), ("one of the two",)),
        (("oskar-tiny", *common, "train.step=3"), ("train.step", "train.steps")),
        (("oskar-tiny", *common, "probe.step=3"), ("'step'", "steps")),
        (("oskar-tiny", "--data", tmp_path / "no", "--budget-samples", 8), ("no: does not exist",)),
        (("oskar-tiny", "--budget-samples", 8), ("--data",)),
        (("oskar-tiny", "--data", videos, "--budget-samples", 8), ("nothing to evaluate it on", "labelled data")),
        (("vjepa-tiny", "--data", data, "--budget-samples", 8), ("joints", "no clip has any of video")),
    ):
        code, printed = oskar("compare", *words, "--out", tmp_path / "out")
        assert code == 2, printed
        for part in (*named, "Fix: "):
            assert part in printed
        assert counted == []
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_a_recipe_cannot_be_evaluated_on_is_listed(data: Path, tmp_path: Path) -> None:
    """Video and skeletons are trained together where only some of the data have each."""
    videos = video_folder(tmp_path / "clips", 8, label=lambda i: "ab"[i % 2], split=lambda i: ("train", "test")[i // 4])
    words = [*TINY, 'tokens.modalities=["video","skeleton"]']
    values = compare(["oskar-tiny"], [str(videos), str(data)], Budget(samples=8), [0], tmp_path / "out", words, PROBE)
    (entry,) = values["runs"]
    assert [(e["data"], e["modality"]) for e in entry["evaluations"]] == [("clips", "video"), ("joints", "skeleton")]
    first, second = entry["not_applicable"]
    assert first.startswith("skeleton on ")
    assert second.startswith("video on ")
    text = Page(write_compared(tmp_path / "out").read_text("utf-8")).text
    assert "oskar-tiny has no evaluation of skeleton on" in text


@pytest.mark.slow
def test_the_three_tiny_recipes_run_in_it(tmp_path: Path) -> None:
    videos = video_folder(tmp_path / "clips", 8, label=lambda i: "ab"[i % 2], split=lambda i: ("train", "test")[i // 4])
    words = [word for word in TINY if not word.startswith("masking")]
    recipes = ["oskar-tiny", "vjepa-tiny", "mae-tiny"]
    values = compare(recipes, [str(videos)], Budget(samples=12), [0], tmp_path / "out", words, PROBE)
    assert [entry["samples_seen"] for entry in values["runs"]] == [12, 12, 12]
    assert {row["recipe"] for row in values["table"]} == set(recipes)


@pytest.fixture(scope="module")
def page(done: Path) -> Page:
    path = write_compared(done)
    assert path == done / "report.html"
    return Page(path.read_text("utf-8"))


def test_the_page_of_a_comparison(done: Path, page: Page) -> None:
    values = json.loads((done / "comparison.json").read_text())
    for entry in values["table"]:
        row = next(r for r in page.rows if r[:2] == [f"skeleton on joints, {entry['head']}", entry["recipe"]])
        gain = entry["gain_top1"]
        assert row[2] == f"{entry['pretrained_top1']['mean']:.1f} ± {entry['pretrained_top1']['sd']:.1f}"
        assert row[4] == f"{gain['mean']:+.1f} ± {gain['sd']:.1f}"
        assert row[6] == "0, 1"
    assert "Every run had 14 clips of joints." in page.text
    assert values["machines"][0] in page.text
    assert page.text.index("Frozen accuracy") < page.text.index("Verdicts") < page.text.index("Curves")


def test_settings_that_differ_and_no_others(page: Page) -> None:
    start = next(i for i, row in enumerate(page.rows) if row[:1] == ["setting"])
    assert page.rows[start][1:] == ["oskar-tiny-seed0", "mae-tiny-seed0", "oskar-tiny-seed1", "mae-tiny-seed1"]
    settings = {}
    for row in page.rows[start + 1 :]:
        if row[0] == "metric":
            break
        settings[row[0]] = row[1:]
    assert settings["train.seed"] == ["0", "0", "1", "1"]
    assert settings["target.space"] == ["latent", "input"] * 2
    assert settings["momentum.video"] == ["1.0", "null"] * 2
    ours, theirs = (recipe(name).with_overrides(list(SMALL)) for name in RECIPES)
    expected = {
        f"{section}.{key}"
        for section, values in asdict(ours).items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != asdict(theirs)[section][key]
    }
    assert set(settings) == expected | {"recipe", "train.seed"}


def test_curves_lie_over_clips_seen_with_a_line_for_each_recipe(page: Page) -> None:
    legend = page.source[page.source.index('<ul class="lines">') :]
    legend = legend[: legend.index("</ul>")]
    assert legend.count("<li>") == 2  # two recipes; their seeds are drawn alike
    assert any(label.startswith("Mean error per target token over clips seen. Last: oskar-tiny ")
               for label in page.attributes("aria-label"))  # fmt: skip
    assert "errors are not to be compared" in page.text
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))


def test_runs_of_other_batch_sizes_lie_at_the_clips_they_saw() -> None:
    """Steps 10, 20 and 30 of batches of 4 are at the places of steps 5, 10 and 15 of batches of 8."""
    losses = [{"loss": value} for value in (3.0, 2.0, 1.0)]
    curves = [
        Curve(name, [{"step": step * k, **loss} for k, loss in zip((1, 2, 3), losses, strict=True)], batch_size)
        for name, step, batch_size in (("a", 10, 4), ("b", 5, 8), ("c", 10, 8))
    ]
    strokes = strokes_of(["a", "b", "c"])
    (panel,) = compared_panels(curves, [], strokes)
    assert panel.svg is not None
    assert panel.over == "clips seen"
    places = []
    for stroke in strokes.values():
        style = rf'clip-path="[^"]*" style="fill: none; [^"]*stroke: {stroke.colour}'
        path = re.search(rf'<path d="(M [^"]*)" {style}', panel.svg)
        assert path is not None
        places.append([float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])])
    a, b, c = places
    assert a == pytest.approx(b)
    assert c[0] == pytest.approx(a[1])  # step 10 of batches of 8 is 80 clips
    assert c[1] - c[0] == pytest.approx(2 * (a[1] - a[0]), rel=1e-3)


def test_runs_side_by_side(done: Path, tmp_path: Path) -> None:
    runs = [done / "runs" / f"{name}-seed0" for name in RECIPES]
    path = report(runs, out=tmp_path / "page.html")
    found = Page(path.read_text("utf-8"))
    results = [json.loads(next(run.glob("evaluations/*/summary.json")).read_text()) for run in runs]
    row = next(row for row in found.rows if row[0] == "linear_top1")
    for cell, result in zip(row[1:], results, strict=True):
        pair = (result["metrics"]["linear_top1"], result["controls"]["random_weights"]["linear_top1"])
        assert cell == " / ".join(f"{value:.4g}" for value in pair)
    verdicts = next(row for row in found.rows if row[:2] == ["oskar-tiny-seed0", "oskar-tiny"])
    assert verdicts[3:5] == ["3", "12"]
    assert not any(tag == "script" for tag, _ in found.tags)
    copy = tmp_path / "elsewhere" / "oskar-tiny-seed0"
    shutil.copytree(runs[0], copy)
    found = Page(report([runs[0], copy]).read_text("utf-8"))
    assert "runs/oskar-tiny-seed0, elsewhere/oskar-tiny-seed0" in found.text
    assert "All settings are the same." in found.text
    assert (runs[0] / "comparison.html").is_file()
    (runs[0] / "comparison.html").unlink()


def test_reports_that_cannot_be_written_are_refused(done: Path, tmp_path: Path, oskar: CommandLine) -> None:
    first, second = (done / "runs" / f"{name}-seed0" for name in RECIPES)
    for words, named in (
        ((first, first), "one run twice"),
        ((first, second, "--data", "people"), "draws no clips"),
        ((first, tmp_path), "holds no run"),
        ((first, "--out", tmp_path), "cannot be a file"),
        ((first, "--out", tmp_path / "no" / "page.html"), "cannot be a file"),
    ):
        code, printed = oskar("report", *words)
        assert code == 2
        assert named in printed
        assert "Fix: " in printed
    with pytest.raises(InputError, match=r"holds no comparison \(no comparison.json\)"):
        write_compared(tmp_path)
