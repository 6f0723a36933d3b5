"""A run folder as one static page: verdict first, then what it ran, results, curves and pictures."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from oskar.files import write_text_atomic
from oskar.reporting.curves import health_panels, loss_panel, optimisation_panels
from oskar.reporting.facts import facts, machine, verdict
from oskar.reporting.pictures import draw_pictures
from oskar.reporting.results import evaluation_groups, unfinished_evaluations
from oskar.reporting.run_folder import read_run

REPORT = "report.html"


def write_report(run: Path, data: Sequence[str] = (), out: Path | None = None) -> Path:
    """Write a run's page, ``RUN/report.html`` unless ``out`` is given, and return its path.

    The page is whole in itself: no scripts, nothing fetched. Pictures are drawn on clips of ``data``, or of
    the data that the run learned from if they are still there. A run without a summary (interrupted,
    or still going), without evaluations, without data or without a checkpoint gets a page that says so.

    Raises:
        InputError: no run folder, one of its files is damaged, or ``data`` cannot be read.
    """
    folder = read_run(run)
    config, records, modalities = folder.config, folder.records, folder.modalities
    text = render(
        "page.html",
        {
            "run_name": folder.name,
            "recipe": config.recipe,
            "label": "OSKAR" if config.recipe.startswith("oskar") else config.recipe,
            "verdict": verdict(folder.summary, folder.last_step, config.train.steps),
            "facts": facts(config, folder.summary, folder.last_step),
            "machine": machine(folder.environment),
            "evaluations": evaluation_groups(run),
            "unfinished": unfinished_evaluations(run),
            "has_records": bool(records),
            "loss": loss_panel(records, modalities),
            "health": health_panels(records, modalities),
            "optimisation": optimisation_panels(records),
            "pictures": draw_pictures(folder, data),
            "masking": config.masking,
            "seed": config.train.seed,
            "tubelet_frames": config.tokens.tubelet_frames,
            "modalities": modalities,
        },
    )
    path = run / REPORT if out is None else out
    write_text_atomic(path, text)
    return path


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page from one of the templates beside this file; what ``values`` lacks is an error."""
    folder = resources.files("oskar.reporting")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
