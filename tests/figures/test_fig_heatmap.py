"""The heatmap: its table, and what reaches the figure."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

import s3pet_viz.figures
from s3pet_viz.errors import BudgetError, ConfigError, RunError
from s3pet_viz.figures import heatmap, heatmap_table
from s3pet_viz.figures._grid import FILLS
from s3pet_viz.figures.heatmap import Grid
from s3pet_viz.structure import select_with_fill


def test_table_agrees_with_the_run(run):
    table, gates = heatmap_table(run), run.gates()
    assert table["gate"].tolist() == gates["index"].tolist()
    for name in ("row", "column", "n_params", "rank", "selected"):
        assert table[name].tolist() == gates[name].tolist()
    np.testing.assert_allclose(table["p"], gates["p"])
    assert table["p"] @ table["n_params"] == pytest.approx(40, rel=1e-5)
    assert table.loc[table["selected"], "n_params"].sum() <= 40


def test_table_at_another_budget_and_step(run):
    table = heatmap_table(str(run.path), budget=60, step=3)
    assert table["p"] @ table["n_params"] == pytest.approx(60, rel=1e-6)
    chosen = {(g.position, g.pet_type) for g in run.structure(budget=60, step=3).gates}
    assert {(r.position, r.pet_type) for r in table[table["selected"]].itertuples()} == chosen
    np.testing.assert_allclose(table["alpha"], 3 * np.sin(np.arange(len(table))), rtol=1e-6, atol=1e-7)


def test_table_of_a_structure_and_of_a_run_without_steps(run, empty):
    structure = run.structure()
    table = heatmap_table(structure)
    assert table["gate"].tolist() == [g.index for g in structure.gates]
    assert table["selected"].all()
    assert table["p"].isna().all()
    table = heatmap_table(empty)
    assert len(table) == len(empty.gates_list)
    assert not table["selected"].any()


def test_cells_lie_where_the_axes_say(run):
    figure, table = heatmap(run), heatmap_table(run)
    cells = figure.data[0]
    rows, columns = figure.layout.yaxis.ticktext, figure.layout.xaxis.ticktext
    assert rows == (
        "SelfAttn.Q · LoRA",
        "SelfAttn.Q · BitFit",
        "SelfAttn.LN · LNFit",
        "CrossAttn.LN · BitFit",
        "Final.LN · LNFit",
    )
    assert columns == ("E.0", "E.1", "E.2", "E.final", "D.0", "D.1", "D.final")
    at = dict(zip(columns, figure.layout.xaxis.tickvals, strict=True))
    assert at["D.0"] == at["E.final"] + 2  # a gap between the stacks
    z = np.array(cells.z)
    for gate in table.itertuples():
        assert z[rows.index(gate.row), at[gate.column]] == pytest.approx(gate.p)
    # Every other cell is blank, not zero.
    assert np.isfinite(z).sum() == len(table)
    assert np.isnan(z[rows.index("CrossAttn.LN · BitFit"), : at["E.final"] + 2]).all()


def test_chosen_gates_are_outlined_by_one_trace(run):
    figure, table = heatmap(run), heatmap_table(run)
    assert not figure.layout.shapes
    drawn = {t.name: t for t in figure.data}
    assert list(drawn) == ["gates", "chosen", FILLS, "casing"]
    grid = Grid(run.gates_list)
    chosen, fill = table["selected"].to_numpy(), table["fill"].to_numpy()
    for name, mask in (("chosen", chosen & ~fill), (FILLS, fill), ("casing", chosen)):
        x, y = (np.array(drawn[name][axis]).reshape(-1, 6)[:, :4].mean(axis=1) for axis in "xy")
        np.testing.assert_allclose(x, grid.col[mask])
        np.testing.assert_allclose(y, grid.row[mask])
    assert (drawn["chosen"].line.dash, drawn[FILLS].line.dash) == (None, "dot")
    assert [t.name for t in figure.data if t.showlegend] == ["chosen", FILLS]
    # The casing is wider, and under the rings.
    assert drawn["casing"].line.width > drawn["chosen"].line.width
    assert (drawn["casing"].zorder or 0) < drawn["chosen"].zorder == drawn[FILLS].zorder


def test_gates_that_fill_the_rest(run):
    table = heatmap_table(run)
    found = select_with_fill(run.alpha(), run.counts, 40)
    assert np.flatnonzero(table["selected"]).tolist() == found.chosen.tolist()
    assert np.flatnonzero(table["fill"]).tolist() == found.fill.tolist()
    assert len(found.fill)
    np.testing.assert_allclose(table["distance"], run.alpha() - found.cut)
    assert (table.loc[table["selected"] & ~table["fill"], "distance"] >= 0).all()
    assert (table.loc[table["fill"], "distance"] <= 0).all()
    # Where all fit, none fills and there is no cut.
    wide = heatmap_table(run, budget=10_000)
    assert wide["selected"].all()
    assert not wide["fill"].any()
    assert wide["distance"].isna().all()
    assert [t.name for t in heatmap(run, budget=10_000).data] == ["gates", "chosen", "casing"]


def test_scales_can_be_shared(run):
    p = heatmap_table(run)["p"]
    ends = lambda figure: (figure.data[0].zmin, figure.data[0].zmax)  # noqa: E731
    assert ends(heatmap(run)) == ends(heatmap(run, step=0)) == ends(heatmap(run, budget=60)) == (0, 1)
    assert ends(heatmap(run, scale="own")) == pytest.approx((p.min(), p.max()))
    assert ends(heatmap(run, scale=(0.1, 0.3))) == (0.1, 0.3)
    assert ends(heatmap(run, value="alpha", scale=(-2, 5))) == (-5, 5)
    assert ends(heatmap(run, value="selected", scale="own")) == (0, 1)
    assert ends(heatmap(run, step=0, scale="own")) == (0, 1)  # all p are equal
    for wrong in ("p", (1, 0), (0,), 3, ("a", "b"), (float("nan"), 1)):
        with pytest.raises(ConfigError, match="scale: expected 'full', 'own' or two numbers"):
            heatmap(run, scale=wrong)


def test_hover_tells_everything(run):
    cells = heatmap(run).data[0]
    gate, table = run.gates_list[0], heatmap_table(run)
    grid = Grid(run.gates_list)
    data = np.array(cells.customdata)[grid.row[0], grid.col[0]]
    assert gate.position in data
    assert f"{gate.n_params} parameters" in data
    assert format(table["p"][0], ".4g") in data
    assert format(table["distance"][0], "+.4f") in data
    whole = np.array(cells.customdata)[grid.row, grid.col]
    for i, row in table.iterrows():
        said = "fills the rest" if row["fill"] else "chosen" if row["selected"] else "not chosen"
        assert whole[i, 1].replace("<b>", "").startswith(f" · {said}")
    for i in range(len(data)):
        assert f"%{{customdata[{i}]}}" in cells.hovertemplate
    assert cells.hoverongaps is False


@pytest.mark.parametrize("value", ["p", "alpha", "rank", "selected"])
def test_every_value_spans_its_scale(run, value):
    cells, table = heatmap(run, value=value).data[0], heatmap_table(run)
    z = np.array(cells.z)
    assert np.nanmin(z) >= cells.zmin
    assert np.nanmax(z) <= cells.zmax
    assert sorted(z[np.isfinite(z)]) == pytest.approx(sorted(table[value].astype(float)))
    if value == "alpha":
        assert cells.zmin == -cells.zmax
        assert cells.zmax == pytest.approx(np.nanmax(np.abs(z)))


def test_an_encoder_has_no_gap_and_no_stack_names(encoder):
    figure = heatmap(encoder)
    assert figure.layout.xaxis.ticktext == (*(f"E.{i}" for i in range(6)), "E.final")
    assert list(figure.layout.xaxis.tickvals) == list(range(7))
    assert not figure.layout.annotations


def test_a_structure_is_drawn(run):
    structure = run.structure()
    figure = heatmap(structure)
    assert np.nansum(np.array(figure.data[0].z)) == len(structure)
    with pytest.raises(ConfigError, match="a structure has no alpha"):
        heatmap(structure, value="alpha")


def test_a_run_without_steps_is_drawn_blank(empty):
    for value in ("p", "alpha", "rank", "selected"):
        assert len(heatmap(empty, value=value).data[0].z)


def test_titles(run):
    assert heatmap(run).layout.title.text.startswith("tiny · ")
    assert heatmap(run).layout.title.text.endswith("step 7")
    assert "at budget 0.05%" in heatmap(run, budget="0.05%", step=2).layout.title.text
    assert heatmap(run, title="mine").layout.title.text == "mine"


def test_names_are_no_mark_up(hostile):
    figure = heatmap(hostile)
    assert "&lt;script&gt;" in figure.layout.title.text
    assert "<script>alert" not in figure.to_html(include_plotlyjs=False)


def test_wrong_arguments(run, tmp_path):
    with pytest.raises(ConfigError, match="value: expected one of p, alpha, rank, selected"):
        heatmap(run, value="q")
    with pytest.raises(RunError, match="no such run"):
        heatmap(tmp_path / "nowhere")
    with pytest.raises(RunError, match="step 99"):
        heatmap(run, step=99)
    with pytest.raises(BudgetError, match="smallest module"):
        heatmap(run, budget=2)
    with pytest.raises(TypeError, match="expected a run"):
        heatmap(3)


def test_a_thousand_gates_are_cheap(large):
    assert len(large.gates_list) > 900
    heatmap(large)
    start = time.process_time()
    figure = heatmap(large)
    assert time.process_time() - start < 2  # measured 0.12 s; machines differ
    assert len(figure.data) <= 4
    assert figure.layout.xaxis.tickangle == -90


def test_nothing_global_is_touched(run):
    before = pio.templates.default
    figure = heatmap(run)
    assert isinstance(figure, go.Figure)
    assert pio.templates.default == before
    assert figure.layout.template.layout.plot_bgcolor == "white"


def test_figures_never_load_torch():
    code = "import sys, s3pet_viz.figures; print('torch' in sys.modules)"
    root = Path(s3pet_viz.figures.__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "False"
