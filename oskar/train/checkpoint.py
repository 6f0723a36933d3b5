"""What a run saves to go on from, and to transfer from: safetensors and JSON, never pickles."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from oskar.errors import InputError, StoppedRunError
from oskar.train.sealed import (
    ASIDE,
    read_sealed,
    remove_folder,
    remove_stale,
    tensors_sha256,
    write_sealed,
)

N_KEPT = 2
_STATE = "state.json"
CONFIG_FILE = "config.json"
_STEP_NAME = re.compile(r"step-(\d{8,})")
_ROWS_SHOWN = 10


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write ``run/checkpoints/step-XXXXXXXX`` atomically, then drop all but the newest two.

    ``state`` is plain JSON with finite numbers and gets the key "step". ``files`` maps the names of further files to
    their contents, such as the configuration that the weights need. A checkpoint of the same step is replaced. Only
    one process may save into a run.

    Raises:
        StoppedRunError: it could not be written; names the bytes needed and free, and earlier
            checkpoints are intact.
    """
    folder = run / "checkpoints"
    path = folder / f"step-{step:08d}"
    text = json.dumps({**state, "step": step}, indent=2, allow_nan=False) + "\n"
    try:
        remove_stale(folder)  # before anything is written: it may be what fills the disk
        write_sealed(path, "checkpoint", tensors, {_STATE: text, **(files or {})})
        for old in _checkpoints(run)[:-N_KEPT]:
            remove_folder(old)
    except OSError as error:  # write_sealed names its own
        raise StoppedRunError(
            f"{folder}: an old checkpoint cannot be removed: {error}", fix="check the rights on it"
        ) from error
    return path


def latest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run, None if it has none; unfinished ones are not checkpoints."""
    found = _checkpoints(run)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and state, with the key "step", of a checkpoint whose every byte was checked.

    Raises:
        InputError: missing, truncated, damaged, foreign, or a pickle; names the file and the fix.
    """
    tensors, texts = read_checkpoint(path)
    try:
        state = json.loads(texts[_STATE])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path / _STATE} is not a checkpoint's state ({error!r})", fix=_fallback(path)) from error
    return tensors, state


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and the texts by file name of a checkpoint, checked as ``load_checkpoint`` does."""
    return read_sealed(path, "checkpoint", fix=_fallback(path))


def save_encoder(
    folder: Path, tensors: Mapping[str, Tensor], config_json: str, files: Mapping[str, str] | None = None
) -> None:
    """Write ``RUN/encoder``, all that transfer needs, replacing an older one only when the new is whole.

    ``files`` maps further file names, such as "preprocessing.json", to their contents.

    Raises:
        StoppedRunError: it could not be written; an older encoder is intact.
    """
    write_sealed(folder, "encoder", tensors, {CONFIG_FILE: config_json, **(files or {})})


def load_encoder(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and the texts by file name ("config.json" ...) of an encoder folder, checked.

    Raises:
        InputError: missing, truncated, damaged, foreign, or a pickle; names the file and the fix.
    """
    return read_sealed(folder, "encoder", fix="copy the whole folder again, or write it with `oskar pretrain --resume`")


def encoder_sha256(folder: Path) -> str:
    """What results give as ``checkpoint_sha256``: the SHA-256 of an encoder's weights file."""
    return tensors_sha256(folder, "encoder")


