"""Whatever holds a structure can be drawn: runs, files of ours, files of the published implementation; one or many."""

from __future__ import annotations

import json

import numpy as np
import pytest

from s3pet_viz.errors import ConfigError, RunError, StructureError
from s3pet_viz.figures import compare_table, curves, heatmap, heatmap_table, overlap_table, sums_table
from s3pet_viz.figures._data import labels
from s3pet_viz.figures._grid import Grid
from s3pet_viz.figures._style import TITLE_CHARS, wrap
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Structure, from_s3delta, read_final_alphas

BIAS = {"sequential": {"BitFitParallel": {}}}
LINEAR = {"parallel": {"Lora": {"lora_r": 1}}, **BIAS}
NORM = {"parallel": {"LNFit": {}}, **BIAS}
SPACE_M = [
    {**{f"SelfAttention.{x}": LINEAR for x in "qkvo"}, "DenseReluDense.wi": LINEAR, "DenseReluDense.wo": LINEAR,
     "layer_norm": NORM, "final_layer_norm": NORM},
    {name: {"sequential": {"LowRankAdapter": {}}} for name in ("DenseReluDense", "SelfAttention")},
]  # fmt: skip
TABLE = """=========================alphas=========================
|encoder.block.0.layer.0.SelfAttention.q       | parallel    |Lora             |0.0009766  |1.50000  |0.60000
|encoder.block.1.layer.0.layer_norm            | sequential  |BitFitParallel   |0.0004883  |0.50000  |0.40000
|decoder.final_layer_norm                      | parallel    |LNFit            |0.0004883  |-1.00000  |0.10000
========================================================
"""


@pytest.fixture
def alphas(tmp_path):
    path = tmp_path / "final_alphas.txt"
    path.write_text(TABLE)
    return path


def test_every_kind_of_file(run, tmp_path, alphas):
    structure = run.structure()
    ours = structure.save(tmp_path / "structure.json")
    theirs = tmp_path / "config.json"
    theirs.write_text(json.dumps([{"encoder.block.3.layer.0.SelfAttention.q": LINEAR}]))
    assert heatmap_table(ours).equals(heatmap_table(structure))
    table = heatmap_table(theirs)
    assert table["row"].tolist() == ["SelfAttn.Q · LoRA", "SelfAttn.Q · BitFit"]
    assert "size not known" in np.array(heatmap(theirs).data[0].customdata).ravel()
    table = heatmap_table(alphas)
    assert table["column"].tolist() == ["E.0", "E.1", "D.final"]
    assert table["p"].tolist() == [0.6, 0.4, 0.1]
    assert table["rank"].tolist() == [1, 2, 3]
    budget = round(0.6 * 1024 + 0.4 * 512 + 0.1 * 512)
    assert read_final_alphas(alphas).budget == budget
    assert table["selected"].tolist() == [False, True, False]  # 1,024 do not fit 870
    assert heatmap_table(alphas, budget=2000)["selected"].tolist() == [True, True, False]
    assert heatmap_table(alphas, budget=2000)["p"] @ table["n_params"] == pytest.approx(2000, rel=1e-6)


