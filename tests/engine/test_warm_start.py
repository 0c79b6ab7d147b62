"""Searches that start from another run's alpha."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hostile_files import spoil
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import line_of_gates, written_run

from s3pet_viz.engine import Callback
from s3pet_viz.engine.start import open_start, start_alpha
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import probabilities, select, solve_shift


class Look(Callback):
    """Keeps the alpha, and the moments of its optimiser, that a search begins with."""

    def on_search_begin(self, search):
        self.alpha = search.state.alpha.numpy().copy()
        optimizer = search.state.alpha_opt
        self.fresh = optimizer.t == 0 and not optimizer.m.any() and not optimizer.v.any()
        self.chosen = search.structure()


@pytest.fixture
def origin(go):
    return go("origin", steps=6, alpha_lr=0.5)


def test_it_begins_where_the_other_ended(go, origin):
    look = Look()
    run = go("run", start_from=origin, alpha_lr=0.01, callbacks=[look])
    there = origin.alpha().astype(np.float64)
    assert look.alpha == pytest.approx(there - there.mean(), abs=1e-12)
    assert abs(look.alpha.mean()) < 1e-12
    p = probabilities(look.alpha, solve_shift(look.alpha, run.counts, 600))
    assert p == pytest.approx(origin.p(), abs=1e-6)
    assert look.chosen == origin.structure()
    assert look.fresh
    # AdamW's first step is at most its rate, so the first recorded p is next to the other's last.
    assert np.abs(run.alphas()[0] - look.alpha).max() <= 0.01 * (1 + 1e-5)
    assert run.ps()[0] == pytest.approx(origin.p(), abs=0.01)
    assert np.abs(run.alphas()[0] - look.alpha).max() > 0
    n = len(run.gates_list)
    assert run.info["start_from"] == {
        "run": "origin", "backbone": origin.info["backbone"], "step": 5, "matched": n, "gates": n,
    }  # fmt: skip
    assert run.config["start_from"] == str(origin.path)


def test_a_path_a_run_and_text_are_the_same(go, origin):
    runs = [go(f"run{i}", start_from=form) for i, form in enumerate([origin, origin.path, str(origin.path)])]
    assert len({run.config["start_from"] for run in runs}) == 1
    assert all(np.array_equal(run.alphas(), runs[0].alphas()) for run in runs)


def test_without_it_alpha_starts_at_zero(go):
    look = Look()
    run = go("run", callbacks=[look], steps=2)
    assert not look.alpha.any()
    assert run.config["start_from"] is None
    assert "start_from" not in run.info


def test_a_recorded_run_by_its_name():
    run = open_start("sentiment-0.2pct-s0")
    assert run.name == "sentiment-0.2pct-s0"
    alpha, facts = start_alpha(run, run.gates_list, backbone="tiny-t5", backbone_params=run.info["backbone_params"])
    assert list(select(alpha, run.counts, run.info["budget"])) == [g.index for g in run.structure().gates]
    assert facts["step"] == run.n_steps - 1


def test_gates_that_the_other_lacks_start_at_the_mean(go):
    origin = go("origin", steps=6, alpha_lr=0.5, space="S3PET-L")
    look = Look()
    run = go("run", start_from=origin, callbacks=[look], steps=2)
    there = {g.key: a for g, a in zip(origin.gates_list, origin.alpha().astype(np.float64), strict=True)}
    lora = np.array([g.key in there for g in run.gates_list])
    assert 0 < lora.sum() == len(there) < len(lora)
    assert not look.alpha[~lora].any()
    expected = [there[g.key] - np.mean(list(there.values())) for g in run.gates_list if g.key in there]
    assert look.alpha[lora] == pytest.approx(expected, abs=1e-12)
    assert (run.info["start_from"]["matched"], run.info["start_from"]["gates"]) == (len(there), len(lora))
    # The other way round, what is too much is left out and the rest has mean 0 again.
    back = Look()
    narrow = go("back", start_from=run, callbacks=[back], steps=2, space="S3PET-L")
    assert narrow.info["start_from"]["matched"] == len(narrow.gates_list) == len(there)
    assert abs(back.alpha.mean()) < 1e-12


SIZES = st.lists(st.integers(1, 9), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(counts=SIZES, shift=st.integers(-64, 64), data=st.data())
def test_a_constant_added_to_all_alpha_changes_nothing(counts, shift, data):
    """Quarters and 64ths are exact in float32, so the two starts are equal to the bit's neighbour."""
    steps = data.draw(st.lists(st.integers(-200, 200), min_size=len(counts), max_size=len(counts)))
    alpha = np.array(steps) / 64
    gates = line_of_gates(counts)
    budget = max(counts)
    with TemporaryDirectory() as folder:
        starts = [
            start_alpha(
                written_run(Path(folder) / name, gates, alpha + moved, budget=budget), gates, backbone="toy",
                backbone_params=1000,
            )[0]
            for name, moved in (("plain", 0), ("moved", shift / 4))
        ]  # fmt: skip
    assert starts[0] == pytest.approx(starts[1], abs=1e-12)
    assert abs(starts[0].sum()) < 1e-9
    p = [probabilities(a, solve_shift(a, counts, budget)) for a in (alpha, starts[1])]
    assert p[0] == pytest.approx(p[1], abs=1e-9)


