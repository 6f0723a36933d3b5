"""``import oskar``: every verb is a function, and nothing heavy is imported before it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import oskar

ROOT = Path(__file__).parents[1]
VERBS = {path.stem for path in (ROOT / "oskar" / "cli").glob("*.py")} - {"__init__", "arguments", "recipes"}


@pytest.mark.parametrize("name", sorted(VERBS | set(oskar.__all__)))
def test_every_name_leads_to_a_thing_of_that_name(name: str) -> None:
    assert name in dir(oskar)
    thing = getattr(oskar, name)
    assert callable(thing)
    assert thing.__name__ == name
    assert (thing.__doc__ or "").strip()


def test_unknown_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="'oskar' has no attribute 'pretran'"):
        oskar.pretran  # noqa: B018


def test_importing_is_light() -> None:
    code = "import sys, oskar; print(sorted({'torch', 'numpy', 'lancedb', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
