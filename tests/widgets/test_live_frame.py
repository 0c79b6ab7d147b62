"""Frames of a run that is watched: right numbers, bounded memory, errors said and not raised."""

from __future__ import annotations

import numpy as np
import pytest

from s3pet_viz.analysis.measures import entropy
from s3pet_viz.errors import RunError
from s3pet_viz.runs import RunWriter, layout
from s3pet_viz.runs.tail import TailLog
from s3pet_viz.structure import probabilities, select
from s3pet_viz.structure.budget import expected_params
from s3pet_viz.viewer import pack
from s3pet_viz.viewer.feed import Feed


def rows(feed: Feed) -> tuple[np.ndarray, np.ndarray]:
    """Steps and alpha that a page would get."""
    about, scalars, values = feed.log.history.part(0)
    assert about["wide"]
    return (
        np.frombuffer(scalars).reshape(-1, len(pack.SCALARS))[:, 0],
        np.frombuffer(values, np.float32).reshape(-1, len(feed.gates)),
    )


def test_a_frame_holds_what_the_run_holds(growing):
    source = growing()
    feed = Feed(source.path)
    first = feed.poll()
    assert (first.status, first.step, first.p) == ("running", None, None)
    assert feed.poll() is None
    source.write(4)
    frame = feed.poll()
    run = feed.run
    assert (frame.step, frame.steps_total, frame.budget, frame.backbone_params) == (3, 10, 40, 100_000)
    assert np.array_equal(frame.p, run.p())
    assert np.array_equal(frame.alpha, run.alpha())
    assert np.flatnonzero(frame.selected).tolist() == select(run.alpha(), run.counts, 40).tolist()
    assert frame.chosen_params == run.structure().n_params
    assert frame.seconds_left == pytest.approx(6 * 0.5)
    assert (frame.scalars["step"], frame.scalars["train_loss"], frame.scalars["val_loss"]) == (3, 1 / 4, 2 / 4)
    assert frame.scalars["zeta"] == pytest.approx(run.steps()["zeta"].iloc[-1], abs=1e-5)
    assert frame.scalars["entropy"] == pytest.approx(entropy(run.p()).mean(), rel=1e-5)
    assert frame.scalars["expected"] == pytest.approx(expected_params(run.p(), run.counts))
    assert frame.own is None, "the run has not ended"
    assert [finding.code for finding in frame.findings] == ["few-steps"]
    assert feed.poll() is None


