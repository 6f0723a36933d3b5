"""``oskar tokenize``."""

from pathlib import Path
from typing import Annotated

import typer

from oskar.cli.arguments import Overrides
from oskar.recipes import recipe as recipe_named
from oskar.settings import apply_overrides


def tokenize(
    data: Annotated[str, typer.Argument(help="a folder, a manifest, or people[:CLIPS[:SEED]]")],
    out: Annotated[Path, typer.Option(help="the store's folder; a store that was begun there is gone on with")],
    overrides: Overrides = None,
    recipe: Annotated[str, typer.Option(help="whose tokens and clips")] = "oskar-small",
    tokenizer: Annotated[str, typer.Option(help="raw, or the folder of a VideoMAE or V-JEPA 2 model")] = "raw",
    views: Annotated[int, typer.Option(help="windows and crops of each clip")] = 1,
) -> None:
    """Decode and cut clips once, into a token store that `oskar pretrain --data STORE` reads by the token."""
    from oskar.data.store.settings import StoreConfig, TokenizeConfig
    from oskar.data.store.write import tokenize as run

    chosen = recipe_named(recipe)
    config = TokenizeConfig(tokens=chosen.tokens, clip=chosen.clip, store=StoreConfig(views=views))
    index = run(apply_overrides(config, overrides or []), data, out, tokenizer=tokenizer)
    gib = (index.clips.bytes + sum(shard.bytes for shard in index.shards)) / 2**30
    typer.echo(f"{out}: {index.n_clips} clips in {index.views} views, {gib:.2f} GiB in {len(index.shards)} shards")
    for name, reason in index.bad[:20]:
        typer.echo(f"  not read: {name}: {reason}")
    if len(index.bad) > 20:
        typer.echo(f"  and {len(index.bad) - 20} more, listed in {out / 'store.json'}")
