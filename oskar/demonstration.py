"""``oskar demo``: synthetic people, pretraining, frozen probes against random weights, one page."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from oskar.config import Config
from oskar.modalities import Modality
from oskar.reporting.page import write_report
from oskar.tasks.recognition import HEADS, ProbeConfig, evaluate_recognition
from oskar.train.pretrain import pretrain

MODALITIES: tuple[Modality, ...] = ("video", "skeleton")


def demo(out: Path, config: Config) -> None:
    """Run everything into ``out`` and print the verdict and the table; all of it is in ``report.html``."""
    console = Console()
    summary = pretrain(config, ["people"], out)
    table = Table("modality", "head", "OSKAR", "random weights", "chance", title="frozen accuracy on unseen people, %")
    for modality in MODALITIES:
        result = evaluate_recognition(
            out,
            ["people"],
            modality,
            out / "evaluations" / f"action-recognition-{modality}-people-seed0",
            ProbeConfig(steps=200),
        )
        controls = result["controls"]
        for head in HEADS:
            key = f"{head}_top1"
            table.add_row(
                modality,
                head,
                f"{result['metrics'][key]:.1f}",
                f"{controls['random_weights'][key]:.1f}",
                f"{controls['chance']:.1f}",
            )
    health = summary["health"]
    console.print(f"verdict: {health['verdict']}", *health["reasons"], sep="\n  ")
    console.print(table)
    console.print(f"report: {write_report(out)}")
