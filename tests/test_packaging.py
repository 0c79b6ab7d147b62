"""What a plain `pip install` brings: the package with its embedded tasks and backbone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip would into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True, timeout=1800,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 40e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_embedded_task_and_backbones_are_found_by_name(installed, tmp_path):
    code = (
        "import s3pet_viz as s3; from s3pet_viz.resources import find_resource\n"
        "print(s3.__file__)\n"
        "for name in ('tiny-t5',): print(find_resource('backbones', name), s3.load_backbone(name).n_params)\n"
        "data = s3.load_task('sentiment', form='text'); print(len(data.train))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    file, *backbones, rows = done.stdout.split()
    assert file.startswith(str(installed))
    for backbone, size in zip(backbones[::2], backbones[1::2], strict=True):
        assert backbone.startswith(str(installed))
        assert 1.5e6 < int(size) < 3e6
    assert int(rows) == 2000


def test_the_viewers_module_comes_along(installed):
    """Every file of it, and nothing that was not written here."""
    ours = {p.name: p.read_bytes() for p in (ROOT / "s3pet_viz" / "viewer" / "js").iterdir()}
    held = {p.name: p.read_bytes() for p in (installed / "s3pet_viz" / "viewer" / "js").iterdir()}
    assert held == ours
    assert {Path(name).suffix for name in ours} == {".js", ".css"}
    code = "from s3pet_viz.viewer import page; print(len(page.module()), len(page.table_module()), len(page.style()), page.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    script, table, style, file = done.stdout.split()
    sizes = {name: len(data.decode()) for name, data in ours.items() if name.endswith(".js")}
    assert int(script) == sum(size for name, size in sizes.items() if name != "table.js")
    assert int(table) == sizes["draw.js"] + sizes["table.js"]
    assert int(style) > 0
    assert file.startswith(str(installed))


def test_the_wheel_holds_no_third_party_data(installed):
    names = {p.name for p in (installed / "s3pet_viz" / "_data" / "tasks").iterdir()}
    kinds = {"headline", "entities", "conversation", "topics"}
    assert names == {"sentiment", "acceptability", "paraphrase", "entailment", "similarity"} | kinds


def test_recorded_runs_studies_and_the_command_come_along(installed, tmp_path):
    code = (
        "import s3pet_viz as s3; from s3pet_viz.resources import list_resources as l\n"
        "print(len(l('runs')), len(l('studies')), s3.open_run(l('runs')[0]).status, s3.open_study('tiny-t5').kind)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    runs, studies, status, *_ = done.stdout.split()
    assert int(runs) == len(list((ROOT / "data" / "runs").iterdir())) > 10
    assert int(studies) >= 2
    assert status == "finished"
    (information,) = installed.glob("s3pet_viz-*.dist-info")
    assert "s3pet = s3pet_viz.cli:main" in (information / "entry_points.txt").read_text()
    metadata = (information / "METADATA").read_text()
    assert "Requires-Python: >=3.11" in metadata


def test_the_oldest_versions_are_those_of_pyproject():
    """constraints-oldest.txt pins each dependency at its lower bound; torch alone at the one that is tested."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.version import Version

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints-oldest.txt").read_text().split())
    extras = ("hub", "notebook", "export", "dask", "slurm", "minilm", "peft", "tracking", "metrics")
    texts = [*project["dependencies"], *(text for name in extras for text in project["optional-dependencies"][name])]
    for text in texts:
        need = Requirement(text)
        (least,) = [Version(s.version) for s in need.specifier if s.operator == ">="]
        found = Version(pins[need.name.lower().replace("_", "-")])
        assert need.name == "torch" or (found.major, found.minor) == (least.major, least.minor), (text, str(found))