@pytest.mark.parametrize("name", ["similarity-0.2pct-s0", "minilm-open-sst2-0.0139pct-s0"])
def test_the_shift_that_travels_gives_the_recorded_p(name):
    """Not the log's zeta: that is of the alpha before a step; alpha and p are of after it."""
    feed = Feed(name)
    frame = feed.poll()
    run, tau = feed.run, feed.run.info["tau"]
    zeta = np.frombuffer(feed.log.history.part(0)[1]).reshape(-1, len(pack.SCALARS))[:, pack.SCALARS.index("zeta")]
    for step in (0, 3, 77, run.n_steps // 2, run.n_steps - 1):
        assert probabilities(run.alpha(step=step), zeta[step], tau) == pytest.approx(run.p(step=step), abs=1e-6)
    assert frame.scalars["zeta"] == zeta[-1]


def test_the_shift_of_p_at_its_limits_and_of_a_damaged_p():
    alpha = np.float32([[0, 1], [0, 1], [0, 1]])
    p = np.float32([[1, 1], [np.nan, np.nan], [0.5, 0.9]])
    found = pack.shift_of(alpha, p, np.array([7.0, 8.0, 9.0]), 0.5)
    assert found.tolist() == [-np.inf, 8.0, 0.0]


def test_the_end_and_its_reason_are_seen(growing):
    source = growing()
    feed = Feed(source.path)
    source.write(2)
    assert not feed.poll().ended
    source.end("failed", error="NonFiniteLossError: nan")
    frame = feed.poll()
    assert (frame.status, frame.error, frame.ended) == ("failed", "NonFiniteLossError: nan", True)
    assert frame.seconds_left is None


def test_the_structure_that_the_run_wrote_is_the_chosen_one(growing):
    source = growing()
    source.write(3)
    feed = Feed(source.path)
    run = feed.run
    chosen = run.structure(budget=20)
    source.writer.write_structure(chosen)
    frame = feed.poll()
    assert {g.key for g, taken in zip(run.gates_list, frame.selected, strict=True) if taken} == chosen.keys
    assert {run.gates_list[i].key for i in frame.own} == chosen.keys
    assert frame.chosen_params == chosen.n_params


def test_a_reading_error_is_in_the_frame_once_and_goes_away(growing):
    source = growing()
    source.write(2)
    feed = Feed(source.path)
    feed.poll()
    whole = (source.path / layout.RUN_JSON).read_bytes()
    (source.path / layout.RUN_JSON).write_text("{")
    broken = feed.poll()
    assert "run.json" in broken.problem
    assert broken.step == 1, "what was seen before stays"
    assert feed.poll() is None
    (source.path / layout.RUN_JSON).write_bytes(whole)
    assert feed.poll().problem is None


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        Feed(tmp_path / "nothing")
    with pytest.raises(TypeError, match="run: expected a run, .*found 3"):
        Feed(3)  # type: ignore[arg-type]


def test_a_resume_takes_rows_back(growing):
    source = growing()
    source.write(6)
    feed = Feed(source.path)
    feed.poll()
    source.end("stopped")
    with RunWriter.resume(source.path, from_step=4) as writer:
        source.writer, source.step = writer, 4
        source.write(1)
        frame = feed.poll()
        assert (frame.status, frame.step) == ("running", 4)
        assert rows(feed)[0].tolist() == [0, 1, 2, 3, 4]


def test_the_tail_of_a_log_in_pieces_is_the_log(finished, monkeypatch):
    run = finished(steps=150)
    monkeypatch.setattr("s3pet_viz.runs.steps._CHUNK", 1000)  # less than one row, at first
    log = TailLog(run.path, run.counts)
    log.refresh()
    assert np.array_equal(log.column("val_loss"), run.steps()["val_loss"])
    assert np.array_equal(log.last.alpha, run.alpha())
    samples = log.samples()
    assert len(samples) <= 65
    assert np.array_equal(samples[0], run.alphas()[0])
    assert np.array_equal(samples[-1], run.alphas()[-1])
    assert all((run.alphas() == sample).all(axis=1).any() for sample in samples)


def test_a_torn_tail_is_waited_for(growing):
    source = growing()
    source.write(3)
    log = TailLog(source.path, source.counts)
    log.refresh()
    part = layout.part_paths(source.path)[0]
    whole = part.read_bytes()
    source.write(1)
    added = part.read_bytes()[len(whole) :]
    part.write_bytes(whole + added[:40])
    log.refresh()
    assert len(log) == 3
    with part.open("ab") as f:
        f.write(added[40:])
    log.refresh()
    assert len(log) == 4


def test_memory_hardly_grows(growing):
    source = growing()
    log = TailLog(source.path, source.counts)
    for _ in range(30):
        source.write(100)
        log.refresh()
    held = sum(values.nbytes for values in log._data.values()) + sum(a.nbytes for a in log._samples.values())
    # 8 numbers a step, and at most twice that while the arrays double; of the gates 65 rows.
    assert len(log) == 3000
    assert held <= 2 * 3000 * 8 * 8 + 65 * len(source.counts) * 4


def test_the_history_is_the_log(finished):
    run = finished(steps=150)
    feed = Feed(run)
    feed.poll()
    steps, alpha = rows(feed)
    assert steps.tolist() == list(range(150))
    assert np.array_equal(alpha, run.alphas())
    scalars = np.frombuffer(feed.log.history.part(0)[1]).reshape(150, -1)
    table = run.steps()
    for k, name in enumerate(pack.SCALARS[:5]):
        if name != "zeta":  # see below
            assert np.array_equal(scalars[:, k], table[name]), name
    assert scalars[:, 5] == pytest.approx(entropy(run.ps()).mean(axis=1), abs=1e-7)
    assert scalars[:, 6] == pytest.approx(expected_params(run.ps(), run.counts))


def test_alpha_that_moves_too_far_apart_for_codes_is_read_again(growing, monkeypatch):
    monkeypatch.setattr(pack, "MOST_WIDE", 12 * 40)
    monkeypatch.setattr(pack, "_LEVEL", 1e-3)
    source = growing()
    source.write(20)
    feed = Feed(source.path)
    feed.poll()
    assert not feed.log.history.wide
    source.write(100)
    feed.poll()
    assert feed.log.history.wide
    assert np.array_equal(rows(feed)[1], feed.run.alphas())
    source.write(1)
    assert feed.poll().step == 120
    assert np.array_equal(rows(feed)[1], feed.run.alphas())
