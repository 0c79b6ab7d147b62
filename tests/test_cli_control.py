"""``s3pet search --detach`` and ``--set``, ``pause | resume | stop``."""

from __future__ import annotations

import re
import time

import pytest
from test_cli import call, refused, run_folder  # noqa: F401  (run_folder is a fixture)

from s3pet_viz.resources import find_resource
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.runs.control import ControlReader
from s3pet_viz.structure import Gate

SMALL = ("--task", "sentiment", "--budget", "0.2%", "--batch-size", "4", "--max-rows", "40", "--threads", "1")


def test_a_running_search_is_asked(tmp_path):
    gate = Gate(0, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20)
    with RunWriter.create(tmp_path / "run", gates=[gate], config={}) as writer:
        reader = ControlReader(writer.path)
        for name, request in (("pause", "pause"), ("resume", "resume"), ("stop", "stop")):
            assert "asked to" in call(name, writer.path).output
            assert reader.request() == request


def test_an_ended_one_cannot_be_asked(run_folder, tmp_path):  # noqa: F811
    for name in ("pause", "stop"):
        assert "the search is finished; it cannot be asked" in refused(name, run_folder)
    assert "finished; expected a stopped" in refused("resume", run_folder)
    assert "no such run directory" in refused("stop", tmp_path / "nowhere")


@pytest.mark.usefixtures("forked_launches")
def test_detached_stopped_and_continued(tmp_path):
    out = tmp_path / "run"
    text = call("search", *SMALL, "--steps", 100_000, "--out", out, "--detach", "--set", "tau=0.5").output
    run = open_run(out)
    try:
        assert re.search(r"searching in process (\d+)", text)[1] == str(run.info["pid"])
        assert run.config["tau"] == 0.5
        call("stop", out)
        assert run.wait(180).status == "stopped"
        call("resume", out)
        assert run.status == "running"
        done = run.n_steps
        deadline = time.monotonic() + 180
        while run.n_steps == done:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        call("stop", out)
        assert run.wait(180).status == "stopped"
        call("search", "--resume", out, "--detach", "--threads", 1)
        assert run.status == "running"
    finally:
        if not run.ended:
            run.stop()
            run.wait(180)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "tau"), "expected NAME=VALUE"),
        (("--set", "tau=1", "--set", "tau=2"), "tau: given twice"),
        (("--steps", "3", "--set", "steps=4"), "steps: given twice"),
        (("--set", "tau=-1"), "tau: expected a positive number"),
        (("--set", "colour=blue"), "unknown field 'colour'"),
    ],
)
def test_wrong_settings(arguments, message):
    assert message in refused("search", *SMALL, *arguments)


def test_recorded_runs_are_opened_by_name_and_never_written(tmp_path):
    name = "sentiment-0.2pct-s0"
    folder = find_resource("runs", name)
    before = sorted(path.name for path in folder.rglob("*"))
    assert f"{len(open_run(name).structure())} gates" in call("show", name).output
    small = ("--steps", 1, "--max-rows", 20, "--threads", 1, "--quiet")
    assert "scores:" not in call("tune", name, *small).output
    assert "explanation:" not in call("explain", name, *small, "--no-metric", "--rows", 10).output
    assert "explanation:" in call("explain", name, *small, "--no-metric", "--rows", 10, "--out", tmp_path / "e.json").output
    assert sorted(path.name for path in folder.rglob("*")) == before
