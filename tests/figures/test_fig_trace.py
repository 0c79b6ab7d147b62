"""Probabilities over steps: the table, and what reaches the figure."""

from __future__ import annotations

import numpy as np
import pytest

from s3pet_viz.errors import ConfigError, RunError
from s3pet_viz.figures import trace, trace_table


def test_table_holds_the_top_gates(run):
    table = trace_table(run, top=4)
    gates = run.gates()
    assert set(table["gate"]) == set(gates[gates["rank"] <= 4]["index"])
    assert len(table) == 4 * 8
    ps = run.ps()
    for row in table[table["gate"] == table["gate"][0]].itertuples():
        assert row.p == ps[row.step, row.gate]
    selected = dict(zip(gates["index"], gates["selected"], strict=True))
    assert all(selected[row.gate] == row.selected for row in table.itertuples())
    assert table["name"][0] == f"{table['column'][0]} {table['row'][0]}"


def test_table_of_named_gates_thinned(run):
    table = trace_table(run, gates=["E.1", 0], max_steps=3)
    assert table["gate"].drop_duplicates().tolist() == [3, 4, 5, 0]
    assert table["step"].drop_duplicates().tolist() == [0, 3, 6, 7]


def test_figure_names_chosen_gates(run):
    figure, table = trace(run, top=5), trace_table(run, top=5)
    assert figure.data[0].name == "other gates"
    last = table[table["step"] == 7].sort_values("p", ascending=False)
    names = [("● " if s else "○ ") + n for n, s in zip(last["name"], last["selected"], strict=True)]
    assert [t.name for t in figure.data[1:]] == names
    np.testing.assert_array_equal(figure.data[1].y, table[table["gate"] == last["gate"].iloc[0]]["p"])


def test_other_gates_are_one_light_trace(large):
    figure = trace(large)
    assert len(figure.data) == 13
    others = np.array(figure.data[0].y)
    assert np.isnan(others).sum() == len(large.gates_list) - 12
    assert len(others) < 50_000


def test_a_run_without_steps(empty):
    assert trace_table(empty).empty
    assert len(trace(empty).data) == 0


def test_every_gate_named_leaves_no_others(encoder):
    figure = trace(encoder, top=1000)
    assert len(figure.data) == len(encoder.gates_list)


def test_names_are_no_mark_up(hostile):
    assert "&lt;script&gt;" in trace(hostile).layout.title.text


def test_wrong_arguments(run):
    with pytest.raises(ConfigError, match="top"):
        trace(run, top=0)
    with pytest.raises(RunError, match="none such"):
        trace(run, gates=["E.77"])
