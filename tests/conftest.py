"""Tiny backbones on disk, shared by all tests of a session, and the order of files among several workers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from forks import MEASURED

#: The files that take longest, by CPU seconds (tools/files_alone.py), most of them because they start processes of their
#: own: a worker that began one of them last would be alone with it.
LONGEST = (
    "tests/test_docs.py", "tests/backbones/test_compatibility.py", "notebooks/04_transfer.ipynb", "tests/test_house.py",
    "tests/reliability/test_threads.py", "tests/runs/test_reading_cost.py", "tests/engine/test_search.py",
    "tests/pet/test_in_place.py", "tests/studies/test_study.py", "tests/studies/test_kinds_studied.py",
    "tests/test_launch.py", "tests/engine/test_estimate.py", "notebooks/05_your_own_model_and_task.ipynb",
    "tests/test_report.py", "tests/tuning/test_auto_steps.py", "tests/engine/test_one_go.py",
    "tests/tuning/test_answers.py", "tests/test_arguments.py", "tests/test_packaging.py",
    "tests/reliability/test_kill.py", "tests/studies/test_deciding.py", "tests/tuning/test_given_back.py",
    "tests/engine/test_modes.py", "tests/engine/test_early_stop.py", "tests/tuning/test_one_pass.py",
    "tests/figures/test_fig_transfer.py",
)  # fmt: skip


#: Files that look at what a search takes before its first step.
_MEASURING = ("test_estimate", "test_placed", "test_cheaper", "test_threads")

_TASKS = Path(__file__).parents[1] / "data" / "tasks"

#: Embedded tasks, tiny-t5 and the folders of `tiny_folder`, as they were read with these arguments.
_READ: dict[str, object] = {}
_TINY_FOLDERS: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    """A folder in which all processes of the session leave what is measured once."""
    if MEASURED not in os.environ:  # the first of them
        folder = tempfile.TemporaryDirectory(prefix="s3pet-measured-")
        os.environ[MEASURED] = folder.name
        config.add_cleanup(lambda: (os.environ.pop(MEASURED), folder.cleanup()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Among workers the longest files first, then those with the most tests, so that all of them end together."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    files = [item.nodeid.partition("::")[0] for item in items]
    count = Counter(files)
    rank = {name: at for at, name in enumerate(LONGEST)}
    order = sorted(range(len(items)), key=lambda i: (rank.get(files[i], len(rank)), -count[files[i]], files[i]))
    items[:] = [items[i] for i in order]


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk():
    """What fsync guards against is a loss of power, which no test is about: thousands of waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


def pytest_collection_finish() -> None:
    """What the imports made stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def tiny_backbones_read_once(request, monkeypatch):
    """tiny-t5 and those of `tiny_folder`, which no test changes, are read from their files once; each load has a copy of
    its own. Not where loading is what is tested."""
    module = sys.modules.get("s3pet_viz.backbones.load")
    if module is None or request.path.parent.name == "backbones":
        return
    real = module._load

    def load(name, *args, **options):
        known = (name == "tiny-t5" and not Path(name).exists()) or str(name) in _TINY_FOLDERS
        if not known or any(options.values()) or families_environment():
            return real(name, *args, **options)
        key = repr((str(name), args))
        if key not in _READ:
            _READ[key] = real(name, *args, **options)
        return copy.deepcopy(_READ[key])

    from s3pet_viz.structure.tables import families_environment

    monkeypatch.setattr(module, "_load", load)


@pytest.fixture(autouse=True)
def embedded_tasks_read_once(request, monkeypatch):
    """An embedded task is read and made into examples, which nothing changes, once for the same options."""
    module = sys.modules.get("s3pet_viz.training.pair")
    if module is None or request.path.parent.name == "tasks":
        return
    from s3pet_viz.tasks import load_task as real

    def load(task, **options):
        if not (isinstance(task, str) and (_TASKS / task).is_dir()) or Path(task).exists():
            return real(task, **options)
        key = repr((task, sorted(options.items())))
        if key not in _READ:
            _READ[key] = real(task, **options)
        made = _READ[key]
        return dataclasses.replace(made, **{part: list(getattr(made, part)) for part in ("train", "validation", "test")})

    monkeypatch.setattr(module, "load_task", load)


@pytest.fixture(autouse=True, scope="session")
def commands_made_once():
    """The command line is made of its fields once, and not for each line that a test gives."""
    with pytest.MonkeyPatch.context() as patch:
        if "typer.testing" in sys.modules:
            patch.setattr("typer.testing._get_command", functools.cache(sys.modules["typer.testing"]._get_command))
        yield


@pytest.fixture(autouse=True)
def gates_measured_once(request, monkeypatch):
    """Which gates of one model are inert or redundant on one batch is measured once: half of a search of two steps. Not
    where measuring, its memory, or several threads that measure at once are what is tested."""
    module = sys.modules.get("s3pet_viz.training.candidates")
    if module is None or request.path.parent.name == "pet" or request.path.stem in _MEASURING:
        return
    from measured_once import inert_gates_once, redundant_pairs_once

    monkeypatch.setattr(module, "inert_gates", inert_gates_once)
    monkeypatch.setattr(module, "redundant_pairs", redundant_pairs_once)


@pytest.fixture(autouse=True)
def threads_as_told():
    """No test leaves torch with more threads than OMP_NUM_THREADS says: they would wait for each other on a busy machine."""
    yield
    told, torch = os.environ.get("OMP_NUM_THREADS"), sys.modules.get("torch")
    if told is not None and torch is not None and torch.get_num_threads() != int(told):
        torch.set_num_threads(int(told))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory):
    """``tiny_folder("bert")``: a folder with a tiny backbone of that form, made once per session.

    Searches that are compared with each other, bit for bit, take ``layers=1`` (of each stack): half the time.
    """
    from problems import save_tiny  # with torch, which the process that only hands tests to workers need not load

    made: dict[tuple[str, int], Path] = {}

    def folder(form: str, layers: int = 2) -> Path:
        if (form, layers) not in made:
            made[form, layers] = save_tiny(form, tmp_path_factory.mktemp(f"tiny-{form}"), layers=layers)
            _TINY_FOLDERS.add(str(made[form, layers]))
        return made[form, layers]

    return folder


@pytest.fixture
def mood(tmp_path: Path) -> Path:
    """A folder with the task `problems.MOOD`."""
    from problems import MOOD, mood_data

    folder = tmp_path / "mood"
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(48, 12).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def server():
    """Processes of their own for all that need some."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc and fork")
    import forks

    return forks.shared()


@pytest.fixture
def studies_in_threads(monkeypatch):
    """The default executor of a study: threads here, which start at once (test_study.py starts processes); what it was told."""
    from concurrent.futures import ThreadPoolExecutor

    from s3pet_viz.studies import runner

    asked: list[int] = []
    size = runner.pool_size

    def executor(workers, **_):
        asked.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(runner, "ProcessPoolExecutor", executor)
    monkeypatch.setattr(runner, "pool_size", lambda *given: (size(*given)[0], 1))
    return asked


@pytest.fixture
def forked_launches(server, monkeypatch):
    """What is launched is forked from the server: a process of its own, as ever, that has torch already."""
    made = []

    def popen(*command, **options):
        made.append(server.popen(*command, **options))
        return made[-1]

    of_launches = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("s3pet_viz.runs.process.subprocess", of_launches)
    yield made
    for process in made:
        process.kill()