def test_wrong_files(run, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(StructureError, match="broken.json: expected JSON"):
        heatmap(path)
    path.write_text("{}")
    with pytest.raises(StructureError, match="broken.json"):
        heatmap(path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(StructureError, match="notes.txt: line 1"):
        heatmap(tmp_path / "notes.txt")
    with pytest.raises(RunError, match="no such run"):
        heatmap(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match="found none"):
        heatmap([])
    with pytest.raises(ConfigError, match="only a run can be solved again"):
        heatmap(run.structure(), budget=30)
    with pytest.raises(StructureError, match="size of gate .* is not known"):
        sums_table(from_s3delta({"encoder.final_layer_norm": BIAS}))


def test_several_runs(run, empty, tmp_path):
    other = _shifted(run, tmp_path / "other", lambda alpha: alpha[::-1])
    table = heatmap_table([run, other])
    one, two = heatmap_table(run), heatmap_table(other)
    np.testing.assert_allclose(table["p"], (one["p"] + two["p"]) / 2)
    assert table["count"].tolist() == (one["selected"].astype(int) + two["selected"]).tolist()
    assert table["selected"].tolist() == (one["selected"] & two["selected"]).tolist()  # more than half of two
    assert sorted(table["rank"]) == list(range(1, len(table) + 1))
    assert table.loc[table["rank"] == 1, "p"].item() == table["p"].max()
    figure = heatmap([run, other], value="count")
    z = np.array(figure.data[0].z)
    assert sorted(z[np.isfinite(z)]) == sorted(table["count"])
    assert figure.data[0].zmax == 2
    # A run without steps has no say in p, but its gates are there.
    np.testing.assert_allclose(heatmap_table([run, empty]).iloc[: len(one)]["p"], one["p"])


def test_structures_are_counted(run):
    figure = heatmap([run.structure(), run.structure(budget=60)])
    assert np.nanmax(np.array(figure.data[0].z)) == 2
    with pytest.raises(ConfigError, match="a structure has no p"):
        heatmap([run.structure()], value="p")


def test_runs_that_share_nothing(run, alphas):
    for function in (lambda: heatmap([run, alphas]), lambda: compare_table(run, alphas)):
        with pytest.raises(ConfigError, match="share no gate: their search spaces or backbones differ"):
            function()


def test_labels_tell_runs_apart(tmp_path, run):
    made = []
    for i, (task, seed, budget) in enumerate([("data/tasks/rte", 0, 40), ("data/tasks/rte", 1, 40), ("glue/cb", 0, 40),
                                              ("glue/cb", 0, 40)]):  # fmt: skip
        facts = {"name": f"run{i}", "backbone": "tiny", "backbone_params": 100_000, "budget": budget}
        with RunWriter.create(tmp_path / str(i), gates=run.gates_list, config={"task": task, "seed": seed}, extra=facts):
            made.append(open_run(tmp_path / str(i)))
    assert labels(made) == ["rte · seed 0", "rte · seed 1", "cb · seed 0 (3)", "cb · seed 0 (4)"]
    assert labels(made[:2]) == ["seed 0", "seed 1"]
    assert labels([Structure((), "x" * 99)])[0] == "x" * 16 + "…" + "x" * 15
    assert len(set(labels([run, run]))) == 2


def test_titles_wrap():
    assert wrap("a · b") == "a · b"
    long = " · ".join(["word" * 6] * 6)
    assert all(len(line) <= TITLE_CHARS for line in wrap(long).split("<br>"))
    assert wrap(long).replace("<br>", " · ") == long
    assert wrap("x" * 200) == "x" * 200


def test_names_are_no_mark_up(hostile, run):
    from s3pet_viz import figures as f

    drawn = [
        f.curves(hostile), f.sums(hostile), f.budget_path(hostile), f.compare(hostile, hostile),
        f.overlap([hostile, hostile]), f.agreement([hostile, hostile]), f.consensus([hostile, hostile]),
        f.heatmap([hostile, hostile]),
    ]  # fmt: skip
    for figure in drawn:
        assert "<script>alert" not in figure.to_html(include_plotlyjs=False)
    with pytest.raises(TypeError, match="expected a run"):
        curves(3)
    with pytest.raises(ConfigError, match="at least two"):
        overlap_table([run])


def test_t5_large_is_readable_at_1300_px():
    gates = from_s3delta(SPACE_M, backbone="t5-large").gates
    figure = heatmap(Structure(gates, "t5-large"))
    grid = Grid(gates)
    assert (len(gates), len(grid.rows), len([c for c in grid.columns if c])) == (916, 22, 50)
    labels_x, font = figure.layout.xaxis.ticktext, figure.layout.xaxis.tickfont.size
    longest = 0.56 * figure.layout.yaxis.tickfont.size * max(len(row) for row in grid.rows)
    plot = 1300 - (longest + 24) - 110  # rows' labels; colour bar, its numbers and title
    pitch = plot / len(grid.columns)
    assert figure.layout.xaxis.tickangle == -90  # so a label is as wide as its font is high
    assert pitch > 1.2 * font * 1.15
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert height / len(grid.rows) > 1.2 * figure.layout.yaxis.tickfont.size
    assert 0.56 * font * max(map(len, labels_x)) < figure.layout.margin.b  # upright labels fit below
    # Encoder and decoder: a column's gap between them, and a head over each.
    at = dict(zip(labels_x, figure.layout.xaxis.tickvals, strict=True))
    assert at["D.0"] - at["E.final"] == 2
    heads = {a.text: a.x for a in figure.layout.annotations}
    assert heads == {"encoder": 12.0, "decoder": 38.0}
    # Title, legend and heads are stacked: none reaches the next.
    top, legend_y = figure.layout.margin.t, (1 - figure.layout.legend.y) * figure.layout.height
    assert 16 + 20 < legend_y < top - 24 - 20


def _shifted(run, path, change):
    with RunWriter.create(path, gates=run.gates_list, config={}, extra={
        "backbone": "tiny", "backbone_params": 100_000, "budget": 40, "name": path.name}) as writer:  # fmt: skip
        alpha = change(run.alpha())
        from s3pet_viz.structure import probabilities, solve_shift

        zeta = solve_shift(alpha, run.counts, 40)
        writer.append(step=0, seconds=0, zeta=zeta, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=probabilities(alpha, zeta))
    return open_run(path)
