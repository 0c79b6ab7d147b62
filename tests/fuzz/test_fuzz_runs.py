"""Run directories of which one file is wrong: they open, or are refused by name; nothing else happens."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz_problems import changed, fuzz, outcome, wrong_bytes, wrong_file
from hypothesis import given
from hypothesis import strategies as st
from report_problems import write_run
from rich.console import Console

from s3pet_viz import figures
from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.analysis.health import health
from s3pet_viz.cli._output import facts_table, gates_table, heatmap_text
from s3pet_viz.cli.show import _facts_of_run
from s3pet_viz.reports import page as page_module
from s3pet_viz.reports import report
from s3pet_viz.runs import open_run
from s3pet_viz.runs.layout import steps_schema
from s3pet_viz.runs.tail import TailLog

STEPS = "steps/part-00000.arrow"
JSON_FILES = ("run.json", "structure.json", "scores.json", "explain.json", "control.json")


def make(folder: Path) -> Path:
    run = write_run(folder / "calm", 6)
    effects = tuple(GateEffect(g, p=0.5, alpha=0.1, rank=1, loss_increase=0.1, loss_increase_se=0.1) for g in run.structure().gates)
    Explanation(effects, task="mood", backbone="tiny", n_rows=8, loss=0.5).save(run.path)
    scores = {"task": "mood", "metrics": {"score": 0.5, "loss": 0.25}, "history": [{"step": 1, "score": 0.5}]}
    (run.path / "scores.json").write_text(json.dumps(scores))
    lines = [{"step": s, "val_loss": 0.5, "selected": [1, 2], "selected_params": 10, "part": 0} for s in (2, 5)]
    (run.path / "evals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.path / "control.json").write_text(json.dumps({"kind": "s3pet_viz.control", "schema_version": 1, "request": "stop", "pid": 1}))
    return run.path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("fuzz-runs"))


def read_all(folder: Path) -> None:
    """Everything that a reader of a run may do, but draw."""
    run = open_run(folder)
    for _ in (run.status, run.ended, run.error, run.early_stop, run.seconds_left, run.counts, repr(run), run._repr_html_()):
        pass
    run.gates(), run.steps(), run.trace(), run.trace(gates=[0], step_stride=2), run.evals(), run.scores()
    run.alpha(0), run.p(), run.p(budget="0.1%"), run.structure(step=0)
    run.structure()._repr_html_()
    run.structure(budget="0.3%")
    health(run)
    Explanation.load(run)._repr_html_()
    log = TailLog(run.path, run.counts)
    log.refresh()
    heatmap_text(run, 100), gates_table(run, most=None), _facts_of_run(run)


def draw_all(folder: Path) -> None:
    run = open_run(folder)
    out = Console(file=io.StringIO(), markup=False, width=100)
    out.print(heatmap_text(run, 100)), out.print(gates_table(run, most=None)), out.print(facts_table(_facts_of_run(run)))
    for draw in (figures.heatmap, figures.trace, figures.curves, figures.sums, figures.budget_path):
        draw(folder).to_json()
    report(folder, folder.parent / "report.html")


@pytest.mark.parametrize("name", JSON_FILES)
def test_json(folder, name):
    good = (folder / name).read_bytes()

    @given(wrong_file(good, is_json=True))
    @fuzz(30)
    def check(content):
        with changed(folder / name, content):
            outcome(f"run: {name}", lambda: read_all(folder), names=str(folder))

    check()


@pytest.mark.parametrize("name", ["run.json", "structure.json", "scores.json", "explain.json"])
def test_drawn(folder, name, monkeypatch):
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "var Plotly;")
    good = (folder / name).read_bytes()

    @given(wrong_file(good, is_json=True))
    @fuzz(4)
    def check(content):
        with changed(folder / name, content):
            outcome(f"drawn: {name}", lambda: draw_all(folder), names=str(folder))

    check()


def test_evaluations(folder):
    path = folder / "evals.jsonl"
    good = path.read_bytes()

    @given(wrong_bytes(good) | wrong_line(good))
    @fuzz(30)
    def check(content):
        with changed(path, content):
            outcome("run: evals.jsonl", lambda: open_run(folder).evals(), names=path.name)

    check()


@st.composite
def wrong_line(draw, good: bytes) -> bytes:
    from fuzz_problems import wrong_json

    lines = good.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(wrong_json(json.loads(lines[at]))).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


# -- the Arrow files ---------------------------------------------------------------------------------------


def test_bytes_of_gates(folder):
    path = folder / "gates.parquet"
    good = path.read_bytes()

    @given(wrong_file(good, is_json=False))
    @fuzz(40)
    def check(content):
        with changed(path, content):
            outcome("run: gates.parquet, bytes", lambda: read_all(folder), names=str(folder))

    check()


_CELLS = {
    "int": [0, -1, 1, -2, 5, 10**4, 10**9, 2**62, 2**63 - 1, -(2**63)],
    "text": ["", "x", "\0", "LoRA", "encoder", "decoder", "Final.LN", "{}", "[]", "{", '{"r": NaN}', "x" * 70_000, "<b>", "‮", "\x1b["],
}


@st.composite
def wrong_table(draw, table: pa.Table) -> pa.Table:
    column = draw(st.sampled_from(table.column_names))
    values = table.column(column).to_pylist()
    kind = table.schema.field(column).type
    how = draw(st.sampled_from(["cell", "cell", "cell", "cell", "null", "type", "drop", "rows", "twice"]))
    at = table.column_names.index(column)
    if how == "drop":
        return table.drop_columns([column])
    if how == "rows":
        return table.slice(draw(st.integers(0, 3)), draw(st.integers(0, 5)))
    if how == "twice":
        return table.append_column(column, table.column(column))
    if how == "type":
        other = draw(st.sampled_from([pa.float64(), pa.int32(), pa.binary(), pa.large_string(), pa.bool_(), pa.list_(pa.int64())]))
        return table.set_column(at, column, pa.nulls(len(values), other))
    row = draw(st.integers(0, len(values) - 1))
    values[row] = None if how == "null" else draw(st.sampled_from(_CELLS["int" if kind == pa.int64() else "text"]))
    return table.set_column(at, column, pa.array(values, kind))


def test_cells_of_gates(folder):
    path = folder / "gates.parquet"
    table = pq.ParquetFile(path).read()

    @given(wrong_table(table))
    @fuzz(40)
    def check(wrong):
        sink = io.BytesIO()
        pq.write_table(wrong, sink)
        with changed(path, sink.getvalue()):
            outcome("run: gates.parquet, cells", lambda: read_all(folder))

    check()


def test_bytes_of_steps(folder):
    path = folder / STEPS
    good = path.read_bytes()

    @given(wrong_file(good, is_json=False))
    @fuzz(50)
    def check(content):
        with changed(path, content):
            outcome("run: steps, bytes", lambda: read_all(folder))

    check()


_NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 2.0, 1e-320, 3e38, -3e38, 1e300, -1e300]


@st.composite
def wrong_steps(draw, rows: list[dict], n_gates: int) -> bytes:
    rows = [{k: list(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from(list(row)))
        if name == "step":
            row[name] = draw(st.sampled_from([0, -1, 5, 2**31, 2**63 - 1, -(2**63)]))
        elif name in ("alpha", "p"):
            value = draw(st.sampled_from(_NUMBERS))
            with np.errstate(over="ignore"):
                row[name][draw(st.integers(0, n_gates - 1))] = float(np.float32(value))
        else:
            row[name] = draw(st.sampled_from(_NUMBERS))
    schema = steps_schema(n_gates, draw(st.sampled_from([0, 0, 0, 3, 2**62])))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for row in rows:
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
    return sink.getvalue()


def test_numbers_of_steps(folder):
    path = folder / STEPS
    rows = pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()

    @given(wrong_steps(rows, len(rows[0]["alpha"])))
    @fuzz(40)
    def check(content):
        with changed(path, content):
            outcome("run: steps, numbers", lambda: read_all(folder))

    check()


def test_numbers_drawn(folder, monkeypatch):
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "var Plotly;")
    path = folder / STEPS
    rows = pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()

    @given(wrong_steps(rows, len(rows[0]["alpha"])))
    @fuzz(6)
    def check(content):
        with changed(path, content):
            outcome("drawn: steps", lambda: draw_all(folder))

    check()