def optimizer_tensors(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The state of an optimiser as "optimizer/<parameter name>/<key>", for example ``.../exp_avg``.

    Parameters that never had a gradient have no state. Learning rate, weight decay and the like
    are not here: they are functions of the step.
    """
    return {
        f"optimizer/{name}/{key}": value
        for name, parameter in _named(optimizer, names).items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    optimizer: Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor], source: str
) -> None:
    """Put back what ``optimizer_tensors`` gave; ``tensors`` may hold other keys, ``source`` names the file in errors.

    Raises:
        InputError: state of a parameter the optimiser does not have, or of another shape.
    """
    parameters = _named(optimizer, names)
    index = {name: i for i, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {}
    unexpected: list[str] = []
    for path, value in under("optimizer/", tensors).items():
        name, _, key = path.rpartition("/")
        wanted = parameters.get(name)
        if wanted is None or (value.dim() > 0 and value.shape != wanted.shape):
            unexpected.append(f"  optimizer/{path}: found {_shape(value)}, wanted {_shape(wanted)}")
        else:
            state.setdefault(index[name], {})[key] = value.clone()  # the file's own memory is mapped
    if unexpected:
        raise _does_not_fit(source, "the optimiser", _first(unexpected, len(unexpected)))
    # torch's own loader knows which optimisers keep their step counts on the parameter's device
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def generator_tensors(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """The states of random generators as uint8 tensors "generator/<name>"."""
    return {f"generator/{name}": generator.get_state() for name, generator in generators.items()}


def load_generator_tensors(
    generators: Mapping[str, torch.Generator], tensors: Mapping[str, Tensor], source: str
) -> None:
    """Put back what ``generator_tensors`` gave.

    Raises:
        InputError: a generator's state is missing or of another kind of device.
    """
    saved = under("generator/", tensors)
    for name, generator in generators.items():
        found, wanted = saved.get(name), generator.get_state()
        if found is None or found.dtype != torch.uint8 or found.shape != wanted.shape:
            row = f"  generator/{name}: found {_shape(found)}, wanted {_shape(wanted)}"
            raise _does_not_fit(source, "the random generators", [row])
        generator.set_state(found.clone())


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_module_strict(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a module's weights if every name, shape and type fits, and otherwise change nothing.

    A type fits if the module's own can hold its every value, as float32 holds bfloat16.

    Raises:
        InputError: with the first keys that are missing, unexpected or of another shape or type.
    """
    require_fit(module.state_dict(), tensors, type(module).__name__, source)
    module.load_state_dict(dict(tensors))


def require_fit(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str, source: str) -> None:
    """Raise InputError with the first keys that are missing, unexpected or of another shape or type, if there are any.

    ``what`` names whose weights ``wanted`` are.
    """
    problems: list[str] = []
    for title, keys in (
        ("missing", [k for k in wanted if k not in tensors]),
        ("unexpected", [k for k in tensors if k not in wanted]),
        ("of another shape or type", [k for k in wanted if k in tensors and not _fits(tensors[k], wanted[k])]),
    ):
        if keys:
            rows = (f"  {k}: found {_shape(tensors.get(k))}, wanted {_shape(wanted.get(k))}" for k in keys)
            problems += [f"{len(keys)} {title}:", *_first(rows, len(keys))]
    if problems:
        raise _does_not_fit(source, what, problems)


def _checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders, oldest first; one that stands aside in a replacement cut short counts."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    steps = {
        int(match[1]): folder / match[0]
        for path in folder.iterdir()
        if path.is_dir() and (match := _STEP_NAME.fullmatch(path.name.removeprefix(ASIDE)))
    }
    return [steps[step] for step in sorted(steps)]


def _fallback(path: Path) -> str:
    others = [p.name for p in _checkpoints(path.parent.parent) if p.name != path.name]
    if not others:
        return "delete this folder and start the run anew: there is no other checkpoint"
    return f"delete this folder, and --resume goes on from {others[-1]}"


def _named(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, nn.Parameter]:
    """The optimiser's parameters by name, in its own order."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    named = {names[parameter]: parameter for parameter in parameters}
    if len(named) < len(parameters):
        raise ValueError("two parameters of the optimiser have one name")
    return named


def _fits(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.promote_types(found.dtype, wanted.dtype) == wanted.dtype


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _first(rows: Iterable[str], n: int) -> list[str]:
    shown = [row for row, _ in zip(rows, range(_ROWS_SHOWN), strict=False)]
    return shown if n <= _ROWS_SHOWN else [*shown, f"  and {n - _ROWS_SHOWN} more"]


def _does_not_fit(source: str, what: str, problems: list[str]) -> InputError:
    table = "\n".join(problems)
    return InputError(
        f"{source} does not fit {what}\n{table}\n",
        fix="it was made by another recipe or size: use the config.json beside it, or a checkpoint of this recipe",
    )
