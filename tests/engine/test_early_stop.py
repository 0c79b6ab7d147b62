"""Searches that end once their structure rests: exactly when, what they leave, how they resume, who says so."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from search_problems import StopAt, line_of_gates, toy_search, written_run
from typer.testing import CliRunner

from s3pet_viz import health
from s3pet_viz.cli import app
from s3pet_viz.cli import watch as watcher
from s3pet_viz.engine import Callback, SearchConfig, search
from s3pet_viz.engine.checkpoint import FILE
from s3pet_viz.engine.stability import Stability
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.launcher import _arguments, relaunch
from s3pet_viz.reports import report
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Structure, select
from s3pet_viz.viewer.feed import Feed

#: Far apart for a rate of 1e-6: the order of these gates never changes.
APART = [0.5 * ((7 * i) % 12) for i in range(12)]
RESTS = {"alpha": APART, "alpha_lr": 1e-6}
CHECKPOINT = Path("checkpoint") / FILE


# -- when --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "patience", "warmup", "first", "last"),
    [(1, 1, 0, 1, 2), (2, 3, 0, 2, 8), (3, 2, 0, 3, 9), (2, 3, 5, 6, 12), (2, 1, 6, 8, 10), (5, 4, 0, 5, 25)],
)
def test_it_ends_after_exactly_the_steps_promised(tmp_path, every, patience, warmup, first, last):
    run = toy_search(tmp_path / "run", eval_every=every, stop_when_stable=patience, warmup=warmup, **RESTS)
    assert run.status == "finished"
    assert run.n_steps == last == run.info["steps_taken"]
    times = f"{patience} evaluation{'s' if patience > 1 else ''}"
    assert run.info["stop_reason"] == f"selected structure unchanged for {times} (steps {first} to {last})"
    assert run.early_stop == f"at step {last} of 40: {run.info['stop_reason']}"
    assert run.evals()["step"].tolist() == list(range(every - 1, last, every))
    assert run.seconds_left is None
    # What it leaves is what the last alpha selects, on disk as in the step log.
    saved = Structure.load(run.path / "structure.json")
    assert [g.index for g in saved.gates] == list(select(APART, run.counts, 9))
    assert saved == run.structure(budget=9)
    assert saved.source["steps"] == last


def test_off_unless_asked_for(tmp_path):
    assert SearchConfig(task="t", backbone="b", budget=1).stop_when_stable == 0
    run = toy_search(tmp_path / "run", eval_every=2, **RESTS)
    assert (run.status, run.n_steps, run.early_stop) == ("finished", 40, None)
    assert (run.info["stop_reason"], run.info["steps_taken"]) == (None, 40)


def test_at_the_last_step_it_has_not_ended_early(tmp_path):
    run = toy_search(tmp_path / "run", eval_every=2, stop_when_stable=3, steps=8, **RESTS)
    assert (run.status, run.n_steps, run.early_stop, run.info["stop_reason"]) == ("finished", 8, None, None)


def test_an_alpha_that_has_not_moved_is_no_result(tmp_path):
    """Every gate is open, so no gradient reaches alpha and the structure is the same at every evaluation."""
    run = toy_search(tmp_path / "run", counts=(3,) * 4, budget=100, eval_every=1, stop_when_stable=1, steps=6)
    assert not run.alphas().any()
    assert [list(chosen) for chosen in run.evals()["selected"]] == [[0, 1, 2, 3]] * 6
    assert (run.status, run.n_steps, run.early_stop) == ("finished", 6, None)


def test_a_structure_that_changes_begins_the_count_anew(tmp_path):
    class Swap(Callback):
        """Puts another gate first after the fifth step."""

        def on_step_end(self, search, step, result):
            if step == 4:
                search.state.alpha = search.state.alpha.flip(0)

    run = toy_search(tmp_path / "run", eval_every=2, stop_when_stable=3, callbacks=[Swap()], **RESTS)
    assert run.info["stop_reason"] == "selected structure unchanged for 3 evaluations (steps 6 to 12)"
    assert [g.index for g in run.structure().gates] == list(select(APART[::-1], run.counts, 9))


def test_ctrl_c_in_the_step_that_ends_it_leaves_a_finished_run(tmp_path):
    class Interrupt(Callback):
        def on_step_end(self, search, step, result):
            if step == 7:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        toy_search(tmp_path / "run", eval_every=2, stop_when_stable=3, callbacks=[Interrupt()], **RESTS)
    run = open_run(tmp_path / "run")
    assert (run.status, run.n_steps) == ("finished", 8)
    assert "unchanged for 3" in run.early_stop


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 20), min_size=2, max_size=8),
    share=st.floats(0, 1),
    every=st.integers(1, 3),
    patience=st.integers(1, 4),
    warmup=st.integers(0, 3),
    opened=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 5),
)
def test_an_early_stop_keeps_the_budget_and_the_definition(counts, share, every, patience, warmup, opened, seed):
    budget = max(min(counts), int(share * sum(counts)))
    with TemporaryDirectory() as folder:
        run = toy_search(
            Path(folder) / "run", counts=counts, budget=budget, eval_every=every, stop_when_stable=patience,
            warmup=warmup, open_steps=opened[0], shrink_steps=opened[1], seed=seed, steps=24,
        )  # fmt: skip
        structure = run.structure()
        assert 0 < structure.n_params <= budget
        assert structure == run.structure(budget=budget)
        assert run.status == "finished"
        # Brute force over the step log: which evaluation is the first with `patience` equal ones before it?
        seen = [
            (step + 1, tuple(select(alpha, counts, budget)))
            for step, alpha in enumerate(run.alphas())
            if (step + 1) % every == 0 and step >= max(warmup, sum(opened)) and run.alphas()[: step + 1].any()
        ]
        ends = [
            seen[i][0]
            for i in range(patience, len(seen))
            if len({chosen for _, chosen in seen[i - patience : i + 1]}) == 1
        ]
        assert run.n_steps == (ends[0] if ends else 24)
        assert (run.early_stop is not None) == (run.n_steps < 24)


@given(
    selected=st.lists(st.sampled_from([(0,), (1,), (0, 1)]), max_size=12),
    patience=st.integers(0, 4),
    cut=st.integers(0, 12),
)
def test_stability_counts_the_same_through_a_checkpoint(selected, patience, cut):
    whole, before, after = Stability(patience), Stability(patience), Stability(patience)
    for step, chosen in enumerate(selected):
        whole.see(chosen, step)
    for step, chosen in enumerate(selected[:cut]):
        before.see(chosen, step)
    after.load(json.loads(json.dumps(before.state())))
    for step, chosen in enumerate(selected[cut:], start=min(cut, len(selected))):
        after.see(list(chosen), step)
    assert after.state() == whole.state()
    run_length = next((i for i, c in enumerate(reversed(selected)) if c != selected[-1]), len(selected))
    assert whole.unchanged == max(0, run_length - 1)
    assert whole.settled == (patience > 0 and run_length > patience)


# -- resume ------------------------------------------------------------------------------------------------


def resting(go, name, origin, **options):
    """A search from a run whose gates are far apart; it ends after 6 of 20 steps."""
    return go(
        name, start_from=origin, alpha_lr=1e-7, eval_every=2, stop_when_stable=2, steps=20, mode="first-order", **options
    )


@pytest.fixture(scope="module")
def origin(go_once):
    return go_once("origin", steps=6, alpha_lr=0.5)


@pytest.fixture(scope="module")
def rested(go_once, origin):
    """The search that nobody interrupts."""
    run = resting(go_once, "whole", origin)
    assert (run.status, run.n_steps) == ("finished", 6)
    return run


class Killed(Exception):
    pass


class Kill(Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, search, step, result):
        if step + 1 == self.step:
            raise Killed


@pytest.mark.parametrize(
    ("how", "at", "checkpoint_every"),
    [("stop", 3, 100), ("stop", 4, 100), ("stop", 4, 2), ("stop", 5, 1), ("kill", 5, 2), ("kill", 5, 4), ("kill", 3, 100), ("kill", 6, 3)],
)
def test_an_interrupted_search_ends_at_the_same_step_bit_for_bit(go, origin, rested, tmp_path, how, at, checkpoint_every):
    whole = rested
    shutil.copytree(origin.path, tmp_path / "origin")
    if how == "stop":
        resting(go, "part", tmp_path / "origin", callbacks=[StopAt(at)], checkpoint_every=checkpoint_every)
    else:
        with pytest.raises(Killed):
            resting(go, "part", tmp_path / "origin", callbacks=[Kill(at)], checkpoint_every=checkpoint_every)
    assert not (tmp_path / "part" / "structure.json").exists()
    shutil.rmtree(tmp_path / "origin")  # alpha is in the checkpoint now
    part = search(resume=tmp_path / "part", progress=False)
    assert (part.status, part.n_steps) == ("finished", 6)
    assert part.early_stop == whole.early_stop
    assert np.array_equal(part.alphas(), whole.alphas())
    assert part.structure() == whole.structure()
    a, b = (load_file(run.path / CHECKPOINT) for run in (whole, part))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with safe_open(whole.path / CHECKPOINT, "pt") as f, safe_open(part.path / CHECKPOINT, "pt") as g:
        assert f.metadata() == g.metadata()
    pd.testing.assert_frame_equal(whole.evals(), part.evals())


def test_what_has_stopped_early_is_not_resumed(go, origin):
    run = resting(go, "run", origin)
    for again in (lambda: search(resume=run.path), lambda: run.resume(), lambda: relaunch(run)):
        with pytest.raises(RunError, match=r"at step 6 of 20: selected structure unchanged for 2 evaluations"):
            again()
    with pytest.raises(RunError, match="stopped early"):
        search(resume=run.path)
    assert open_run(run.path).status == "finished"
    # Killed between its last checkpoint and its end: resuming only ends it.
    (run.path / "structure.json").unlink()
    with RunWriter.attach(run.path) as writer:
        writer.set_status("running")
    assert open_run(run.path).status == "dead"
    done = search(resume=run.path, progress=False)
    assert (done.status, done.n_steps, done.early_stop) == ("finished", 6, run.early_stop)
    assert (run.path / "structure.json").exists()


def _rewrite(path, change):
    tensors = load_file(path)
    with safe_open(path, "pt") as f:
        metadata = f.metadata()
    change(metadata)
    save_file(tensors, path, metadata)


def test_checkpoints_of_before_and_damaged_ones(go):
    run = go("run", callbacks=[StopAt(3)])
    for damaged in ('{"selected": [0]}', '{"selected": ["x"], "since": 0, "latest": 0, "unchanged": 0}', "[]", "{", "7"):
        _rewrite(run.path / CHECKPOINT, lambda m, damaged=damaged: m.update(stability=damaged))
        with pytest.raises(RunError, match="damaged"):
            search(resume=run.path, progress=False)
    _rewrite(run.path / CHECKPOINT, lambda m: m.pop("stability"))
    assert search(resume=run.path, progress=False).status == "finished"


# -- who says so -------------------------------------------------------------------------------------------


@pytest.fixture
def early(tmp_path):
    return toy_search(tmp_path / "early", eval_every=2, stop_when_stable=3, steps=400, **RESTS)


SAID = "at step 8 of 400: selected structure unchanged for 3 evaluations (steps 2 to 8)"


def test_every_reader_says_it(early, tmp_path):
    assert repr(early) == "Run('early', finished early, 8/400 steps, 12 gates)"
    assert f"finished {SAID}" in early._repr_html_()
    assert early.wait(1, progress=True) is early
    (found,) = [f for f in health(early) if f.code == "stopped-early"]
    assert (found.level, SAID in found.text) == ("note", True)
    (few,) = [f for f in health(early) if f.code == "few-steps"]
    assert "stop_when_stable" in few.text
    shown = " ".join(CliRunner().invoke(app, ["show", str(early.path)], env={"COLUMNS": "200"}).output.split())
    assert f"status finished {SAID}" in shown
    assert SAID in report(early, tmp_path / "report.html").read_text()


def test_the_live_views_say_it(early):
    frame = Feed(early).poll()
    assert (frame.status, frame.early_stop, frame.seconds_left) == ("finished", SAID, None)
    assert "stopped-early" in {finding.code for finding in frame.findings}
    assert watcher.line(frame).startswith(f"finished {SAID} · loss ")
    result = CliRunner().invoke(app, ["watch", str(early.path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"finished {SAID}" in result.output
    result = CliRunner().invoke(app, ["watch", str(early.path), "--once"], env={"COLUMNS": "200"})
    assert f"early, {SAID}" in " ".join(result.output.split())


def test_a_live_views_bar_is_full_at_the_end(early):
    import s3pet_viz as s3

    view = s3.watch(early)
    try:
        live = json.loads(view.page.get_state()["live"])
        assert (live["step"], live["steps_total"], live["status"]) == (8, 400, "finished")
        assert live["early_stop"] == SAID, "so that the page's bar is full"
    finally:
        view.close()


def test_runs_that_took_all_their_steps_or_were_stopped_say_nothing_of_it(tmp_path):
    whole = written_run(tmp_path / "whole", line_of_gates([3, 3]), [1.0, 2.0], budget=3, steps=2)
    part = toy_search(tmp_path / "part", callbacks=[StopAt(3)])
    for run, status in ((whole, "finished"), (part, "stopped")):
        assert run.early_stop is None
        assert repr(run).count(status) == 1
        assert "early" not in repr(run)
        assert "early" not in watcher.line(Feed(run).poll())


# -- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_when_stable": 3}, "eval_every: expected 1 or more where stop_when_stable is given .*found stop_when_stable 3 and eval_every 0; try eval_every 20"),
        ({"stop_when_stable": -1}, "stop_when_stable: expected a whole number of at least 0, found -1"),
        ({"stop_when_stable": True, "eval_every": 1}, "stop_when_stable"),
        ({"stop_when_stable": 2.5, "eval_every": 1}, "stop_when_stable"),
        ({"start_from": ""}, "start_from: expected a run, its folder, or"),
        ({"start_from": 7}, "start_from: expected a run, its folder, or"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig(task="t", backbone="b", budget=1, **options)


def test_the_command_line_takes_both(origin, task_folder, tiny_folder, tmp_path):
    assert _arguments({"stop_when_stable": 3, "start_from": origin}) == [
        "--stop-when-stable", "3", "--start-from", str(origin.path),
    ]  # fmt: skip
    result = CliRunner().invoke(
        app,
        ["search", "--task", str(task_folder), "--backbone", str(tiny_folder("t5", layers=1)), "--budget", "600", "--quiet",
         "--out", str(tmp_path / "run"), "--steps", "20", "--batch-size", "8", "--alpha-lr", "1e-7", "--mode", "first-order",
         "--eval-every", "2", "--stop-when-stable", "2", "--start-from", str(origin.path)],
        env={"COLUMNS": "200"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "status finished at step 6 of 20: selected structure unchanged for 2 evaluations (steps 2 to 6)" in said
    assert f"alpha from origin, step 5 ({len(origin.gates_list)} of {len(origin.gates_list)} gates)" in said
    assert "next: s3pet tune" in said
    result = CliRunner().invoke(app, ["search", "--resume", str(tmp_path / "run"), "--quiet"])
    assert result.exit_code == 2
    assert "stopped early at step 6 of 20" in result.stderr


def test_a_search_too_short_to_end_early_is_told():
    with pytest.warns(UserWarning, match="after step 40 at the earliest: this one has 30 steps"):
        SearchConfig(task="sentiment", backbone="tiny-t5", budget="0.2%", steps=30, eval_every=10, stop_when_stable=3)
