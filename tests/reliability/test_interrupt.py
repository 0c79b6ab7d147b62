"""SIGTERM, Ctrl-C and SIGKILL in real processes of the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from reliability_problems import assert_same_result, until_steps
from test_kill import KILLS

from s3pet_viz.engine.checkpoint import next_step_of
from s3pet_viz.runs import open_run


def command(options, folder):
    """The words of ``s3pet search`` for these options."""
    words = ["search", "--quiet", "--out", str(folder)]
    for name, value in options.items():
        if name in ("second_order_from", "dropout"):
            words += ["--set", f"{name}={str(value).lower()}"]
        else:
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(server, options, whole, tmp_path, number):
    folder = tmp_path / "run"
    pid = server.start(argv=command(options, folder))
    until_steps(folder, 3)
    os.kill(pid, number)
    assert server.end(pid) == 130
    assert f"the run is saved; continue it with: s3pet search --resume {folder}" in server.said()
    run = open_run(folder)
    assert (run.status, run.info["stop_reason"]) == ("stopped", number.name)
    assert next_step_of(folder / "checkpoint") == run.n_steps == run.info["steps_taken"] < 8
    assert server.run(argv=["search", "--resume", str(folder), "--quiet"]) == 0, server.said()
    assert_same_result(folder, whole[0])


def test_a_second_ctrl_c_does_not_wait_and_loses_nothing(server, options, whole, tmp_path):
    folder = tmp_path / "run"
    pid = server.start(argv=command(options, folder))
    until_steps(folder, 2)
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGINT)
    assert server.end(pid) == 130
    assert open_run(folder).status == "stopped"
    assert server.run(argv=["search", "--resume", str(folder), "--quiet"]) == 0, server.said()
    assert_same_result(folder, whole[0])


@pytest.mark.slow
def test_a_process_of_the_command_line_is_killed(server, options, whole, tmp_path):
    """``python -m s3pet_viz search``, neither forked nor injected into, is killed; another process goes on with it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    moments = (1, 3, 4, 6, 8) if KILLS >= 30 else (5,)
    for steps in moments:
        folder = tmp_path / f"{steps}" / "run"
        with subprocess.Popen([sys.executable, "-m", "s3pet_viz", *command(options, folder)], env=environment) as process:
            until_steps(folder, steps, seconds=600)
            process.kill()
        if open_run(folder).status != "finished":
            assert (process.returncode, open_run(folder).status) == (-9, "dead")
            assert server.run(argv=["search", "--resume", str(folder), "--quiet"]) == 0, server.said()
        assert_same_result(folder, whole[0])
    print(f"\n{len(moments)} processes of s3pet search killed and resumed to the same result")
