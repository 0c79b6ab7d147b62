"""Searches with gates pinned by hand: in every mode, resumed, over units, and what reads such a run."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from search_problems import StopAt

import s3pet_viz as s3
from s3pet_viz import figures
from s3pet_viz.analysis.agreement import Found
from s3pet_viz.cli._output import gates_table, heatmap_text
from s3pet_viz.engine.modes import MODES
from s3pet_viz.viewer.documents import run_doc
from s3pet_viz.viewer.feed import Feed
from s3pet_viz.viewer.static import of_run

PIN = {"in": ["E.0 SelfAttn.Q LoRA", "E.0 FFN.LN LNFit"], "out": ["D.*", "*LowRankAdapter"]}


def text(drawn):
    console = Console(file=io.StringIO(), width=100)
    console.print(drawn)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def run(go_once):
    return go_once("pinned", pin=PIN)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_budget_is_exact_and_pins_hold(go, mode):
    run = go(mode, mode=mode, pin=PIN, steps=6)
    inside, outside = ({gate.key for gate in gates} for gates in (run.pinned_in, run.pinned_out))
    assert len(inside) == 2
    assert not (inside | outside) & {gate.key for gate in run.gates_list}
    structure = run.structure()
    assert inside <= structure.keys
    assert not outside & structure.keys
    assert structure.n_params <= structure.budget == run.info["budget"] == 600
    used = run.p().astype(float) @ run.counts + run.pinned_params
    if mode != "prune":
        assert used == pytest.approx(600, rel=1e-5)
    assert run.config["pin"] == PIN
    assert structure.source["pinned"] == {"in": [gate.name for gate in run.pinned_in], "out": PIN["out"]}


def test_what_is_pinned_in_is_open_in_every_pass(go):
    """With every other gate pinned out but one, the pinned gate's weights still learn."""
    moved = {}

    class Look(s3.Callback):
        def on_search_end(self, search):
            net = search.state.problem.net
            at = [gate.label for gate in net.pets.gates].index("E.0 SelfAttn.Q · LoRA")
            assert at >= len(search.gates)
            moved.update({name: float(weight.detach().abs().max()) for name, weight in net.pets[at].named_parameters()})

    run = go("one", pin={"in": ["E.0 SelfAttn.Q LoRA"], "out": ["D.*"]}, callbacks=[Look()])
    assert min(moved.values()) > 0, "B starts at zero"
    assert len(run.structure()) > 1


def test_a_resumed_search_keeps_its_pins(go):
    whole = go("whole", pin=PIN)
    go("parts", pin=PIN, callbacks=[StopAt(4)])
    resumed = s3.search(resume=whole.path.parent / "parts", progress=False)
    np.testing.assert_array_equal(resumed.alpha(), whole.alpha())
    assert resumed.structure() == whole.structure()
    assert resumed.pinned_in == whole.pinned_in


def test_units_can_be_pinned(go):
    pin = {"in": ["*layer.0.SelfAttention.q LoRA.0", "*encoder*.SelfAttention.v LoRA"]}
    run = go("units", pin=pin, space="LoRA-ranks", budget=900)
    at = [gate.position for gate in run.structure().gates]
    value = next(gate.position for gate in run.pinned_in if gate.position.endswith(".v"))
    assert at.count(value) == 8
    assert all(at.count(gate.position) >= 1 for gate in run.pinned_in)
    assert run.structure().n_params <= 900
    for drawn in (figures.heatmap(run), figures.sums(run), figures.curves(run)):
        assert len(drawn.data)


def test_an_early_end_and_a_save_know_pins(go, tmp_path):
    adapter = tmp_path / "adapter"
    run = go("kept", mode="prune", pin=PIN, save=str(adapter), eval_every=2, stop_when_stable=3, steps=12)
    assert s3.Adapter.from_pretrained(adapter).structure == run.structure()
    assert {gate.key for gate in run.pinned_in} <= run.structure().keys
    assert max(max(chosen) for chosen in run.evals()["selected"]) < len(run.gates_list)


