"""The house rules: style, types, floors, light imports, pinned versions, one environment in three files."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import s3pet_viz

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "s3pet_viz"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MOST_LINES = 450
FACE = {
    "estimate", "register_family",
    "search", "open_run", "tune", "baselines", "score", "figures", "Structure", "Run", "Gate", "Callback", "Scores",
    "SearchConfig", "load_task", "load_backbone", "TuneConfig", "parse_budget", "errors", "__version__",
    "launch", "watch", "widgets", "explain", "Explanation", "health", "trust", "report", "from_s3delta",
    "sweep", "transfer", "open_study", "Study", "Transfer",
    "Adapter", "to_peft", "merge", "evaluate", "to_s3delta", "positions", "why_not", "what_if", "open_runs", "RunTable",
}  # fmt: skip


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, text=True, capture_output=True, check=False, env={**os.environ, **environment}, timeout=1800
    )


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


# -- style, types, floors ----------------------------------------------------------------------------------


def test_ruff():
    result = run(tool("ruff"), "check", ".", "--output-format", "concise")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_formatter_lays_out_the_package():
    result = run(tool("ruff"), "format", "--check", "s3pet_viz")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not [path for path in PACKAGE.rglob("*.py") if "# fmt:" in path.read_text()]


def test_mypy():
    result = run(tool("mypy"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_floors():
    result = run(tool("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_long(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{path}: expected at most {MOST_LINES} lines, found {lines}"


def test_the_picture_of_the_house_has_every_room():
    picture = (ROOT / "CONTRIBUTING.md").read_text().split("## The house")[1].split("```")[1]
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"cli"}
    drawn = [left or right for left, right in re.findall(r"^  (\w+)/|\|  (\w+)/", picture, re.MULTILINE)]
    assert sorted(drawn) == sorted(rooms)


# -- the public face ---------------------------------------------------------------------------------------


def test_the_face_holds_these_names():
    assert set(s3pet_viz.__all__) == FACE
    assert set(dir(s3pet_viz)) >= FACE
    for name in FACE:
        assert getattr(s3pet_viz, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = s3pet_viz.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    blocks = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    names = {alias.asname for node in ast.walk(blocks[0]) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names | {"__version__"} == FACE


def test_no_module_bears_the_name_of_a_public_name():
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert modules & FACE == {"errors", "figures", "widgets"}  # public as modules


def test_import_is_light():
    code = (
        "import sys, time; t = time.process_time(); import s3pet_viz; print(time.process_time() - t)\n"
        "heavy = {'torch', 'plotly', 'pandas', 'transformers', 'numpy', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    results = [run(sys.executable, "-c", code) for _ in range(3)]
    assert all(r.returncode == 0 for r in results), results[0].stderr
    assert statistics.median(float(r.stdout) for r in results) < 0.1


def test_nothing_that_shows_loads_torch():
    code = (
        "import sys, s3pet_viz as s3; s3.open_run, s3.figures.heatmap, s3.Structure, s3.parse_budget\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr


def test_help_is_quick():
    code = (
        "import sys, time; t = time.process_time(); sys.argv = ['s3pet', '--help']\n"
        "from s3pet_viz.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'plotly', 'pandas', 'transformers'} & set(sys.modules)\n"
        "print(time.process_time() - t, file=sys.stderr)"
    )
    results = [run(sys.executable, "-c", code) for _ in range(3)]
    assert all(r.returncode == 0 for r in results), results[0].stderr
    assert statistics.median(float(r.stderr) for r in results) < 1.0


# -- the environment, said in three files ------------------------------------------------------------------


def test_environment_yml_is_in_step_with_pyproject():
    made = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert made["name"] == PROJECT["project"]["name"]
    plain = [d for d in made["dependencies"] if isinstance(d, str)]
    (pip,) = [d["pip"] for d in made["dependencies"] if isinstance(d, dict)]
    (python,) = [d.removeprefix("python=") for d in plain if d.startswith("python=")]
    assert python == PROJECT["project"]["requires-python"].removeprefix(">=")
    assert python == PROJECT["tool"]["mypy"]["python_version"]
    assert "pip" in plain
    (package,) = [p for p in pip if p.startswith("-e ")]
    extras = re.fullmatch(r"-e \.\[(.*)\]", package)
    assert extras, package
    assert set(extras[1].split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    # The extras that pip installs hold all that notebooks and tests need.
    assert "dev" in extras[1].split(",")
    assert "-c constraints.txt" in pip
    # Nothing else is pinned in a second place.
    assert len(plain) == 2
    assert len(pip) == 2


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;@]+)", line)
        assert match, f"constraints.txt: expected name==version, found {line!r}"
        pins[_canonical(match[1])] = match[2]
    return pins


def _needed(requirement: str, extras: frozenset[str] = frozenset()) -> dict[str, None]:
    """The installed distributions that a requirement pulls in here, by canonical name."""
    from packaging.requirements import Requirement

    found: dict[str, None] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(requirement, extras)]
    while todo:
        name, wanted = todo.pop()
        if (_canonical(name), wanted) in seen:
            continue
        seen.add((_canonical(name), wanted))
        found[_canonical(name)] = None
        for text in importlib.metadata.requires(name) or []:
            entry = Requirement(text)
            contexts = [{"extra": extra} for extra in (*wanted, "")]
            if entry.marker is None or any(entry.marker.evaluate(context) for context in contexts):
                todo.append((entry.name, frozenset(entry.extras)))
    return found


def test_every_package_of_the_development_install_is_pinned():
    pins = _pins()
    needed = [name for name in _needed("s3pet_viz", frozenset({"dev"})) if name != "s3pet-viz"]
    assert len(needed) > 50
    assert not sorted(set(needed) - set(pins)), "constraints.txt lacks a pin"
    wrong = {
        name: (pins[name], importlib.metadata.version(name))
        for name in needed
        if pins[name] != importlib.metadata.version(name).split("+")[0]
    }
    assert not wrong, f"installed is not what constraints.txt says: {wrong}"


def test_pins_meet_pyproject():
    from packaging.requirements import Requirement

    pins = _pins()
    project = PROJECT["project"]
    for text in [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]:
        entry = Requirement(text)
        if entry.name != project["name"]:
            assert entry.specifier.contains(pins[_canonical(entry.name)]), text
    assert pins["torch"] == "2.13.0"


def test_version_is_said_once():
    assert s3pet_viz.__version__ == importlib.metadata.version("s3pet_viz")


def test_the_longest_test_files_are_where_the_order_says():
    text = (ROOT / "tests" / "conftest.py").read_text()
    named = re.findall(r'"((?:tests|notebooks)/[^"]+)"', text)
    assert len(named) > 10
    assert all((ROOT / name).is_file() for name in named)
