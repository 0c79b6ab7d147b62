"""Every mode takes its step over units of rank one, and figures draw them: one cell a position, the rank in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_problems import SGD, t5_state, tiny_t5, written_run

from s3pet_viz import figures
from s3pet_viz.backbones import positions
from s3pet_viz.engine.modes import MODES
from s3pet_viz.engine.prune import Pruning
from s3pet_viz.pet import candidate_gates, load_space
from s3pet_viz.viewer.documents import Compared


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_step_over_units(mode):
    options = {}
    if mode == "prune":
        counts = [g.n_params for g in candidate_gates(positions(tiny_t5()), load_space("LoRA-ranks"))[0]]
        options["pruning"] = Pruning(counts, 0.3 * sum(counts), 10, constant_loss=3.0)
    state = t5_state(tiny_t5(), space="LoRA-ranks", optimizer=SGD if mode == "exact" else None, **options)
    before = state.alpha.clone()
    for step in range(2):
        MODES[mode](state, step)
    assert torch.isfinite(state.alpha).all()
    assert not torch.equal(before, state.alpha)
    if mode != "prune":
        p = state.gates.probabilities(state.alpha)
        expected = float(p @ torch.tensor(state.gates.counts, dtype=p.dtype))
        assert expected == pytest.approx(state.gates.budget, rel=1e-6)


def test_figures_show_the_rank_of_each_cell(tmp_path):
    gates, _ = candidate_gates(positions(tiny_t5()), load_space("LoRA-ranks"))
    rng = np.random.default_rng(0)
    budget = sum(g.n_params for g in gates) // 3
    alphas = [rng.normal(size=len(gates)) for _ in range(2)]
    runs = [
        written_run(tmp_path / str(k), gates, a, budget=budget, backbone_params=10**6) for k, a in enumerate(alphas)
    ]
    ranks = {}
    for gate in runs[0].structure().gates:
        ranks[gate.position] = ranks.get(gate.position, 0) + 1
    figure = figures.heatmap(runs[0])
    cells = figure.data[0]
    shown = [int(word) for row in cells.text for word in row if word]
    assert sorted(shown) == sorted(ranks.values())
    assert cells.zmax == 8
    assert float(np.nansum(np.array(cells.z, dtype=float))) == pytest.approx(float(runs[0].p().sum()), rel=1e-6)
    table = figures.overlap_table(runs)
    assert table["gates"][1] == runs[0].structure().overlap(runs[1].structure())
    chance = figures.agreement_table(runs, draws=50)
    assert chance["overlap"][0] == pytest.approx(table["gates"][1])
    compared = figures.compare_table(*runs)
    both, either = (compared["chosen"] == "both").sum(), (compared["chosen"] != "").sum()
    assert both / either == pytest.approx(table["gates"][1])
    for drawn in (figures.heatmap(runs), figures.consensus(runs), figures.compare(*runs), figures.trace(runs[0])):
        assert len(drawn.data)
    doc = Compared({"a": runs[0], "b": runs[1]}, {"a": {}, "b": {}}, key="k").doc
    mine, theirs = ({run["at"][i] if run["at"] else i for i in run["own"]} for run in doc["runs"])
    assert len(mine & theirs) / len(mine | theirs) == pytest.approx(table["gates"][1])
