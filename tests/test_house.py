"""The house rules, held by reading the source: layers, sizes, names, safety, and that the prose names real things."""

import ast
import dataclasses
import graphlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from oskar.config import Config
from oskar.settings import field_names

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "oskar"
MODULES = sorted(PACKAGE.rglob("*.py"))
EVERYWHERE = sorted(p for folder in ("oskar", "tests", "benchmarks", "examples") for p in (ROOT / folder).rglob("*.py"))

# Imports go from right to left: a module may import its own layer and those before it.
LAYERS = (
    *("errors", "files", "progress", "settings", "randomness", "config", "recipes", "modalities", "clip"),
    *("tokens", "masking", "model", "targets"),
    *("pretraining", "data", "preparation", "metrics", "train", "planning", "tasks"),
    *("sharing", "embedding", "searching", "comparison", "reporting", "demonstration", "cli"),
)
# A recipe is the caller's choice, so nothing that a recipe configures may know one by name.
FIRST_TO_KNOW_RECIPES = "train"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
NAMES_THAT_SAY_NOTHING = {"util", "utils", "misc", "common", "helper", "helpers"}
PICKLE_READERS = {"dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_LOADERS = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module a file imports, inside functions too."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in NAMES else base


def layer(module: str) -> str:
    return module.split(".")[1]


def height(module: str) -> int:
    """Place of a module in the order; the front doors see everything."""
    if module in ("oskar", "oskar.__main__"):
        return len(LAYERS)
    assert layer(module) in LAYERS, f"give {module} a place in LAYERS"
    return LAYERS.index(layer(module))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_one_way(path: Path) -> None:
    name = module_name(path)
    for line, target in imports(path):
        where = f"{relative(path)}:{line}: {name} imports {target}"
        if target.split(".")[0] != "oskar":
            continue
        assert target in NAMES, f"{where}, which does not exist"
        assert target != "oskar", f"{where}: import the module itself, not the package's front door"
        assert height(target) <= height(name), f"{where}, a later layer"
        if layer(target) == "recipes":
            is_late = "recipes" in name.split(".") or height(name) >= height(f"oskar.{FIRST_TO_KNOW_RECIPES}")
            assert is_late, f"{where}: it knows a recipe by name"


def test_no_import_cycles() -> None:
    graph = {module_name(p): {t for _, t in imports(p) if t in NAMES} - {module_name(p)} for p in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_every_folder_of_modules_is_a_package_and_data_files_are_shipped() -> None:
    folders = {p.parent for p in MODULES}
    bare = [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]
    assert not bare, f"without __init__.py a wheel leaves these out: {bare}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["oskar"]
    others = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    left_out = [relative(p) for p in others if not any(fnmatch(str(p.relative_to(PACKAGE)), g) for g in globs)]
    assert not left_out, f"no package-data pattern ships these: {left_out}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_sizes_and_names(path: Path) -> None:
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= MAX_FILE_LINES, f"{relative(path)} has {n_lines} lines"
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert n_lines <= MAX_FUNCTION_LINES, f"{relative(path)}:{node.lineno}: {node.name} has {n_lines} lines"
    assert not NAMES_THAT_SAY_NOTHING & set(module_name(path).split(".")), f"{relative(path)}: a name that says nothing"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_broad_except_and_no_pickles(path: Path) -> None:
    """An official pickle may be read by a subclass of ``pickle.Unpickler`` whose ``find_class`` lets little through."""
    for node in ast.walk(parse(path)):
        where = f"{relative(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            assert None not in caught, f"{where}: bare except"
            names = {getattr(c, "id", getattr(c, "attr", "")) for c in caught}
            assert not names & {"Exception", "BaseException"}, f"{where}: broad except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
            assert called not in UNSAFE_LOADERS, f"{where}: {called} runs what a pickle says"
        if isinstance(node, ast.ImportFrom):
            taken = {f"{node.module}.{alias.name}" for alias in node.names}
            assert not taken & UNSAFE_LOADERS, f"{where}: {taken & UNSAFE_LOADERS}"
        if isinstance(node, ast.ClassDef) and "Unpickler" in {getattr(b, "attr", "") for b in node.bases}:
            defined = {f.name for f in node.body if isinstance(f, ast.FunctionDef)}
            assert "find_class" in defined, f"{where}: an unrestricted unpickler"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert getattr(node.value, "value", None) is False, f"{where}: allow_pickle"
    readers = [(line, name) for line, name in imports(path) if name.split(".")[0] in PICKLE_READERS]
    assert not readers, f"{relative(path)}: {readers}"


@pytest.mark.parametrize("path", EVERYWHERE, ids=relative)
def test_nobody_imports_torchvision(path: Path) -> None:
    found = [(line, name) for line, name in imports(path) if name.split(".")[0] in ("torchvision", "timm")]
    assert not found, f"{relative(path)}: {found}"


STATE_BEFORE_AND_AFTER = """
import importlib, logging, os, pkgutil, random, signal, sys
import matplotlib, numpy, torch

for name in sys.argv[1:]:  # what other libraries do when imported is not ours to answer for
    importlib.import_module(name)

def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ), "folder": os.getcwd(), "sys.path": list(sys.path),
        "random": random.getstate(), "numpy": str(numpy.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().tolist(), "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "gradients": torch.is_grad_enabled(),
        "matmul": torch.get_float32_matmul_precision(), "backend": matplotlib.get_backend(auto_select=False),
        "handlers": list(root.handlers), "level": root.level, "excepthook": sys.excepthook,
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], "print": print,
    }

before = state()
import oskar
for found in pkgutil.walk_packages(oskar.__path__, "oskar."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
after = state()
assert not (changed := [key for key in before if before[key] != after[key]]), changed
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_importing_has_no_effect() -> None:
    others = {name for path in MODULES for _, name in imports(path) if name.split(".")[0] != "oskar"}
    done = run_python(STATE_BEFORE_AND_AFTER, *sorted(others))
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "")


def test_importing_the_package_loads_no_drawing_and_no_statistics() -> None:
    done = run_python("import sys, oskar; print(sorted({'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def config_fields() -> list[tuple[str, str]]:
    """Class and name of every setting: the fields of all classes called ``...Config``."""
    return [
        (node.name, statement.target.id)
        for path in MODULES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and not ast.unparse(statement.annotation).startswith("ClassVar")
    ]


@cache
def names_read() -> frozenset[str]:
    """Attributes the package reads as data; a name that is only ever called is a method, not a setting."""
    names: set[str] = set()
    for path in MODULES:
        if module_name(path).startswith(("oskar.config", "oskar.recipes")):
            continue
        called = {id(node.func) for node in ast.walk(parse(path)) if isinstance(node, ast.Call)}
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in called:
                names.add(node.attr)
    return frozenset(names)


@pytest.mark.parametrize(("owner", "name"), config_fields())
def test_every_setting_is_read(owner: str, name: str) -> None:
    assert name in names_read(), f"{owner}.{name} is a setting nobody reads: use it or remove it"


def register() -> dict[str, str]:
    """The rows of the register of assumptions in docs/architecture.md, by id."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return dict(re.findall(r"^\| (A\d+) \| (.*) \|$", text, flags=re.MULTILINE))


def test_the_register_lists_every_assumption() -> None:
    assert list(register()) == [f"A{i}" for i in range(1, 43)]


def test_the_register_agrees_with_the_defaults() -> None:
    defaults = dataclasses.asdict(Config(recipe="defaults"))
    n_checked = 0
    for assumption, row in register().items():
        for key, value in re.findall(r"`([a-z]+\.[a-z_]+) = ([^`]+)`", row):
            assert key in field_names(Config), f"{assumption}: there is no setting {key}"
            section, name = key.split(".")
            stored = json.loads(json.dumps(defaults[section][name]))
            assert stored == json.loads(value), f"{assumption}: {key} is {stored}, the register says {value}"
            n_checked += 1
    assert n_checked > 20


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_documents_name_real_things(document: str) -> None:
    """Paths exist; ``oskar/file.py: Name`` is defined in that file; commands and settings exist."""
    text = (ROOT / document).read_text()
    for path, names in re.findall(r"`((?:oskar|tests|docs|benchmarks|examples)/[\w./]*)(?:: ([\w., ]+))?`", text):
        assert (ROOT / path).exists(), f"{document}: {path} does not exist"
        for name in filter(None, names.split(", ")):
            assert name in defined_names(ROOT / path), f"{document}: {path} does not define {name}"
    commands = {path.stem for path in (PACKAGE / "cli").glob("*.py")}
    for verb in re.findall(r"(?:^|`)oskar +([a-z]+)", text, flags=re.MULTILINE):
        assert verb in commands, f"{document}: there is no command {verb}"
    sections = "|".join(f.name for f in dataclasses.fields(Config) if f.name != "recipe")
    known = field_names(Config)
    for key in re.findall(rf"`((?:{sections})\.[a-z_0-9]+)(?: ?=[^`]*)?`", text):
        assert key in known, f"{document}: there is no setting {key}"


def defined_names(path: Path) -> set[str]:
    """Classes, functions, methods (``Class.method``), assigned names and attributes of a file."""
    names: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_the_tree_in_the_readme_is_the_tree() -> None:
    """Every module folder and every top-level module has its line, and no line names what is gone."""
    block = re.search(r"```text\noskar/\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert block is not None
    listed = {line.split()[0].rstrip("/") for line in block.group(1).splitlines() if line.startswith("  ")}
    real = {p.name for p in PACKAGE.iterdir() if p.name != "__pycache__" and (p.is_dir() or p.suffix == ".py")}
    assert listed == real - {"__init__.py", "__main__.py"}


def test_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def dry_run(*arguments: str) -> str:
    command = ["make", "--dry-run", "--always-make", "test", "VENV=elsewhere", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=True).stdout


def test_make_pins_the_cpu_build_unless_told_otherwise() -> None:
    pinned, free = dry_run(), dry_run("CONSTRAINTS=")
    assert pinned.count("-c constraints/cpu.txt") == 1
    assert "-c " not in free.replace("python3 -c ", "")
    assert "--extra-index-url elsewhere torch" in dry_run("TORCH_INDEX=elsewhere")


def test_ci_run_is_a_valid_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