def test_the_order_of_gates_and_their_options_do_not_matter(tmp_path):
    gates = line_of_gates([3, 3, 3])
    origin = written_run(tmp_path / "origin", gates, [1.0, 2.0, 6.0])
    turned = [type(g)(i, g.position, g.stack, g.layer, g.module, g.pet_type, 30, {"r": 8}) for i, g in enumerate(gates[::-1])]
    alpha, facts = start_alpha(origin, turned, backbone="toy", backbone_params=1000)
    assert alpha.tolist() == [3.0, -1.0, -2.0]
    assert facts["matched"] == 3


def test_another_backbone_is_said(go):
    origin = go("origin", layers=2, steps=2)
    with pytest.warns(UserWarning, match=r"start_from: origin was searched on .* parameters\), this search is on .*names"):
        run = go("run", start_from=origin, layers=1, steps=2)
    # One block of two is left, and the final norm has another layer but the same name.
    assert run.info["start_from"]["matched"] == len(run.gates_list) < len(origin.gates_list)


# -- refusals ----------------------------------------------------------------------------------------------


def test_no_gate_in_common_is_refused(go, origin, tmp_path):
    with pytest.raises(ConfigError, match=r"at least one gate of this search \(\d+ on .*, found origin with none .*S3PET-M on"):
        go("never", form="bert", start_from=origin)
    assert not (tmp_path / "never").exists()


def test_what_cannot_be_started_from_is_refused(go, tmp_path):
    gates = line_of_gates([3, 3])
    written_run(tmp_path / "infinite", gates, [1.0, 2.0])
    spoil(tmp_path / "infinite", "alpha", 1, np.inf)
    RunWriter.create(tmp_path / "empty", gates=gates, config={}).close()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    for name, message in (
        ("nowhere", "no such run directory"),
        ("mood", "found a folder without run.json"),
        ("torn", "damaged"),
        ("empty", "no steps recorded yet"),
        ("infinite", r"step \d+, gate 1: alpha: expected a number .* found inf"),
    ):
        with pytest.raises(RunError, match=f"start_from: .*{name}.*{message}"):
            go("never", start_from=tmp_path / name)
        assert not (tmp_path / "never").exists()
    with pytest.raises(ConfigError, match="start_from"):
        go("never", start_from=3)
    assert not (tmp_path / "never").exists()


def test_a_resumed_search_takes_no_other_start(go, origin):
    from s3pet_viz.engine import search

    with pytest.raises(ConfigError, match="'start_from' cannot be given"):
        search(resume=origin.path, start_from=origin)
    info = json.loads((origin.path / "run.json").read_text())
    assert info["config"]["start_from"] is None
    assert open_run(origin.path).early_stop is None
