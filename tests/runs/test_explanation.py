"""The explanation of a structure: its table, its rank correlation, its file, and its place in a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from s3pet_viz.analysis.explanation import Explanation, GateEffect
from s3pet_viz.errors import RunError
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate

NAMES = ("p", "alpha", "rank", "loss_increase", "loss_increase_se", "metric_change", "gradient")
GATES = [
    Gate(0, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "LoRA", 20, {"r": 1}),
    Gate(1, "encoder.0.q", "encoder", 0, "SelfAttn.Q", "BitFit", 10),
    Gate(2, "encoder.final", "encoder", 1, "Final.LN", "LNFit", 6),
]


def sample(task: str = "mood") -> Explanation:
    effects = (
        GateEffect(GATES[0], 0.9, 2.0, 1, 0.5, 0.01, -0.25, 0.125),
        GateEffect(GATES[1], 0.4, 0.5, 3, 0.0, 0.0, 0.0, 0.0),
        GateEffect(GATES[2], 0.6, 1.0, 2, -0.02, 0.03, 0.0, -0.01),
    )
    return Explanation(effects, task, "tiny", "a run", 3, 60, 40, 12, 0.25, 0.75, ("accuracy",))


def with_p(p, rises) -> Explanation:
    gates = [Gate(i, f"encoder.{i}", "encoder", i, "FFN", "LoRA", 1) for i in range(len(p))]
    effects = tuple(GateEffect(g, p=a, loss_increase=b) for g, a, b in zip(gates, p, rises, strict=True))
    return Explanation(effects, "mood", "tiny")


def test_the_table():
    table = sample().table
    assert list(table.columns) == ["gate", "row", "column", "pet_type", "n_params", *NAMES, "position"]
    assert list(table["gate"]) == [0, 1, 2]
    assert table.iloc[0].to_dict() == {
        "gate": 0, "row": "SelfAttn.Q · LoRA", "column": "E.0", "pet_type": "LoRA", "n_params": 20, "p": 0.9,
        "alpha": 2.0, "rank": 1.0, "loss_increase": 0.5, "loss_increase_se": 0.01, "metric_change": -0.25,
        "gradient": 0.125, "position": "encoder.0.q",
    }  # fmt: skip
    assert [e.clear for e in sample().effects] == [True, False, False]


def test_rank_correlation_by_hand():
    assert with_p([0.1, 0.2, 0.3], [1, 2, 3]).rho == pytest.approx(1)
    assert with_p([0.1, 0.2, 0.3], [3, 2, -1]).rho == pytest.approx(-1)
    assert with_p([0.1, 0.2, 0.3, 0.4], [2, 1, 4, 3]).rho == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert math.isnan(with_p([0.5, 0.5], [1, 2]).rho)
    assert math.isnan(with_p([0.5], [1]).rho)
    assert math.isnan(with_p([0.5, math.nan, 0.1], [1, 2, 3]).rho)


@settings(deadline=None, max_examples=50)
@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12))
def test_rank_correlation_is_spearmans(pairs):
    p, rises = np.array(pairs, dtype=float).T
    found = with_p(p, rises).rho
    if len(set(p)) == 1 or len(set(rises)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(p, rises).statistic, abs=1e-12)


def test_what_it_says():
    assert sample().summary == (
        "1 of 3 gates move the validation loss by more than 2 standard errors (12 rows). "
        "Spearman's rho of p and loss increase: +0.50, n = 3 gates, too few to say more."
    )
    many = with_p([i / 17 for i in range(17)], range(17))
    assert many.summary.endswith("+1.00, n = 17 gates (unrelated numbers exceed ±0.49 once in 20).")
    assert "not defined" in with_p([math.nan] * 6, range(6)).summary
    assert repr(sample()) == "Explanation(3 gates on mood, 12 validation rows, loss 0.2500, rho +0.50)"


def test_html_is_escaped_and_sorted():
    page = sample("<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.index("LoRA") < page.index("BitFit") < page.index("LNFit")  # by loss increase
    assert "+0.5000" in page
    assert ">–<" in with_p([0.1, 0.2], [1, 2])._repr_html_()  # what is not known


numbers = st.floats(allow_nan=True, allow_infinity=False)


@settings(deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(*[numbers] * len(NAMES)), min_size=1, max_size=3), loss=numbers, score=numbers)
def test_files_keep_everything(rows, loss, score, tmp_path_factory):
    effects = tuple(GateEffect(g, *row) for g, row in zip(GATES, rows, strict=False))
    made = Explanation(effects, "mood", "tiny", loss=loss, score=score, metrics=("f1", "accuracy"))
    path = made.save(tmp_path_factory.getbasetemp() / "explanations" / "one.json")
    found = Explanation.load(path)
    assert repr(found.to_dict()) == repr(made.to_dict())  # NaN is not equal to itself
    assert [e.gate for e in found.effects] == [e.gate for e in made.effects]


def damaged(tmp_path, change) -> str:
    data = json.loads(sample().save(tmp_path / "e.json").read_text())
    change(data)
    (tmp_path / "e.json").write_text(json.dumps(data))
    with pytest.raises(RunError) as error:
        Explanation.load(tmp_path / "e.json")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'e.json'}: ")
    return message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "s3pet_viz.run"), ("schema_version", 2), ("task", 3), ("backbone", None), ("run", None), ("unit", 1),
        ("seed", "0"), ("steps", 1.5), ("n_rows", True), ("best_step", None), ("loss", "low"), ("score", False),
        ("metrics", "accuracy"), ("gates", {}), ("gates", []),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_the_file(tmp_path, field, value):
    assert field in damaged(tmp_path, lambda data: data.update({field: value}))
    if field != "gates":
        assert field in damaged(tmp_path, lambda data: data.pop(field))


@pytest.mark.parametrize(("field", "value"), [("p", "0.5"), ("gradient", True), ("pet_type", "Pro mpt"), ("n_params", 0)])
def test_a_wrong_field_of_a_gate_is_named_with_its_place(tmp_path, field, value):
    assert f"gates[1]: field '{field}'" in damaged(tmp_path, lambda data: data["gates"][1].update({field: value}))
    assert f"gates[1]: field '{field}'" in damaged(tmp_path, lambda data: data["gates"][1].pop(field))


def test_other_files(tmp_path):
    path = tmp_path / "e.json"
    with pytest.raises(RunError, match=r"e\.json: no such run directory"):
        Explanation.load(path)
    for content in ("", "{", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(RunError, match=r"e\.json: expected JSON"):
            Explanation.load(path)
    path.write_text("{}")
    with pytest.raises(RunError, match="field 'kind'"):
        Explanation.load(path)
    path.write_text(json.dumps({**sample().to_dict(), "gates": [3]}))
    with pytest.raises(RunError, match=r"gates\[0\]: expected an object, found int"):
        Explanation.load(path)


# -- in a run ------------------------------------------------------------------------------------------


def run_of(path, budget):
    with RunWriter.create(path, gates=GATES, config={}, extra={"budget": budget, "backbone_params": 1000}) as writer:
        alpha = np.array([2.0, 0.5, 1.0])
        writer.append(step=0, seconds=0, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=alpha / 4)
        writer.set_status("finished")
    return open_run(path)


def test_a_run_keeps_its_own(tmp_path):
    run = run_of(tmp_path / "run", 36)
    with pytest.raises(RunError, match=r"explain\.json: missing; this run is not explained yet"):
        Explanation.load(run)
    assert sample().save(run) == run.path / "explain.json"
    assert Explanation.load(run) == Explanation.load(run.path) == sample()
    assert sample().save(run.path) == run.path / "explain.json"  # again, by its path
    assert open_run(run.path).status == "finished"


def test_a_run_that_is_being_written_is_refused(tmp_path):
    run = run_of(tmp_path / "run", 36)
    with RunWriter.attach(run.path), pytest.raises(RunError, match="is being written by process"):
        sample().save(run)
    assert not (run.path / "explain.json").exists()
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"run\.json is missing"):
        sample().save(tmp_path / "folder")


def test_an_explanation_of_another_structure_is_refused(tmp_path):
    run = run_of(tmp_path / "run", 26)  # two gates fit
    sample().save(run)
    with pytest.raises(RunError, match=r"explain\.json: explains another structure than this run has now"):
        Explanation.load(run)
