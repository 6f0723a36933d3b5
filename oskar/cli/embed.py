"""``oskar embed``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

FINISHED_WITH_BAD = 5  # exit code: the file is written, but some clips are not in it


def embed(
    run: Annotated[Path, typer.Argument(help="a pretraining run, a checkpoint, or a folder of save_pretrained")],
    out: Annotated[Path, typer.Option(help="FILE.safetensors or FILE.parquet")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="videos, images, joints, .txt, folders, manifests, people")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="a sentence; repeat for more")] = None,
    modality: Annotated[str | None, typer.Option(help="video, skeleton, text or fused")] = None,
    pool: Annotated[str, typer.Option(help="mean, mean+std, or tokens for the whole grid")] = "mean",
    windows: Annotated[str, typer.Option(help="clip or sliding")] = "clip",
    window_seconds: Annotated[float, typer.Option(help="length of a sliding window")] = 2.0,
    stride_seconds: Annotated[float | None, typer.Option(help="from window to window; default: its length")] = None,
    head: Annotated[Path | None, typer.Option(help="an evaluation of text-video-retrieval, for a common space")] = None,
    split: Annotated[str | None, typer.Option(help="rows of this split alone")] = None,
    workers: Annotated[int, typer.Option(help="processes that read and decode")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto")] = "float32",
) -> None:
    """Write features of videos, skeletons or sentences to a file; the same command goes on after an interruption."""
    from oskar.embedding.embed import EmbedConfig
    from oskar.embedding.embed import embed as run_embed
    from oskar.embedding.windows import WindowConfig
    from oskar.settings import validate

    chosen = modality or ("text" if text else "video")
    sizes = {"kind": windows, "seconds": window_seconds, "stride_seconds": stride_seconds}
    values = {"modality": chosen, "pool": pool, "split": split, "workers": workers}
    values |= {"device": device, "precision": precision}
    config = replace(validate(EmbedConfig, values, "oskar embed"), windows=validate(WindowConfig, sizes, "--windows"))
    done = run_embed(run, paths or [], out, config, text=text or [], head=head)
    typer.echo(f"{done.out}: {done.n_rows} rows of {done.width} numbers, {done.n_new / done.seconds:.1f} rows/s")
    if done.n_left_out:
        typer.echo(f"{done.n_left_out} clips lack {chosen} and were left out")
    if done.n_bad:
        typer.echo(f"{done.n_bad} could not be embedded: see {done.out}.bad.csv")
        raise typer.Exit(FINISHED_WITH_BAD)
