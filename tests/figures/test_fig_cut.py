"""At the cut, and why not: against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file
from widget_runs import space

import s3pet_viz as s3
from s3pet_viz import figures
from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.analysis.first_order import first_order
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import probabilities, solve_shift

GATES = space(4, 0)  # LoRA of 10, BitFit of 5, on E.0 to E.3
COUNTS = np.array([g.n_params for g in GATES])
#: By rank: gates 0 (10), 2 (10), 1 (5), 4 (10), 3 (5), 6 (10), 5 (5), 7 (5). Budget 30: 0, 2, 1 in, 4 too large, 3 fills.
ALPHA = np.array([8.0, 6.0, 7.0, 4.0, 5.0, 2.0, 3.0, 1.0]) / 4


def made(path, alpha=ALPHA, mode="fast", moments=None, seed=0):
    config = {"task": "mood", "backbone": "tiny", "mode": mode, "seed": seed, "budget": "30"}
    extra = {"backbone": "tiny", "backbone_params": 1000, "budget": 30, "steps_total": 1}
    with RunWriter.create(path, gates=GATES, config=config, extra=extra) as writer:
        zeta = solve_shift(alpha, COUNTS, 30)
        p = probabilities(alpha, zeta)
        writer.append(step=0, seconds=1, zeta=zeta, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=p)
        writer.set_status("finished")
    if moments is not None:
        (path / "checkpoint").mkdir()
        save_file({"alpha_opt.m": moments, "alpha_opt.t": np.array(1)}, path / "checkpoint" / "state.safetensors")
    return open_run(path)


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "run")


def test_the_last_in_and_the_first_out(run, tmp_path):
    other = made(tmp_path / "other", np.roll(ALPHA, 2), seed=1)  # 2, 4, 3 in, 6 too large, 5 fills
    table = figures.cut_table(run, n=2, seeds=[other])
    assert table["gate"].tolist() == [1, 4, 3, 6]
    assert table["side"].tolist() == ["in", "out", "fill", "out"]
    assert table["rank"].tolist() == [3, 4, 5, 6]
    assert table["n_params"].tolist() == [5, 10, 5, 10]
    np.testing.assert_allclose(table["distance"], [0.25, 0, -0.25, -0.5])
    assert table["seeds"].tolist() == [1, 1, 2, 0]
    assert set(table["of"]) == {2}
    names = [GATES[i].label for i in (3, 1)]
    assert table["swap_for"].tolist() == ["", " + ".join(names), "", " + ".join(names)]
    assert table["gain"].isna().all()
    assert "pass scores=" in table.attrs["gain"]
    assert figures.cut_table(run, n=100)["gate"].tolist() == [0, 2, 1, 4, 3, 6, 5, 7]
    assert figures.cut_table(run, n=100)["of"].unique().tolist() == [1]


def test_a_swap_frees_no_more_than_it_must(tmp_path):
    """Small gates that a large one has made needless stay."""
    table = figures.cut_table(made(tmp_path / "r", np.array([8.0, 9.0, 7.0, 6.0, 5.0, 3.0, 4.0, 2.0])), n=9)
    row = table[table["side"] == "out"].iloc[0]
    assert row["n_params"] == 10
    assert row["swap_for"] == GATES[2].label, "of 10; that of 5 which ranks below it may stay"


def test_gains_come_from_what_was_recorded(tmp_path):
    moments = np.linspace(-1, 1, len(GATES))
    run = made(tmp_path / "fast", moments=moments)
    p = run.p().astype(float)
    found = first_order(run)
    np.testing.assert_allclose(found.gain, -moments / (1 - 0.9) / (p * (1 - p)))
    table = figures.cut_table(run, n=9).set_index("gate")
    assert table.loc[4, "swap_cost"] == pytest.approx(found.gain[1] + found.gain[3] - found.gain[4])
    pruned = made(tmp_path / "prune", np.log([8.0, 6, 7, 4, 5, 2, 3, 1]), mode="prune")
    np.testing.assert_allclose(first_order(pruned).gain, [8, 6, 7, 4, 5, 2, 3, 1], rtol=1e-6)
    shut = made(tmp_path / "shut", ALPHA * 200, moments=moments)
    assert np.isnan(first_order(shut).gain).any()
    still = made(tmp_path / "still", moments=moments * 0)
    assert np.isnan(first_order(still).gain).all()
    (run.path / "checkpoint" / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match="the checkpoint is damaged"):
        first_order(run)
    wrong = made(tmp_path / "wrong", moments=moments[:3])
    with pytest.raises(RunError, match="expected 8 finite numbers"):
        first_order(wrong)


def test_bars_of_a_few_gates_are_no_wider_than_those_of_all(run):
    """plotly makes them as wide as the next one of their trace is far: they would cover other gates' rows."""
    bars = [trace for trace in figures.cut(run, n=4).data if trace.type == "bar"]
    assert len(bars) == 3
    assert {trace.width for trace in bars} == {0.7}


