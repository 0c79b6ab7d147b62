"""Explore a structure and compare runs: right answers, drawn; names are text; sliders do not lag."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from widget_runs import HOSTILE, space

from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs.measures import jaccard
from s3pet_viz.widgets import CompareRuns, StructureExplorer
from s3pet_viz.widgets._latest import Latest
from s3pet_viz.widgets.scene import ALL, ExplorerModel, Query
from s3pet_viz.widgets.shelf import Shelf, _number


@pytest.fixture
def explorer(finished):
    view = StructureExplorer(finished())
    yield view
    view.close()


def outlined(view: StructureExplorer) -> int:
    return len(view.heatmap.data[1].x) // 6


# -- the model ---------------------------------------------------------------------------------------------


@pytest.fixture
def model(finished):
    return ExplorerModel(finished())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(0, 7), budget=st.integers(5, 75))
def test_a_scene_is_what_the_run_answers(model, row, budget):
    scene = model.scene(Query(row, budget))
    assert scene.p == pytest.approx(model.run.p(row, budget=budget))
    structure = model.run.structure(budget=budget, step=row)
    assert {model.gates[i].key for i in np.flatnonzero(scene.selected)} == structure.keys
    assert scene.params == structure.n_params <= budget
    assert (scene.step, scene.shown.all()) == (row, True)


def test_filters_and_facts(model):
    assert model.choices("stack") == [ALL, "encoder", "decoder"]
    assert model.choices("pet_type") == [ALL, "LoRA", "BitFit"]
    scene = model.scene(Query(7, 40, stack="decoder", pet_type="LoRA"))
    assert [model.gates[i].column for i in np.flatnonzero(scene.shown)] == ["D.0", "D.1"]
    facts = model.facts(scene, 0)
    assert facts["position"] == "encoder.0.SelfAttn.Q"
    assert facts["options"] == "r = 1"
    assert facts["parameters"] == "10 (25.00% of the budget)"
    assert facts["rank"].endswith("of 10")
    assert "step 7 · 6 of 10 gates chosen · 40 of 40 parameters used (100.0%)" in model.summary(scene)
    steps, p = model.trace(3)
    assert steps.tolist() == list(range(8))
    assert np.array_equal(p, model.run.ps()[:, 3])


def test_a_run_without_steps_is_refused(growing):
    with pytest.raises(RunError, match="no steps recorded yet"):
        StructureExplorer(growing().path)


# -- the explorer ------------------------------------------------------------------------------------------


def test_it_opens_at_the_runs_own_structure(explorer):
    assert repr(explorer) == "StructureExplorer('run')"
    assert explorer.structure() == explorer.model.run.structure()
    assert outlined(explorer) == len(explorer.structure())


def test_the_budget_slider_solves_again(explorer):
    explorer.budget_slider.value = 15
    assert explorer.wait()
    expected = explorer.model.run.structure(budget=15)
    assert explorer.structure() == expected
    assert outlined(explorer) == len(expected)
    assert "15 of 15 parameters used" in explorer._summary.value
    explorer.own_button.click()
    assert explorer.wait()
    assert outlined(explorer) == len(explorer.model.run.structure())


def test_the_step_slider_goes_back(explorer):
    explorer.step_slider.value = 2
    assert explorer.wait()
    assert explorer.scene.step == 2
    assert explorer.trace.data[1].x == (2, 2)
    assert explorer.structure() == explorer.model.run.structure(step=2)


def test_play_reaches_the_end(explorer, monkeypatch):
    monkeypatch.setattr("s3pet_viz.widgets.explorer._REPLAY_RATE", 50)
    explorer.play_button.value = True
    assert explorer.play_button.description == "Pause"
    deadline = time.monotonic() + 10
    while explorer.play_button.value and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (explorer.play_button.value, explorer.play_button.description) == (False, "Play")
    assert explorer.step_slider.value == 7


def test_filters_hide_cells(explorer):
    explorer.pet_type_filter.value = "LoRA"
    assert explorer.wait()
    drawn = [value for row in explorer.heatmap.data[0].z for value in row if value is not None]
    assert len(drawn) == 5
    assert "of 5 shown gates are chosen" in explorer._summary.value


def test_a_gate_by_click_and_by_name(explorer):
    cells = explorer.heatmap.data[0]
    points = type("Points", (), {"xs": [4], "ys": [0]})()  # as plotly reports a click on a cell
    for callback in cells._click_callbacks:
        callback(cells, points, None)
    assert explorer.wait()
    gate = explorer.model.gates[explorer.scene.query.gate]
    assert (gate.column, gate.pet_type) == ("D.0", "LoRA")
    assert "decoder.0.SelfAttn.Q" in explorer._facts.value
    assert (explorer.heatmap.data[2].x, explorer.heatmap.data[2].y) == ((4,), (0,))
    explorer.gate_box.value = "E.1 SelfAttn.Q · BitFit"
    assert explorer.wait()
    assert np.array_equal(explorer.trace.data[0].y, explorer.model.run.ps()[:, 3])
    explorer.gate_box.value = "nonsense"
    assert "expected a name from the list" in explorer._message.value
    assert explorer.scene.query.gate == 3


def test_reload_takes_up_new_steps(growing):
    source = growing()
    source.write(3)
    view = StructureExplorer(source.path)
    source.write(2)
    view.reload_button.click()
    assert view.wait()
    assert (view.step_slider.max, view.scene.step) == (4, 4)
    view.close()


def test_every_control_has_a_label(explorer, finished):
    compare = CompareRuns([finished("a"), finished("b", seed=1)])
    controls = [
        explorer.step_slider, explorer.play_button, explorer.budget_slider, explorer.stack_filter, explorer.gate_box,
        explorer.reload_button, *compare.filters.values(), compare.left, compare.right, compare.overlap_by,
    ]  # fmt: skip
    assert all(control.description for control in controls)
    compare.close()


def test_the_budget_slider_is_quick(growing):
    """100 ms for 1,000 gates is the promise; a busy machine of two cores gets three times as long."""
    source = growing(gates=space(84, 83, 6)[:1000], budget=2000)
    source.write(20)
    view = StructureExplorer(source.path)
    took = []
    for budget in (100, 500, 1000, 1500, 3000):
        began = time.perf_counter()
        view.budget_slider.value = budget
        assert view.wait()
        took.append(time.perf_counter() - began)
    assert np.median(took) < 0.3, took
    assert len(view.model.gates) == 1000
    view.close()


def test_only_the_latest_is_worked_on():
    done, gate = [], threading.Event()

    def work(value: int) -> None:
        done.append(value)
        gate.wait(5)

    latest = Latest(work, on_error=lambda error: done.append(-1), interval=0)
    latest.submit(0)
    deadline = time.monotonic() + 5
    while not done and time.monotonic() < deadline:
        time.sleep(0.001)
    began = time.perf_counter()
    for value in range(1, 200):
        latest.submit(value)
    assert time.perf_counter() - began < 0.5, "submitting never waits for the work"
    gate.set()
    assert latest.wait()
    assert done == [0, 199]
    latest.close()
    latest.submit(5)
    assert done == [0, 199]


def test_an_error_of_the_work_is_reported():
    said: list[str] = []
    latest: Latest[int] = Latest(lambda value: 1 // value, on_error=lambda error: said.append(str(error)), interval=0)
    latest.submit(0)
    assert latest.wait()
    assert said == ["integer division or modulo by zero"]
    latest.close()


# -- comparing ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(finished, tmp_path):
    for task in ("rte", "cb"):
        for seed in (0, 1):
            finished(f"runs/{task}-{seed}", task=task, seed=seed, steps=4 + seed)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    return tmp_path / "runs"


def test_runs_are_found_and_picked(folder):
    shelf = Shelf(folder)
    assert len(shelf.runs) == 4
    assert len(shelf.problems) == 1
    assert "broken" in shelf.problems[0]
    assert shelf.choices("task") == [ALL, "cb", "rte"]
    assert shelf.choices("seed") == [ALL, "0", "1"]
    assert shelf.pick(task="rte", seed="1") == ["task rte · budget 40 · seed 1 · rte-1"]
    assert len(shelf.pick(task=ALL)) == 4


def test_budgets_are_in_order():
    assert sorted(["1%", "0.2%", "0.05", "8404", "x"], key=_number) == ["x", "0.2%", "1%", "0.05", "8404"]


def test_two_runs_side_by_side_and_their_difference(folder):
    view = CompareRuns(folder)
    assert repr(view) == "CompareRuns(4 runs)"
    a, b = (view.shelf.runs[name] for name in (view.left.value, view.right.value))
    for figure, run in ((view.left_heatmap, a), (view.right_heatmap, b)):
        drawn = sorted(value for row in figure.data[0].z for value in row if value is not None)
        assert drawn == pytest.approx(np.sort(run.p()).tolist(), rel=1e-3)
        assert len(figure.data[1].x) == 6 * len(run.structure())
    differences = sorted(value for row in view.difference.data[0].z for value in row if value is not None)
    assert differences == pytest.approx(np.sort(b.p().astype(float) - a.p()).tolist(), abs=1e-3)
    structures = [run.structure() for run in view.picked]
    assert view.overlap.data[0].z[0][1] == pytest.approx(jaccard(structures[0], structures[1]), abs=1e-3)
    view.close()


def test_filters_narrow_what_is_offered(folder):
    view = CompareRuns(folder)
    view.filters["task"].value = "rte"
    assert view.wait()
    assert view.left.options == ("task rte · budget 40 · seed 0 · rte-0", "task rte · budget 40 · seed 1 · rte-1")
    assert (view.left.value, view.right.value) == view.left.options
    assert len(view.overlap.data[0].z) == 2
    assert "2 of 4 runs" in view._note.value
    view.filters["seed"].value = "0"
    assert view.wait()
    assert view._overlap_box.layout.display == "none"
    assert view._message.value == ""
    view.close()


def test_a_view_reuses_its_figures(folder):
    view = CompareRuns(folder)
    before = [id(figure) for figure in (view.left_heatmap, view.right_heatmap, view.difference, view.overlap)]
    n_traces = len(view.difference.data)
    for name in view.right.options:
        view.right.value = name
        assert view.wait()
    assert [id(f) for f in (view.left_heatmap, view.right_heatmap, view.difference, view.overlap)] == before
    assert len(view.difference.data) == n_traces
    view.close()


def test_hostile_runs_are_text(finished):
    run = finished("a", task=HOSTILE, name=HOSTILE)
    other = finished("b")
    compare, explorer = CompareRuns([run, other]), StructureExplorer(run)
    compare.left.value = compare.left.options[0]
    assert compare.wait()
    for view in (compare, explorer):
        for child in _walk(view):
            if type(child).__name__ == "HTML":
                assert "<img" not in child.value
    for figure in (compare.difference, compare.overlap, explorer.heatmap, explorer.trace):
        assert "<img" not in str(figure.to_dict())
    compare.close()
    explorer.close()


def test_nothing_to_compare_is_said(tmp_path, growing):
    with pytest.raises(ConfigError, match="expected a folder of runs"):
        CompareRuns(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="at least one run with steps"):
        CompareRuns(tmp_path)
    with pytest.raises(ConfigError, match="no steps yet"):
        CompareRuns([growing().path])


def _walk(widget):
    for child in getattr(widget, "children", ()):
        yield child
        yield from _walk(child)
