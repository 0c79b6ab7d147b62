"""What each gate is worth: the table, the panels, and where it may be read from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.figures import importance, importance_table


def explained(run, task="mood", with_p=True) -> Explanation:
    """Gate i of the run's structure: loss increase 0.1 * cos(2 i) with a standard error of 0.02."""
    effects = []
    p = run.p()
    for i, gate in enumerate(run.structure().gates):
        effects.append(
            GateEffect(
                gate, float(p[gate.index]) if with_p else math.nan, 0.0, i + 1, 0.1 * math.cos(2 * i), 0.02, -0.01 * i,
                0.05 * math.cos(2 * i),
            )
        )  # fmt: skip
    return Explanation(tuple(effects), task, "tiny", run.name, n_rows=50, loss=0.3, score=0.9)


def test_table_is_sorted_by_loss_increase(run):
    made = explained(run)
    table = importance_table(made)
    assert sorted(table["gate"]) == [e.gate.index for e in made.effects]
    by_gate = {e.gate.index: e for e in made.effects}
    rises = [by_gate[g].loss_increase for g in table["gate"]]
    assert rises == sorted(rises, reverse=True) == list(table["loss_increase"])
    for row in table.itertuples():
        effect = by_gate[row.gate]
        assert row.name == f"{effect.gate.column} {effect.gate.row}"
        assert (row.p, row.gradient, row.metric_change) == (effect.p, effect.gradient, effect.metric_change)
        assert row.clear == (abs(effect.loss_increase) > 0.04)
    assert 0 < table["clear"].sum() < len(table)


def test_top_keeps_what_moves_the_loss_most(run):
    made = explained(run)
    table = importance_table(made, top=2)
    largest = sorted(made.effects, key=lambda e: -abs(e.loss_increase))[:2]
    assert set(table["gate"]) == {e.gate.index for e in largest}
    assert table["loss_increase"].is_monotonic_decreasing
    assert f"2 of {len(made)} gates" in importance(made, top=2).layout.title.text
    assert len(importance_table(made, top=10_000)) == len(made)


def test_two_panels_share_their_gates(run):
    made = explained(run)
    figure, table = importance(made), importance_table(made)
    clear, noise, gradient, p = figure.data
    assert [t.name for t in figure.data] == ["over 2 standard errors", "may be noise", "gradient estimate", "p"]
    assert list(figure.layout.yaxis.ticktext) == list(table["name"])
    drawn = np.full(len(table), np.nan)
    for bars in (clear, noise):
        drawn[np.asarray(bars.y)] = bars.x
        assert set(bars.error_x.array) <= {0.02}
    np.testing.assert_array_equal(drawn, table["loss_increase"])
    assert list(np.flatnonzero(table["clear"])) == list(clear.y)
    np.testing.assert_array_equal(gradient.x, table["gradient"])
    np.testing.assert_array_equal(gradient.y, np.arange(len(table)))
    np.testing.assert_array_equal(p.x, table["p"])
    assert p.xaxis == "x2"
    assert figure.layout.xaxis.domain[1] < figure.layout.xaxis2.domain[0]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first gate on top
    assert f"{made.rho:+.2f} (n = {len(made)})" in figure.layout.title.text


def test_without_p_there_is_one_panel(run):
    figure = importance(explained(run, with_p=False))
    assert "p" not in [t.name for t in figure.data]
    assert tuple(figure.layout.xaxis.domain) == (0, 1)
    assert "xaxis2" not in figure.to_dict()["layout"]
    assert "correlation" not in figure.layout.title.text


def test_it_reads_a_file_and_a_run(run, tmp_path):
    made = explained(run)
    with pytest.raises(RunError, match="not explained yet"):
        importance(run)
    made.save(run)
    expected = importance(made).to_json()
    for source in (run, run.path, str(run.path), made.save(tmp_path / "mine.json")):
        assert importance(source).to_json() == expected


def test_names_are_no_mark_up(hostile):
    made = explained(hostile, task="<script>alert(1)</script>")
    page = importance(made).to_html(include_plotlyjs=False)
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in importance(made).layout.title.text


def test_each_gate_has_its_own_line(large):
    effects = tuple(GateEffect(g, 0.1, 0.0, 1, 0.001 * g.index, 0.1, 0.0, 0.0) for g in large.gates_list[:80])
    made = Explanation(effects, "mood", "tiny")
    all_of_them, forty, twenty = (importance(made, **top) for top in ({"top": None}, {}, {"top": 20}))
    assert len(all_of_them.layout.yaxis.ticktext) == 80
    assert len(forty.layout.yaxis.ticktext) == 40
    assert (all_of_them.layout.height - forty.layout.height) / 40 >= 20  # px
    assert forty.layout.height > twenty.layout.height


def test_wrong_arguments(run):
    with pytest.raises(ConfigError, match="top: expected 1 or more, found 0"):
        importance(explained(run), top=0)
    with pytest.raises(TypeError, match="expected an explanation, a run"):
        importance(run.structure())
    with pytest.raises(RunError, match="no such run directory"):
        importance(run.path / "nothing.json")
