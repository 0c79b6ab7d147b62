"""What a reader gets from a run, and what it says of a directory that is not one."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s3pet_viz.errors import BudgetError, RunError, StructureError
from s3pet_viz.runs import Run, open_run
from s3pet_viz.structure import ranks, select, solve_shift


@pytest.fixture
def run(create, record):
    writer = create()
    record(writer, range(6))
    writer.set_status("finished")
    writer.close()
    return open_run(writer.path)


def edit(run: Run, **fields: object) -> None:
    path = run.path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# -- what it gives -------------------------------------------------------------------------------------


def test_open_run_takes_a_path_text_or_run(run):
    assert open_run(str(run.path)).path == run.path
    assert open_run(run) is run
    assert run.config == {"task": "glue/rte", "seed": 3}
    assert run.status == "finished"


def test_gates_table(run, gates):
    table = run.gates()
    assert table["index"].tolist() == list(range(7))
    assert table["options"].iloc[0] == {"r": 1}
    assert table["row"].iloc[4] == "FFN · LowRankAdapter"
    assert table["column"].tolist() == ["E.0", "E.0", "E.1", "E.1", "D.0", "E.final", "D.final"]
    # alpha rises with the index, so the last gates come first: 6 + 6 + 12 = 24 of 30.
    assert table["rank"].tolist() == [7, 6, 5, 4, 3, 2, 1]
    assert table["selected"].tolist() == [False, False, False, False, True, True, True]
    np.testing.assert_allclose(table["alpha"], 0.5 * np.arange(7), rtol=1e-6)
    np.testing.assert_allclose(table["p"] @ table["n_params"], 30, rtol=1e-5)


def test_gates_without_steps_are_the_static_table(create):
    run = open_run(create().path)
    assert "p" not in run.gates()
    for call in (run.alpha, run.p, run.structure):
        with pytest.raises(RunError, match="no steps recorded yet"):
            call()
    assert run.trace().empty
    assert run.evals().empty
    assert run.scores() is None


def test_steps_are_addressed_by_number_or_from_the_end(run):
    np.testing.assert_array_equal(run.alpha(5), run.alpha())
    np.testing.assert_array_equal(run.alpha(4), run.alpha(-2))
    for step in (6, -7):
        with pytest.raises(
            RunError, match=rf"step {step} is not recorded; expected one of 0 to 5 \(6 rows\)"
        ):
            run.alpha(step)


def test_a_missing_step_number_is_not_its_neighbour(create, record):
    writer = create()
    record(writer, range(0, 10, 5))
    run = open_run(writer.path)
    assert run.alpha(5)[1] == np.float32(0.5)
    with pytest.raises(RunError, match="step 3"):
        run.alpha(3)


def test_p_at_another_budget_meets_it(run):
    counts = np.array([g.n_params for g in run.gates_list])
    np.testing.assert_allclose(run.p(budget=50) @ counts, 50, rtol=1e-6)
    np.testing.assert_allclose(run.p(budget="0.5%"), run.p(budget=50))
    np.testing.assert_allclose(run.p(budget=30), run.p(), atol=1e-6)
    with pytest.raises(BudgetError):
        run.p(budget="lots")


def test_structure_at_another_budget_and_step(run):
    counts = [g.n_params for g in run.gates_list]
    structure = run.structure(budget=50)
    assert [g.index for g in structure.gates] == select(run.alpha(), counts, 50).tolist()
    assert (structure.budget, structure.backbone, structure.backbone_params) == (50, "tiny-t5", 10_000)
    assert structure.source == {"run": "run", "step": 5, "task": "glue/rte", "seed": 3}
    # At step 0 all alpha are equal: lower index first, 20 + 10.
    assert [g.index for g in run.structure(step=0).gates] == [0, 1]
    with pytest.raises(BudgetError, match="6 parameters"):
        run.structure(budget=5)


def test_its_own_structure_comes_from_the_file(run, create, record):
    writer = create("other")
    record(writer, range(6))
    other = open_run(writer.path)
    writer.write_structure(other.structure(budget=12))
    assert other.structure().n_params == 12
    assert other.structure(step=5).n_params == 24
    (other.path / "structure.json").write_text("{")
    with pytest.raises(StructureError, match=r"structure\.json"):
        other.structure()


def test_tau_counts(create, record):
    writer = create(tau=0.5)
    record(writer, range(3))
    run = open_run(writer.path)
    counts = np.array([g.n_params for g in run.gates_list])
    zeta = solve_shift(run.alpha(), counts, 40, 0.5)
    np.testing.assert_allclose(run.p(budget=40), 1 / (1 + np.exp(-(run.alpha() - zeta) / 0.5)), rtol=1e-6)


def test_trace_is_tidy_and_sliced(run):
    table = run.trace(gates=[3, "encoder.final_layer_norm"], step_stride=2)
    assert table.columns.tolist() == ["step", "gate", "row", "column", "p", "alpha"]
    assert table["step"].tolist() == [0, 0, 2, 2, 4, 4, 5, 5]
    assert table["gate"].tolist() == [3, 5] * 4
    np.testing.assert_allclose(table["alpha"], table["step"] * table["gate"] / 10, rtol=1e-6)
    assert table.loc[1, ["row", "column"]].tolist() == ["Final.LN · LNFit", "E.final"]
    assert len(run.trace()) == 6 * 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("E.1", [2, 3]),
        ("SelfAttn.Q · LoRA", [0, 2]),
        ("E.1 SelfAttn.Q · LoRA", [2]),
        ("encoder.block.0.layer.0.SelfAttention.q", [0, 1]),
        ("encoder.block.0.layer.0.SelfAttention.q BitFit", [1]),
    ],
)
def test_gates_can_be_named(run, name, expected):
    assert run.trace(gates=[name], step_stride=99)["gate"].drop_duplicates().tolist() == expected
    assert run.trace(gates=name)["gate"].nunique() == len(expected)


def test_wrong_gates_and_strides(run):
    for wrong in (7, -1, "E.9"):
        with pytest.raises(RunError, match="this run has none such"):
            run.trace(gates=[wrong])
    with pytest.raises(RunError, match="step_stride"):
        run.trace(step_stride=0)


def test_evaluations(create):
    with create() as writer:
        writer.evaluation({"step": 0, "accuracy": 0.5})
        writer.evaluation({"step": 5, "accuracy": 0.75, "note": "é"})
        run = open_run(writer.path)
        table = run.evals()
        assert table.columns.tolist() == ["step", "accuracy", "note"]
        assert table["accuracy"].tolist() == [0.5, 0.75]
    (run.path / "evals.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"evals\.jsonl: line 2"):
        run.evals()


def test_ranks_break_ties_by_index():
    assert ranks(np.array([0.0, 2.0, 2.0, -1.0])).tolist() == [3, 1, 2, 4]


# -- status --------------------------------------------------------------------------------------------


def test_a_run_left_running_is_dead(create):
    writer = create()
    run = open_run(writer.path)
    assert run.status == "running"
    writer.set_status("paused")
    assert run.status == "paused"
    writer.close()
    assert run.status == "dead"
    assert run.info["status"] == "paused"
    edit(run, host="another-machine")
    assert run.status == "paused"


def test_without_locks_the_process_id_decides(create):
    writer = create()
    run = open_run(writer.path)
    writer.close()
    edit(run, locked=False, pid=os.getpid())
    assert run.status == "running"
    edit(run, locked=False, pid=2**22 + 7)
    assert run.status == "dead"
    edit(run, locked=False, pid=None)
    assert run.status == "dead"


# -- shown ---------------------------------------------------------------------------------------------


def test_repr_is_short_and_deterministic(run, create, record):
    assert repr(run) == "Run('run', finished, 6/10 steps, 7 gates)"
    with create("open", steps_total=None) as writer:
        assert repr(open_run(writer.path)) == "Run('open', running, 0 steps, 7 gates)"


def test_html_is_escaped(create, record):
    bad = "<script>alert(1)</script>"
    writer = create(name=bad, backbone=bad)
    record(writer, range(1))
    writer.set_status("failed", error=bad)
    page = open_run(writer.path)._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert "30 parameters = 0.3000%" in page


# -- directories that are none -------------------------------------------------------------------------


def test_missing_and_foreign_directories(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such run directory"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"run\.json is missing"):
        open_run(tmp_path)
    for text, message in (
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "field 'kind'"),
        ('{"kind": "s3pet_viz.run", "schema_version": 99}', "field 'schema_version': expected 1, found 99"),
        ("[" * 100_000, "expected JSON"),
    ):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=rf"run\.json: {message}"):
            open_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"run\.json: expected JSON"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("status", None),
        ("config", []),
        ("n_gates", "7"),
        ("n_gates", True),
        ("n_gates", 8),
        ("tau", "1"),
        ("budget", 3.5),
        ("backbone_params", "many"),
        ("steps_total", "10"),
    ],
)
def test_a_wrong_field_of_run_json_is_named(run, field, value):
    edit(run, **{field: value})
    with pytest.raises(RunError, match=rf"run\.json: field '{field}'"):
        open_run(run.path)


def test_missing_facts_are_asked_for(create, record):
    writer = create(budget=None, backbone_params=None)
    record(writer, range(2))
    run = open_run(writer.path)
    with pytest.raises(RunError, match="'budget' is missing"):
        run.structure()
    with pytest.raises(RunError, match="'backbone_params' is missing"):
        run.structure(budget="1%")
    assert run.structure(budget=40).n_params <= 40


def test_damaged_gates_are_named(run):
    path = run.path / "gates.parquet"
    good = pq.ParquetFile(path).read()

    def refused(match: str) -> None:
        with pytest.raises(RunError, match=rf"gates\.parquet: {match}"):
            open_run(run.path)

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("damaged")
    path.write_bytes(b"")
    refused("damaged")
    for name in good.column_names:
        pq.write_table(good.drop_columns([name]), path)
        refused(f"field '{name}' is missing")
    pq.write_table(good.set_column(0, "index", pa.array(list("abcdefg"))), path)
    refused("field 'index': expected int64")
    pq.write_table(good.set_column(0, "index", pa.array(range(1, 8), pa.int64())), path)
    refused("field 'index': expected 0, 1, 2")
    pq.write_table(good.slice(0, 0), path)
    refused("expected at least one gate")
    at = good.column_names.index("options")
    pq.write_table(good.set_column(at, "options", pa.array(["{}"] * 6 + ["[1]"])), path)
    refused("field 'options', row 6")
    at = good.column_names.index("n_params")
    pq.write_table(good.set_column(at, "n_params", pa.array([0] * 7, pa.int64())), path)
    refused("field 'n_params'")
    path.unlink()
    refused("missing")


def test_damaged_scores_are_named(run):
    (run.path / "scores.json").write_text("nope")
    with pytest.raises(RunError, match=r"scores\.json: expected JSON"):
        run.scores()