def test_importance_stands_beside(run):
    effects = [GateEffect(gate, loss_increase=float(i), loss_increase_se=0.5) for i, gate in enumerate(run.structure().gates)]
    explained = Explanation(tuple(effects), "mood", "tiny")
    table = figures.cut_table(run, n=9, explanation=explained).set_index("gate")
    assert table.loc[[0, 1, 2, 3], "importance"].tolist() == [0, 1, 2, 3]
    assert table.loc[[4, 5, 6, 7], "importance"].isna().all()
    drawn = figures.cut(run, explanation=explained)
    assert [trace.name for trace in drawn.data] == ["in", "fills the rest of the budget", "out", "the cut", "importance"]
    assert drawn.data[-1].error_x.array[0] == 0.5


def test_too_dear_and_unimportant_are_told_apart(tmp_path):
    """Gains by hand (of mode prune exp(alpha)): chosen 0, 2, 1, 3 give 8, 7, 6 and 4; a quarter gives less than 5.5."""
    gains = np.array([8.0, 6, 7, 4, 5.8, 2, 5.6, 5.55])
    run = made(tmp_path / "r", np.log([8.0, 6, 7, 4, 5, 2, 3, 1]), mode="prune")
    table = s3.why_not(run).set_index("gate")
    assert table["reason"].to_dict() == {4: "too large", 6: "unimportant", 5: "unimportant", 7: "unimportant"}
    assert table.loc[4, "left"] == 5
    assert table["enters"].to_dict() == {4: 35, 6: 50, 5: 55, 7: 60}
    for gate, row in table.iterrows():  # what is said of a budget holds
        assert GATES[gate].key in run.structure(int(row["enters"])).keys
    scored = made(tmp_path / "s", ALPHA, moments=-gains * 0.1 * (p := made(tmp_path / "t").p().astype(float)) * (1 - p))
    found = s3.why_not(scored).set_index("gate")
    assert found["reason"].to_dict() == {4: "too large", 6: "too dear", 5: "unimportant", 7: "close"}
    assert "larger than most of them" in found.loc[6, "why"]
    assert s3.why_not(made(tmp_path / "u")).set_index("gate")["reason"].to_dict() == {
        4: "too large", 6: "ranked too low", 5: "ranked too low", 7: "ranked too low",
    }  # fmt: skip


def test_a_gate_is_asked_for_by_name(run):
    assert s3.why_not(run, "E.2 *LoRA")["gate"].tolist() == [4]
    assert s3.why_not(run, GATES[0])["reason"].tolist() == ["chosen"]
    assert s3.why_not(str(run.path), ["E.2 *LoRA", GATES[0]])["gate"].tolist() == [0, 4]
    for wrong, words in (("E.9", "gates: no gate"), ([], "gates: expected"), (3, "gates: expected")):
        with pytest.raises(ConfigError, match=words):
            s3.why_not(run, wrong)
    with pytest.raises(ConfigError, match="scores: expected what s3.score gives"):
        s3.why_not(run, scores=3)
    with pytest.raises(ConfigError, match="n: expected a whole number of at least 1"):
        figures.cut_table(run, n=0)


def test_gates_that_were_not_searched_say_so(tmp_path):
    *gates, inert, inside, outside = [*space(4, 0), *space(0, 2)[1:]]
    gates = [gate for gate in gates if gate.stack == "encoder"]
    extra = {"backbone": "tiny", "backbone_params": 1000, "budget": 35, "inert": [inert.to_dict()]}
    extra["pinned"] = {"in": [inside.to_dict()], "out": [outside.to_dict()]}
    with RunWriter.create(tmp_path / "r", gates=gates, config={}, extra=extra) as writer:
        zeta = solve_shift(ALPHA, COUNTS, 35 - inside.n_params)
        p = probabilities(ALPHA, zeta)
        writer.append(step=0, seconds=1, zeta=zeta, train_loss=1, val_loss=1, lr=1, alpha=ALPHA, p=p)
    run = open_run(tmp_path / "r")
    found = s3.why_not(run).set_index("name")["reason"]
    assert found[inert.label] == "cannot help"
    assert found[outside.label] == "pinned out"
    assert s3.why_not(run, [inside])["reason"].tolist() == ["pinned in"]
    assert inside.label not in figures.cut_table(run, n=99)["name"].tolist()
    marks = {trace.name: list(trace.x) for trace in figures.compare(run, run).data if trace.name and "pinned" in trace.name}
    assert {name: len(x) for name, x in marks.items()} == {"pinned in by hand": 1, "pinned out by hand": 1}
