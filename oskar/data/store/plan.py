"""What decides the bytes of a store, so that one that was begun is gone on with only by the same plan."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from oskar.data.store.arrays_file import NUMPY_TYPES
from oskar.data.store.index import INDEX_FILE, PLAN_FILE, SHARDS_FOLDER, VERSION, TokenizerFacts, read_index
from oskar.data.store.settings import TokenizeConfig
from oskar.data.store.source import ClipSource, n_bytes_at_most
from oskar.errors import InputError
from oskar.files import write_text_atomic


def make_plan(config: TokenizeConfig, source: ClipSource, facts: TokenizerFacts) -> dict[str, Any]:
    """All that decides the bytes of the store."""
    settings = json.loads(json.dumps(asdict(config)))
    for free in ("workers", "max_bad_share"):
        del settings["store"][free]
    token_bytes = facts.width * np.dtype(NUMPY_TYPES[facts.type]).itemsize
    per_shard = int(config.store.shard_mib * 2**20) // n_bytes_at_most(config, token_bytes)
    plan = {
        "version": VERSION,
        "settings": settings,
        "data_sha256": source.sha256,
        "n_clips": len(source),
        "tokenizer": asdict(facts),
        "clips_per_shard": max(per_shard, 1),
    }
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    return plan | {"sha256": digest}


def begin(out: Path, plan: dict[str, Any]) -> bool:
    """Make the folder, or see that what is there was begun with the same plan; True where it is finished."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file", fix="name a folder")
    try:
        (out / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be made: {error}", fix="name a folder that you may write to") from error
    if (out / INDEX_FILE).is_file():
        return _is_same(out, plan)
    path = out / PLAN_FILE
    if not path.is_file():
        write_text_atomic(path, json.dumps(plan, indent=1) + "\n")
        return False
    try:
        begun = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})", fix="remove the folder, or name another --out") from error
    differing = [key for key in plan if key != "sha256" and begun.get(key) != plan[key]]
    if differing:
        raise _begun_otherwise(out, differing[0])
    return False


def _is_same(out: Path, plan: dict[str, Any]) -> bool:
    """True where a finished store was made by this plan."""
    index = read_index((out / INDEX_FILE).read_text("utf-8"), str(out / INDEX_FILE))
    settings = plan["settings"]
    made = json.loads(json.dumps(asdict(index)))
    for key in ("tokens", "clip"):
        if made[key] != settings[key]:
            raise _begun_otherwise(out, key)
    store = {name: settings["store"][name] for name in ("views", "seed", "split")}
    same = {"data_sha256": plan["data_sha256"], "tokenizer": json.loads(json.dumps(plan["tokenizer"])), **store}
    for key, value in same.items():
        if made[key] != value:
            raise _begun_otherwise(out, key)
    return True


def _begun_otherwise(out: Path, key: str) -> InputError:
    return InputError(
        f"--out {out} holds a store that was begun with other {key}",
        fix="repeat the command that began it, or name another --out",
    )
