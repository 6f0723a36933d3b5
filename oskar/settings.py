"""Strict settings: build frozen dataclasses from plain values and say exactly what is wrong with them."""

import dataclasses
import difflib
import json
import math
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from oskar.errors import InputError

C = TypeVar("C")


def apply_overrides(config: C, overrides: list[str]) -> C:
    """Apply ``key=value`` strings to a frozen config of any class; the result is validated anew."""
    values: dict[str, Any] = dataclasses.asdict(config)  # type: ignore[call-overload]
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(f"override {override!r} has no '='", fix="write key=value, for example train.steps=1000")
        _set(values, key, _parse(text), known=field_names(type(config)))
    return validate(type(config), values, "overrides")


def validate(cls: type[C], values: dict[str, Any], source: str) -> C:
    """Build ``cls`` from plain values; raise InputError for an unknown key or a wrong type or value."""
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise _unknown_key(key, field_names(cls), source) from error
        raise InputError(
            f"{source}: {key} = {first.get('input')!r}: {first['msg']}", fix=f"correct the value of {key}"
        ) from error


def field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of every setting of a config class, depth first."""
    names: list[str] = []
    for f in dataclasses.fields(cls):
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            names += field_names(f.type, f"{prefix}{f.name}.")
        else:
            names.append(prefix + f.name)
    return names


def _unknown_key(key: str, known: list[str], source: str) -> InputError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    hint = f"did you mean {near[0]}?" if near else "see `oskar recipes`"
    return InputError(f"{source}: unknown key {key!r}", fix=hint)


def _set(values: dict[str, Any], key: str, value: Any, known: list[str]) -> None:
    if key not in known:
        raise _unknown_key(key, known, "overrides")
    *parents, name = key.split(".")
    for parent in parents:
        values = values[parent]
    values[name] = value


def _parse(text: str) -> Any:
    """JSON where the text is a JSON list, object or null; otherwise the text, which the type will parse.

    Python's None is null too, but "none" stays a word: some settings have it among their choices.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None if text == "None" else text
    return value if value is None or isinstance(value, list | dict) else text


def require(condition: bool, key: str, value: object, fix: str) -> None:
    """Raise InputError naming the key, its value and the fix, unless ``condition`` holds."""
    if not condition:
        raise InputError(f"{key} = {value!r} is not valid", fix=fix)


def require_positive(config: object, section: str, *names: str) -> None:
    """The named fields of ``config`` are above 0 and finite."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{section}.{name}", value, "use a positive number")


def require_not_negative(config: object, section: str, *names: str) -> None:
    """The named fields of ``config`` are 0 or more and finite, or None where their type allows it."""
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 <= value < math.inf, f"{section}.{name}", value, "use 0 or more")


def require_share(config: object, section: str, *names: str) -> None:
    """The named fields of ``config`` lie in [0, 1]."""
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{section}.{name}", value, "use a number between 0 and 1")
