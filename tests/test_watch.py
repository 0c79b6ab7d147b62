"""The watcher in a terminal: what it shows, when it ends, and that it leaves the search alone."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from report_problems import EVIL, space, write_run
from rich.console import Console
from typer.testing import CliRunner

from s3pet_viz.cli import _common, app
from s3pet_viz.cli import watch as watcher
from s3pet_viz.errors import RunError
from s3pet_viz.runs import RunWriter
from s3pet_viz.structure import probabilities, solve_shift
from s3pet_viz.viewer.feed import Feed

COUNTS = np.array([gate.n_params for gate in space()])

#: A search that lives until it is killed. Its lock is its own, so only its death tells that it is dead.
SEARCH = """
import sys, time, numpy as np
sys.path.insert(0, {tests!r})
from report_problems import space
from s3pet_viz.runs import RunWriter
gates = space()
writer = RunWriter.create({path!r}, gates=gates, config={{"task": "mood"}}, extra={{"budget": 40, "steps_total": 100}})
writer.append(step=0, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=np.zeros(14), p=np.full(14, 0.2))
print("ready", flush=True)
time.sleep(120)
"""


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["watch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def append(writer: RunWriter, step: int) -> None:
    alpha = step * np.sin(np.arange(len(COUNTS))) / 20
    zeta = solve_shift(alpha, COUNTS, 40)
    writer.append(
        step=step, seconds=2.0, zeta=zeta, train_loss=0.5, val_loss=0.25, lr=1e-3, alpha=alpha, p=probabilities(alpha, zeta)
    )


@pytest.fixture
def live(tmp_path):
    """A running search of 100 steps, after 10 of them."""
    writer = RunWriter.create(tmp_path / "live", gates=space(), config={"task": "mood"}, extra={"budget": 40, "steps_total": 100})
    for step in range(10):
        append(writer, step)
    yield writer
    if writer.path.exists():
        writer.set_status("stopped")
        writer.close()
    else:
        with pytest.raises(RunError, match="removed"):
            writer.close()


def drawn(path: Path, width: int = 80, height: int | None = None) -> list[str]:
    model = Feed(path)
    console = Console(width=width, file=io.StringIO(), color_system=None, markup=False)
    console.print(watcher.picture(model, next(watcher._frames(model)), width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


# -- once --------------------------------------------------------------------------------------------------


def test_once(live):
    shown = call(live.path, "--once")
    assert "▶ running  live" in shown
    assert "step 10 of 100 (10%)" in shown
    assert "3 min left" in shown  # 90 steps of 2 s
    assert "0.5 train, 0.25 validation" in shown
    assert "40.0 of 40 parameters expected" in shown
    assert "Few steps" in shown
    assert "SelfAttn.Q LoRA" in shown
    assert "● chosen" in shown


def test_finished_ends_at_once(tmp_path):
    run = write_run(tmp_path / "calm")
    shown = call(run.path)
    assert "finished · step 60 of 60 (100%)" in shown
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 1


def test_failed_says_why(tmp_path):
    run = write_run(tmp_path / "broken", status="failed")
    shown = call(run.path, code=1)
    assert "failed" in shown
    assert "it broke" in shown
    assert f"s3pet resume {run.path}" in shown
    assert "✖ failed" in call(run.path, "--once", code=1)


def test_without_steps(tmp_path):
    run = write_run(tmp_path / "new", 0, status="stopped")
    assert "no steps recorded yet" in call(run.path, "--once")


def test_what_is_no_run(tmp_path):
    assert "no such run" in call(tmp_path / "none", code=2)
    run = write_run(tmp_path / "torn", 3)
    (run.path / "steps" / "part-00000.arrow").write_bytes(b"foreign")
    assert "part-00000.arrow" in call(run.path, "--once", code=2)


@pytest.mark.parametrize("width", [50, 80, 200])
@pytest.mark.parametrize("height", [10, 24, None])
def test_it_fits(tmp_path, width, height):
    run = write_run(tmp_path / ("a" * 120), status="failed")
    shown = drawn(run.path, width, height)
    assert max(map(len, shown)) <= width
    if height is not None:
        assert len(shown) <= height
    assert "failed" in shown[0]
    assert any("it broke" in line for line in shown)
    assert any("more lines" in line for line in shown) == (height == 10)


def test_no_escape_sequence_reaches_the_terminal(tmp_path):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold]"
    run = write_run(tmp_path / "evil", evil=evil, status="failed")
    for shown in (call(run.path, code=1), call(run.path, "--once", code=1), "\n".join(drawn(run.path))):
        assert not {"\x1b", "\x07", "\x9b"} & set(shown)
        assert "[bold]" in shown


# -- followed ----------------------------------------------------------------------------------------------


def test_a_line_every_so_often(live):
    def search() -> None:
        for step in range(10, 20):
            append(live, step)
            time.sleep(0.1)
        live.set_status("finished")

    thread = threading.Thread(target=search)
    thread.start()
    lines = call(live.path, "--every", "0.3").splitlines()
    thread.join()
    assert 2 <= len(lines) <= 8
    assert lines[0].startswith("running · step 1")
    assert lines[-1].startswith("finished · step 20 of 100")
    assert all("parameters expected" in line for line in lines)


def test_in_a_terminal(live, monkeypatch):
    """Pictures follow each other at most five a second, and the last is of the end."""
    console = Console(width=90, height=40, file=io.StringIO(), force_terminal=True, markup=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(_common, "console", lambda: console)
    times: list[float] = []
    picture = watcher.picture

    def counted(*arguments):
        times.append(time.monotonic())
        return picture(*arguments)

    monkeypatch.setattr(watcher, "picture", counted)

    def search() -> None:
        for step in range(10, 60):
            append(live, step)
            time.sleep(0.02)
        deadline = time.monotonic() + 120
        while len(times) < 2 and time.monotonic() < deadline:  # a busy machine
            time.sleep(0.02)
        live.set_status("finished")

    thread = threading.Thread(target=search)
    thread.start()
    watcher.watch(str(live.path))
    thread.join()
    assert len(times) >= 3
    assert min(np.diff(times)) >= 0.19
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[" in shown
    last = shown[shown.rindex("finished") :]
    assert "step 60 of 100" in last


def test_a_killed_search_is_dead(tmp_path):
    path = tmp_path / "killed"
    code = SEARCH.format(tests=str(Path(__file__).parent), path=str(path))
    search = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert search.stdout is not None
    assert search.stdout.readline() == "ready\n"
    search.stdout.close()
    (path / "log.txt").write_text("--- s3pet search now\nRuntimeError: the last words\n")
    assert "▶ running" in call(path, "--once")
    model = Feed(path)
    frames = watcher._frames(model)
    assert next(frames).status == "running"
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    began = time.monotonic()
    assert [frame.status for frame in frames][-1] == "dead"
    assert time.monotonic() - began < 120
    shown = call(path, code=1)
    assert "killed?" in shown
    assert "the last words" in shown


def test_ctrl_c_leaves_the_search(live, monkeypatch):
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watcher.time, "sleep", interrupted)
    shown = call(live.path, code=130)
    assert "left; the search goes on" in shown
    assert "interrupted" not in shown
    assert not (live.path / "control.json").exists()
    append(live, 10)


def test_a_run_that_goes_away(live):
    import shutil

    frames = watcher._frames(Feed(live.path))
    next(frames)
    shutil.rmtree(live.path)
    with pytest.raises(RunError, match="no such run directory"):
        next(frames)


def test_evil_strings_are_shown_as_they_are(tmp_path):
    assert EVIL[:20] in call(write_run(tmp_path / "evil", evil=EVIL).path, "--once")
