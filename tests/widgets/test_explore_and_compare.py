"""Explore a structure and compare runs: what pages get is what the runs hold; what is large is read when it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from widget_runs import HOSTILE, space

from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs import layout
from s3pet_viz.runs.listing import Listing
from s3pet_viz.structure import probabilities
from s3pet_viz.structure.budget import select_with_fill
from s3pet_viz.viewer import documents
from s3pet_viz.widgets import CompareRuns, StructureExplorer


def doc(view) -> dict:
    return json.loads(view.page.get_state()["doc"])


def told(view) -> dict:
    return json.loads(view.page.get_state()["live"])


# -- the explorer ------------------------------------------------------------------------------------------


def test_it_opens_at_the_runs_own_structure(finished):
    run = finished()
    view = StructureExplorer(run)
    assert repr(view) == "StructureExplorer('sentiment on tiny')"
    assert view.structure() == run.structure()
    assert view.structure(budget=15) == run.structure(budget=15)
    assert np.flatnonzero(view.frame.selected).tolist() == [g.index for g in run.structure().gates]
    assert doc(view)["parts"] == list(documents.EXPLORE_PARTS)
    known = run.structure().to_dict()
    del known["source"]["step"]  # the page says which step it copies
    assert doc(view)["structure"] == {**known, "gates": [], "n_params": 0}
    view.close()


def test_new_steps_are_taken_up_as_they_come(growing):
    source = growing()
    source.write(3)
    view = StructureExplorer(source.path)
    source.write(2)
    view._update()
    assert told(view)["rows"]["count"] == 5
    view.close()


def test_a_run_without_steps_is_refused(growing):
    with pytest.raises(RunError, match="no steps recorded yet"):
        StructureExplorer(growing().path)


def test_what_explain_measured_comes_along(finished):
    run = finished()
    assert doc(StructureExplorer(run))["effects"] is None
    gates = run.structure().gates
    effects = [GateEffect(gate, p=0.5, alpha=0.1, rank=1, loss_increase=0.1 * i, loss_increase_se=0.01) for i, gate in enumerate(gates)]
    Explanation(tuple(effects), task="sentiment", backbone="tiny").save(run.path)
    told = doc(StructureExplorer(run))["effects"]
    assert told == [{"gate": e.gate.index, "increase": e.loss_increase, "se": 0.01} for e in effects]
    # Of another structure than the run's: not shown beside it.
    Explanation(tuple(effects[:-1]), task="sentiment", backbone="tiny").save(run.path)
    assert doc(StructureExplorer(run))["effects"] is None


def test_every_gate_of_a_space_has_its_place(finished):
    """The page can tell each gate: its row and column, its size, what it is."""
    run = finished(gates=space(3, 2, 6))
    view = StructureExplorer(run)
    made = doc(view)["space"]
    view.close()
    assert len({(r, c) for r, c in zip(made["row"], made["col"], strict=True)}) == len(run.gates_list)
    for i, gate in enumerate(run.gates_list):
        assert made["rows"][made["row"][i]] == gate.row
        assert made["columns"][made["col"][i]] == gate.column
        assert (made["n"][i], made["position"][i], made["type"][i]) == (gate.n_params, gate.position, gate.pet_type)
        assert json.loads(made["options"][i]) == gate.options
    assert made["columns"].count("") == 1, "a gap between the stacks"


# -- comparing ---------------------------------------------------------------------------------------------


def wire(view, monkeypatch) -> list[set[str]]:
    """Names of what is sent to the page, message by message."""
    sent: list[set[str]] = []

    def hear(message, buffers=None):
        sent.append({*message["state"], *(path[0] for path in message["buffer_paths"])})

    monkeypatch.setattr(view.page, "_send", hear)
    return sent


@pytest.fixture
def folder(finished, tmp_path):
    for task in ("rte", "cb"):
        for seed in (0, 1):
            finished(f"runs/{task}-{seed}", task=task, seed=seed, steps=4 + seed)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    return tmp_path / "runs"


def test_runs_are_found_and_picked(folder):
    found = Listing(folder)
    assert len(found.runs) == 4
    assert len(found.problems) == 1
    assert "broken" in found.problems[0]
    assert {facts["task"] for facts in found.facts.values()} == {"cb", "rte"}
    assert "task rte · budget 40 · seed 1 · rte-1" in found.facts



def test_a_page_gets_each_run_at_its_end(folder):
    view = CompareRuns(folder)
    assert repr(view) == "CompareRuns(4 runs)"
    made, values = doc(view), np.frombuffer(view.page.get_state()["values"], np.float32)
    assert len(made["runs"]) == 4
    for entry, (label, run) in zip(made["runs"], view.listing.runs.items(), strict=True):
        assert entry["label"] == label
        assert entry["facts"] == {"task": run.config["task"], "budget": "40", "seed": str(run.config["seed"])}
        assert np.array_equal(values[entry["offset"] : entry["offset"] + entry["size"]], run.alpha())
        assert probabilities(run.alpha(), entry["zeta"], entry["tau"]) == pytest.approx(run.p(), abs=1e-6)
        assert (entry["step"], entry["status"], entry["budget"]) == (run.n_steps - 1, "finished", 40)
        assert entry["own"] == [g.index for g in run.structure().gates]
        fills = set(select_with_fill(run.alpha(), run.counts, 40).fill.tolist())
        assert entry["fill"] == [i in fills for i in entry["own"]]
    assert len(made["left_out"]) == 1
    assert "broken" in made["left_out"][0]
    view.close()


def test_gates_of_different_spaces_are_one_space(finished):
    """What only one run has, the other lacks; places of gates stay as runs are added."""
    a, b = finished("a"), finished("b", gates=space(2, 2, 4))
    view = CompareRuns([a, b])
    made = doc(view)
    positions = list(zip(made["space"]["position"], made["space"]["type"], strict=True))
    assert len(set(positions)) == len(positions)
    assert set(positions) == {g.key for run in (a, b) for g in run.gates_list}
    for entry, run in zip(made["runs"], (a, b), strict=True):
        at = entry["at"] or range(entry["size"])
        assert [positions[i] for i in at] == [g.key for g in run.gates_list]
    view.close()


def test_what_is_too_much_is_opened_when_it_is_looked_at(folder, monkeypatch):
    monkeypatch.setattr(documents, "_AT_ONCE", 1)
    view = CompareRuns(folder)
    opened = lambda: ["size" in entry for entry in doc(view)["runs"]]  # noqa: E731
    assert opened() == [True, True, False, False]
    sent = wire(view, monkeypatch)
    view._heard(view.page, {"kind": "open", "run": 3}, [])
    assert opened() == [True, True, False, True]
    entry, run = doc(view)["runs"][3], list(view.listing.runs.values())[3]
    values = np.frombuffer(view.page.get_state()["values"], np.float32)
    assert np.array_equal(values[entry["offset"] :], run.alpha())
    assert sent == [{"doc", "values", "live"}], "in one message"
    view.close()


def test_an_answer_that_was_lost_is_sent_again_once(folder, monkeypatch):
    view = CompareRuns(folder)
    sent = wire(view, monkeypatch)
    for _ in range(20):
        view._heard(view.page, {"kind": "open", "run": 0}, [])
    assert sent == [{"doc", "values", "live"}]
    view.close()


@pytest.mark.parametrize("run", [99, -9, "x", None])
def test_what_cannot_be_opened_is_said(folder, run):
    view = CompareRuns(folder)
    view._heard(view.page, {"kind": "open", "run": run}, [])
    assert told(view)["problem"]
    view.close()


def test_a_run_that_is_damaged_meanwhile_is_said(folder, monkeypatch):
    monkeypatch.setattr(documents, "_AT_ONCE", 1)
    view = CompareRuns(folder)
    label = list(view.listing.runs)[2]
    (folder / label.split(" · ")[-1] / layout.GATES).write_text("{")
    view._heard(view.page, {"kind": "open", "run": 2}, [])
    assert layout.GATES in told(view)["problem"]
    view._heard(view.page, {"kind": "open", "run": 3}, [])
    assert told(view) == {}, "the next one is well"
    view.close()


def test_a_gate_is_picked_in_both(folder):
    view = CompareRuns(folder)
    view.selection = (1, 9)
    assert view.selection == (1, 9)
    with pytest.raises(ConfigError, match="expected gates from 0 to 9"):
        view.selection = (10,)
    view.close()


def test_nothing_to_compare_is_said(tmp_path, growing):
    with pytest.raises(RunError, match="nothing: no such run directory"):
        CompareRuns(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="at least one run with steps"):
        CompareRuns(tmp_path)
    with pytest.raises(ConfigError, match="no steps yet"):
        CompareRuns([growing().path])


def test_only_known_themes(finished):
    with pytest.raises(ConfigError, match="theme: expected one of auto, light, dark, found 'pink'"):
        CompareRuns([finished()], theme="pink")
    assert doc(CompareRuns([finished("b")], theme="dark"))["theme"] == "dark"


def test_hostile_runs_are_text(finished):
    run = finished("a", task=HOSTILE, name=HOSTILE)
    for view in (CompareRuns([run, finished("b")]), StructureExplorer(run)):
        assert HOSTILE in view.page.doc.replace('\\\\"', '"'), "the page writes text, never HTML (js/draw.js)"
        assert "<img" not in view._static.value
        assert "&lt;img" in view._static.value
        view.close()