@pytest.mark.parametrize(
    ("pin", "error", "words"),
    [
        ({"in": ["nothing"]}, s3.errors.ConfigError, "no gate of this search is named 'nothing'"),
        ({"in": ["*LoRA"]}, s3.errors.BudgetError, "more than the budget of 600"),
    ],
)
def test_what_cannot_be_pinned_leaves_no_run(go, tmp_path, pin, error, words):
    with pytest.raises(error, match=words):
        go("never", pin=pin)
    assert not (tmp_path / "never").exists()


def test_other_budgets_leave_the_pins_their_room(run):
    for budget in (400, 700):
        structure = run.structure(budget)
        assert structure.n_params <= budget
        assert {gate.key for gate in run.pinned_in} <= structure.keys
        assert run.p(budget=budget) @ run.counts + run.pinned_params == pytest.approx(budget, rel=1e-6)
    with pytest.raises(s3.errors.BudgetError, match="of the 2 gates pinned in"):
        run.structure(run.pinned_params)
    path = figures.budget_path_table(run, budgets=[400, 700])
    for budget, rows in path.groupby("budget"):
        assert rows["used"].iloc[0] == run.structure(int(budget)).n_params


def test_no_number_takes_a_pin_for_a_finding(run, go_once):
    other = go_once("pinned 1", pin=PIN, seed=1)
    found = Found.of(run)
    assert not found.structure.keys & {gate.key for gate in run.pinned_in}
    assert found.params == 600 - run.pinned_params == found.structure.budget
    pair = figures.agreement_table([run, other], draws=20)
    one, two = (r.structure(pinned=False) for r in (run, other))
    assert pair["overlap"][0] == pytest.approx(one.overlap(two))
    assert not {"budget-not-kept", "budget-unused"} & {f.code for f in s3.health([run, other])}
    joint = figures.consensus_structure([run, other])
    assert {gate.key for gate in run.pinned_in} <= joint.keys
    assert joint.n_params <= 600
    with pytest.raises(s3.errors.ConfigError, match="the same gates pinned in"):
        figures.consensus_structure([run, go_once("free")])


def test_pictures_mark_what_was_pinned(run):
    drawn = figures.heatmap(run)
    marks = {trace.name: trace for trace in drawn.data}
    assert len(marks["pinned in by hand"].x) == 2
    assert len(marks["pinned out by hand"].x) == len(run.pinned_out)
    assert "2 pinned in" in drawn.layout.title.text
    said = text(heatmap_text(run, 100))
    assert "■ pinned in by hand (2)" in said
    assert said.count("■") == 3
    assert "pinned" in text(gates_table(run))
    assert "squares are 2 pinned in by hand" in of_run(run)
    doc = run_doc(run, key="k", parts=())
    assert doc["space"]["pinned"]["inside"] == 2
    assert doc["run"]["pinned"] == run.pinned_params
    frame = Feed(run).poll()
    assert frame.chosen_params == run.structure().n_params
    curve = figures.curves_table(run)
    np.testing.assert_allclose(curve["expected"], 600, rtol=1e-5)
    whole = figures.heatmap(run.structure())
    assert "pinned in by hand" in {trace.name for trace in whole.data}


def test_a_structure_is_edited_from_its_run(run):
    gate = next(gate for gate in run.candidates if gate.key not in run.structure().keys)
    smaller = run.structure().edit(remove="E.0 FFN*")
    made = smaller.edit(add=gate.name, of=run) if gate.n_params <= 600 - smaller.n_params else smaller
    assert made.source["edits"][0]["by"] == "hand"
    assert made.n_params <= 600


def test_the_rank_of_a_cell_counts_its_pinned_units(go):
    pin = {"in": ["*encoder*SelfAttention.q LoRA.0", "*encoder*SelfAttention.q LoRA.1"]}
    run = go("ranks", pin=pin, space="LoRA-ranks", budget=900)
    at = next(gate for gate in run.gates_list if gate.place == run.pinned_in[0].place)
    want = sum(gate.place == at.place for gate in run.structure().gates)
    drawn = figures.heatmap(run).data[0]
    cell = next(
        (r, c) for r, row in enumerate(drawn.customdata) for c, told in enumerate(row) if at.position in list(told)
    )
    assert drawn.text[cell[0]][cell[1]] == str(want)
    assert want >= 2
