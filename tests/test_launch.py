"""A search in a process of its own: begun, paused, continued, stopped, killed, refused.

One that begins and one that is refused are started as a user's are, the others by `small`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import s3pet_viz as s3
from s3pet_viz.errors import BudgetError, ConfigError, RunError, TaskError
from s3pet_viz.launcher import Launched, relaunch, start
from s3pet_viz.runs.lock import WriterLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and signals of a POSIX system")

OPTIONS = {"task": "sentiment", "budget": "0.2%", "steps": 6, "batch_size": 4, "max_rows": 40, "threads": 1}


@pytest.fixture
def small(tiny_folder, forked_launches):
    """Options of a cheap search, and the processes that are made of it: forked."""
    return {**OPTIONS, "backbone": str(tiny_folder("bert", layers=1)), "budget": "2%"}


def until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_a_launched_search_equals_one_in_this_process(tmp_path):
    run = s3.launch(**OPTIONS, out=tmp_path / "own", tau=0.7)
    assert run.wait(600).status == "finished"
    here = s3.search(**{k: v for k, v in OPTIONS.items() if k != "threads"}, backbone="tiny-t5", out=tmp_path / "here",
                     tau=0.7, progress=False)  # fmt: skip
    assert np.allclose(run.alphas(), here.alphas(), atol=1e-5)
    assert run.config["tau"] == 0.7
    assert run.info["pid"] != os.getpid()
    with pytest.raises(RunError, match="already holds a run"):
        s3.launch(**OPTIONS, out=tmp_path / "own")
    with pytest.raises(RunError, match="finished; expected a stopped"):
        relaunch(run)


def test_pause_resume_stop_kill_and_resume_again(small, tmp_path):
    run = s3.launch(**{**small, "steps": 100_000}, out=tmp_path / "run")
    until(lambda: run.n_steps >= 2)
    run.pause()
    until(lambda: run.status == "paused")
    held = run.n_steps
    time.sleep(0.5)
    assert run.n_steps == held
    run.resume()
    until(lambda: run.n_steps > held)
    assert run.status == "running"
    run.stop()
    assert run.wait(600).status == "stopped"
    assert run.info["stop_reason"] == "asked to stop"
    stopped = run.n_steps

    run.resume()
    assert run.status == "starting"
    assert not run.ended
    until(lambda: run.n_steps > stopped)
    assert run.status == "running"

    # A reader that knows nothing of the launch, as after a restart of the kernel.
    again = s3.open_run(run.path)
    os.kill(again.info["pid"], signal.SIGKILL)
    until(lambda: again.status == "dead")
    assert "is gone" in again.error
    assert len(again.steps()) == again.n_steps > stopped


def test_what_the_search_refuses_is_raised_here(tmp_path):
    with pytest.raises(TaskError, match="'sentimen': expected a folder"):
        s3.launch(**{**OPTIONS, "task": "sentimen"}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_the_search_refuses_is_what_its_launch_says(small, tmp_path):
    launched = start(**{**small, "budget": 3}, out=tmp_path / "run")
    until(lambda: launched.error is not None)
    assert isinstance(launched.error, BudgetError)
    assert launched.run is None
    assert "failed" in repr(launched)


def test_what_is_wrong_is_said_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="task: expected a value"):
        s3.launch(budget="0.2%")
    with pytest.raises(BudgetError, match="budget"):
        s3.launch(task="sentiment", budget="much")
    with pytest.raises(ConfigError, match="task: a search in its own process takes names"):
        s3.launch(task={"train": object()}, budget="0.2%")
    with pytest.raises(ConfigError, match="keeps its own options; 'steps'"):
        relaunch(tmp_path, steps=3)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_without_a_word(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as child:
        child.wait()
        launched = Launched(tmp_path / "run", child, own_folder=False)
        with pytest.raises(RunError, match="ended before it began"):
            launched.wait(600)


def test_launching_loads_neither_torch_nor_plotly():
    code = "import sys, s3pet_viz as s3; s3.launch, s3.open_run; assert not {'torch', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- into one folder ---------------------------------------------------------------------------------------


def test_two_at_once_into_one_folder(small, tmp_path):
    """One begins, the other is refused in its own words, and takes nothing of the first with it."""
    both = [start(**{**small, "steps": 100_000}, out=tmp_path / "run") for _ in range(2)]
    until(lambda: all(one.run is not None or one.error is not None for one in both))
    (won,) = (one for one in both if one.run is not None)
    (lost,) = (one for one in both if one.run is None)
    assert isinstance(lost.error, RunError)
    assert "already holds a run" in str(lost.error) or "being written by process" in str(lost.error)
    assert won.run.n_steps >= 0
    assert (tmp_path / "run" / "log.txt").exists()
    won.run.stop()
    assert won.run.wait(600).status == "stopped"


@pytest.mark.parametrize("first_fails", [True, False])
def test_one_that_fails_beside_one_that_goes_on(small, tmp_path, first_fails):
    """Whichever made the folder."""
    good, bad = small, {**small, "task": "sentimen"}
    launched = [start(**options, out=tmp_path / "run") for options in ((bad, good) if first_fails else (good, bad))]
    failing, going = launched if first_fails else reversed(launched)
    until(lambda: failing.error is not None)
    assert isinstance(failing.error, TaskError), failing.error
    assert going.wait(600).wait(600).status == "finished"
    assert (tmp_path / "run" / "log.txt").exists()


def test_both_fail_and_the_last_takes_the_folder_away(small, tmp_path):
    both = [start(**{**small, "task": "sentimen"}, out=tmp_path / "run") for _ in range(2)]
    for one in both:
        until(lambda one=one: one.error is not None)
        assert isinstance(one.error, TaskError)
    # Only the launch that made it may take it away, and not while the other reads the log: that may be left.
    assert not (tmp_path / "run").exists() or {p.name for p in (tmp_path / "run").iterdir()} == {"log.txt"}
    assert s3.launch(**small, out=tmp_path / "run").wait(600).status == "finished"


@pytest.mark.parametrize("what", ["file", "run", "lock", "leftovers"])
def test_a_launch_that_fails_takes_away_only_what_is_its_own(small, tmp_path, what):
    launched = start(**{**small, "task": "sentimen"}, out=tmp_path / "run")
    folder = launched.path
    if what == "file":
        (folder / "notes.txt").write_text("mine")
    elif what == "run":
        (folder / "run.json").write_text("{}")
    held = WriterLock(folder / "lock") if what in ("lock", "leftovers") else None
    if what == "leftovers":
        held.release()  # of another process's search, which is gone
        (folder / "gates.parquet").write_bytes(b"another's")
    before = {p: p.read_bytes() for p in folder.iterdir() if p.name != "log.txt"}
    launched.child.wait(600)
    if what == "run":
        assert "failed" not in Path(folder / "run.json").read_text()
        (folder / "run.json").rename(folder / "aside")  # a run that cannot be opened is not what is tested here
        assert launched.error is not None
    else:
        assert isinstance(launched.error, RunError if what == "file" else TaskError)
    left = {p: p.read_bytes() for p in folder.iterdir() if p.name != "log.txt"}
    assert list(left.values()) == list(before.values())
    if what == "lock":
        held.release()


def test_a_folder_that_was_there_stays(small, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(TaskError):
        s3.launch(**{**small, "task": "sentimen"}, out=tmp_path / "run")
    assert (tmp_path / "run").is_dir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(RunError, match="holds files that are not a run"):
        s3.launch(**small, out=tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="expected a folder, found a file"):
        s3.launch(**small, out=tmp_path / "file")
