"""``oskar check``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from oskar.errors import InputError


def check(
    data: Annotated[str, typer.Argument(help="a folder or a manifest")],
    out: Annotated[Path | None, typer.Option(help="where to write; default: beside the data")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: one for each core")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="a tokenizer.json that captions must suit")] = None,
    split_column: Annotated[str | None, typer.Option(help="the column of the splits")] = None,
) -> None:
    """Open every file of a data set before training; write audit.json and quarantine.csv, delete nothing."""
    from oskar.data.audit.audit import check as run

    audit = run(data, out, workers=workers, tokenizer=tokenizer, split_column=split_column)
    _show(audit)
    if audit["n_errors"]:
        raise InputError(
            f"data {data}: {audit['n_errors']} errors, {audit['n_quarantined']} clips in quarantine",
            fix="repair the files and check again; pretraining leaves the clips in quarantine.csv out",
        )


def _show(audit: dict[str, Any]) -> None:
    console = Console()
    counts = audit["counts"]
    parts = [f"{n} {name}" for name, n in counts["modalities"].items()]
    splits = ", ".join(f"{name} {n}" for name, n in counts["splits"].items())
    console.print(f"{audit['n_checked']} of {audit['n_listed']} clips checked: {', '.join(parts)}; splits: {splits}")
    if not audit["findings"]:
        console.print("nothing found")
        return
    table = Table("", "kind", "times", "the first of them", "what to do", box=None)
    first = {finding["kind"]: finding for finding in reversed(audit["findings"])}
    for finding in sorted(first.values(), key=lambda finding: str(finding["severity"])):
        times = str(audit["by_kind"][finding["kind"]])
        table.add_row(finding["severity"], finding["kind"], times, escape(finding["message"]), escape(finding["fix"]))
    console.print(table)
    console.print(f"{audit['n_errors']} errors, {audit['n_warnings']} warnings; all of them in audit.json")
