"""Leave one gate out and gate gradients: known answers, finite differences, and that nothing stays behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from commands import call
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import MOOD, STRENGTH, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from tuning_problems import FAST, bench, structure_for

from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.backbones import positions
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.engine.api import search
from s3pet_viz.errors import ConfigError, NonFiniteLossError, RunError, StructureError
from s3pet_viz.files import json_ready
from s3pet_viz.pet import PRESETS, Space, SpaceEntry, candidate_gates, insert
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Structure
from s3pet_viz.training.evaluate import evaluate
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.explain import explain, gate_gradients, leave_one_out, row_losses, some_rows

ONES = torch.ones(3, dtype=torch.float64)


def squares(weights, targets):
    """Row losses (w . z - y)^2, one part per target."""
    w = torch.tensor(weights, dtype=torch.float64)
    return [lambda z, y=y: ((w @ z - y) ** 2).reshape(1) for y in targets]


# -- the two measures, on losses in closed form --------------------------------------------------------


def test_leave_one_out_of_a_known_loss():
    parts = squares([3, 0, 1], [4, 1])
    losses, rises = leave_one_out(parts, ONES)
    assert losses.tolist() == [0, 9]
    # without gate 0: (1 - 4)^2, (1 - 1)^2; without gate 1: nothing; without gate 2: (3 - 4)^2, (3 - 1)^2
    assert rises.tolist() == [[9, -9], [0, 0], [1, -5]]
    assert leave_one_out(parts, ONES, gates=[2, 0])[1].tolist() == [[1, -5], [9, -9]]
    assert ONES.tolist() == [1, 1, 1]


def test_gradients_of_a_known_loss():
    # -dL/dz_i = -2 w_i (sum w - y), mean over y = 4, 1
    assert gate_gradients(squares([3, 0, 1], [4, 1]), ONES).tolist() == [-9, 0, -3]


@settings(deadline=None, max_examples=30)
@given(
    slopes=st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=5),
    offset=st.floats(-10, 10),
)
def test_of_a_linear_loss_the_estimate_is_exact(slopes, offset):
    table = torch.tensor(slopes, dtype=torch.float64)
    parts = [lambda z: table @ z + offset, lambda z: -2 * (table[:1] @ z)]
    _, rises = leave_one_out(parts, ONES)
    torch.testing.assert_close(gate_gradients(parts, ONES), rises.mean(1), atol=1e-10, rtol=0)


def test_a_loss_that_is_not_finite_names_the_gate():
    with pytest.raises(NonFiniteLossError, match="with gate 1 closed the loss"):
        leave_one_out([lambda z: torch.log(z[1:2])], ONES)
    with pytest.raises(NonFiniteLossError, match="with every gate open"):
        leave_one_out([lambda z: z * math.nan], ONES)


# -- on backbones --------------------------------------------------------------------------------------


class Norm64(torch.nn.Module):
    """T5's norm without its float32 variance."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def smooth(form: str):
    """A workbench in float64 without kinks, and PET weights that are none of them zero."""
    changes = {"initializer_range": 0.3} if form == "bert" else {"feed_forward_proj": f"{'gated-' * (form == 'gated')}gelu"}
    wb = bench(form, **changes)
    model = wb.backbone.model
    model.double().eval()
    model.set_attn_implementation("eager")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "T5LayerNorm":
                setattr(module, name, Norm64(child))
    pets = insert(model, candidate_gates(positions(model), PRESETS["S3PET-M"])[0])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in pets.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
            weight.requires_grad_(False)
    return wb, pets


@pytest.mark.parametrize("form", ["t5", "gated", "bert"])
def test_gradients_are_those_of_finite_differences(form):
    wb, pets = smooth(form)
    parts = row_losses(wb, pets, wb.splits.validation.take(range(4)), 3)
    ones = torch.ones(len(pets.gates), dtype=torch.float64)
    found = gate_gradients(parts, ones)
    assert {g.pet_type for g in pets.gates} >= {"LoRA", "BitFit", "LNFit", "LowRankAdapter"}
    eps, differences = 1e-5, found.clone()
    first = {(g.pet_type, g.module): i for i, g in enumerate(pets.gates)}
    with torch.no_grad():
        for i in first.values():
            differences[i] = math.nan
            step = torch.zeros_like(ones)
            step[i] = eps
            up, down = (torch.cat([part(z) for part in parts]).mean() for z in (ones + step, ones - step))
            differences[i] = -(up - down) / (2 * eps)
    assert float(found.abs().max()) > 1e-3
    torch.testing.assert_close(found, differences, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("form", ["t5", "bert", "regression"])
def test_row_losses_are_those_of_the_model(form):
    if form == "regression":
        rows = {k: [{**r, "label": 0.5 + 3.0 * r["label"]} for r in v] for k, v in mood_data().items()}
        model = tiny_model("bert", num_labels=1)
        wb = Workbench.open(rows, model=model, tokenizer=tokenizer_of("bert"), task_spec=STRENGTH, device="cpu")
        pets = insert(model, structure_for("bert").gates)
    elif form == "t5":
        spec = {**MOOD, "label_names": ["a slow sad cat", "positive"]}  # targets of unequal length
        wb = Workbench.open(mood_data(), model=tiny_model("t5"), tokenizer=tokenizer_of("t5"), task_spec=spec, device="cpu")
        pets = insert(wb.backbone.model, structure_for("t5").gates)
    else:
        wb = bench("bert")
        pets = insert(wb.backbone.model, structure_for("bert").gates)
    wb.backbone.model.eval()
    rows = wb.splits.validation.take(range(7))
    with torch.no_grad():
        found = torch.cat([part(torch.ones(len(pets.gates))) for part in row_losses(wb, pets, rows, 3)])
        order = np.concatenate(rows.by_length(3))
        single = [float(wb.backbone.model(**rows.batch([i], "cpu")).loss) for i in order]
    assert found.tolist() == pytest.approx(single, rel=1e-4)
    if form != "t5":
        assert float(found.mean()) == pytest.approx(evaluate(wb.backbone, wb.splits.data.task, rows)["loss"], rel=1e-5)


def one_way_in():
    """A BERT whose attention outputs nothing, in both blocks, and a structure for it.

    Block 1 gets a LoRA on that output, the only way in which a word can reach the first token, which the head reads.
    Block 0 gets a LoRA on the query, which can do nothing. A norm's gate is there for company.
    """
    model = tiny_model("bert")
    with torch.no_grad():
        for block in model.bert.encoder.layer:
            block.attention.output.dense.weight.zero_()
    space = Space("few", (SpaceEntry("LoRA", ("SelfAttn.Q", "SelfAttn.O")), SpaceEntry("LNFit", ("FFN.LN",))))
    found = {(g.column, g.module): g for g in candidate_gates(positions(model), space)[0]}
    gates = [found["E.0", "SelfAttn.Q"], found["E.1", "SelfAttn.O"], found["E.1", "FFN.LN"]]
    return model, Structure(tuple(gates), "bert", 1), gates


def test_the_gate_that_carries_the_signal_is_found_and_one_that_does_nothing_is_zero():
    model, structure, (nothing, carries, _) = one_way_in()
    wb = Workbench.open(mood_data(), model=model, tokenizer=tokenizer_of("bert"), task_spec=MOOD, device="cpu")
    before = snapshot(model)
    found = explain(structure, workbench=wb, steps=150, lr=5e-2, evaluations=1, progress=False)
    assert_same(model, before)
    assert all(not m._forward_hooks for m in model.modules())
    assert found.score >= 0.8  # it learned
    table = found.table.set_index("gate")
    for name in ("loss_increase", "loss_increase_se", "metric_change", "gradient"):
        assert table.loc[nothing.index, name] == 0, name
    without = table.loc[carries.index]
    assert without["metric_change"] == 0.5 - found.score  # every text gets the same answer
    assert without["loss_increase"] == table["loss_increase"].max()
    # A constant answer costs at least the entropy of the labels.
    assert found.loss + without["loss_increase"] >= math.log(2) - 1e-6
    assert without["loss_increase"] > 5 * without["loss_increase_se"]
    assert table["p"].isna().all()  # a structure alone has no p
    assert math.isnan(found.rho)
    assert (found.n_rows, found.unit, found.run, found.best_step) == (40, "nats", "", 150)
    assert found.metrics == ("accuracy",)


def test_the_numbers_are_those_of_measuring_by_hand():
    wb, structure = bench("bert"), structure_for("bert")
    found = explain(structure, workbench=wb, steps=30, lr=5e-2, evaluations=1, seed=2, progress=False)
    rows, task = wb.splits.validation, wb.splits.data.task
    with wb.tuned(structure, TuneConfig(steps=30, lr=5e-2, evaluations=1, seed=2), progress=False) as (scores, pets):
        base = evaluate(wb.backbone, task, rows)
        assert scores.validation == base
        for i in (0, len(structure) - 1):
            z = torch.ones(len(structure))
            z[i] = 0
            batch = rows.batch(range(len(rows)), "cpu")
            with pets.gated(z), torch.no_grad():
                closed = evaluate(wb.backbone, task, rows)
                logits = wb.backbone.model(**batch).logits
            with torch.no_grad():
                whole = wb.backbone.model(**batch).logits
            pair = [torch.nn.functional.cross_entropy(x, batch["labels"], reduction="none") for x in (logits, whole)]
            rise = (pair[0] - pair[1]).double()
            effect = found.effects[i]
            assert effect.loss_increase == pytest.approx(closed["loss"] - base["loss"], abs=1e-6)
            assert effect.loss_increase_se == pytest.approx(float(rise.std()) / math.sqrt(len(rows)), rel=1e-3, abs=1e-8)
            assert effect.metric_change == closed["score"] - base["score"]
    assert (found.loss, found.score) == (pytest.approx(base["loss"], rel=1e-6), base["score"])


def test_a_model_in_memory_is_left_as_it_was_and_is_measured_without_dropout():
    model = tiny_model("bert", layers=1, hidden_dropout_prob=0.5)
    structure = structure_for("bert")  # made before: its own model draws
    model.train()
    before, state = snapshot(model), torch.get_rng_state()
    given_ = {"task": mood_data(40, 20), "model": model, "tokenizer": tokenizer_of("bert"), "load": {"task_spec": MOOD}}
    options = {"device": "cpu", "progress": False, "rows": 8, "metric": False, **FAST}
    first, again = (explain(structure, **given_, **options) for _ in range(2))
    assert json_ready(first.to_dict()) == json_ready(again.to_dict())
    assert_same(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert first.n_rows == 8
    assert math.isnan(first.score)
    assert first.table["metric_change"].isna().all()


def test_rows_are_drawn_by_whole_groups():
    rows = bench("bert").splits.validation
    assert some_rows(rows, None, 0) is rows
    assert some_rows(rows, 40, 0) is rows
    some = some_rows(rows, 7, 0)
    assert len(some) == 7
    assert [e.text_a for e in some.examples] == [e.text_a for e in some_rows(rows, 7, 0).examples]
    assert {e.text_a for e in some.examples} != {e.text_a for e in some_rows(rows, 7, 1).examples}
    places = [[e.text_a for e in rows.examples].index(e.text_a) for e in some.examples]
    assert [some.inputs["input_ids"][k] for k in range(7)] == [rows.inputs["input_ids"][i] for i in places]
    assert [some.targets[k] for k in range(7)] == [rows.targets[i] for i in places]
    assert some.lengths.tolist() == rows.lengths[places].tolist()
    grouped = rows.take(range(12))
    for i, example in enumerate(grouped.examples):
        object.__setattr__(example, "group", i // 3)
    for seed in range(4):
        groups = [e.group for e in some_rows(grouped, 7, seed).examples]
        assert len(groups) == 6
        assert all(groups.count(g) == 3 for g in groups)
    assert len(some_rows(grouped, 1, 0)) == 3  # one group at least


# -- of a run, and the command -------------------------------------------------------------------------


@pytest.fixture
def made(mood, tiny_folder, tmp_path):
    options = {"steps": 3, "batch_size": 8, "device": "cpu", "max_rows": 10, "progress": False, "out": tmp_path / "run"}
    return search(task=str(mood), backbone=tiny_folder("bert"), budget=600, **options)


def test_a_run_brings_its_task_backbone_p_alpha_and_rank(made):
    found = explain(made.path, progress=False, device="cpu", **FAST)
    gates = made.gates().set_index("index")
    chosen = gates[gates["selected"]]
    table = found.table.set_index("gate")
    assert list(table.index) == list(chosen.index)
    for name in ("p", "alpha", "rank", "n_params", "row", "column", "position"):
        assert list(table[name]) == list(chosen[name]), name
    assert (found.task, found.run, found.n_rows) == ("mood", made.name, 10)  # the run's max_rows holds
    small = explain(made, budget=200, progress=False, device="cpu", rows=5, **FAST)
    assert {e.gate.key for e in small.effects} == made.structure(budget=200).keys
    assert small.effects[0].p == made.p(budget=200)[small.effects[0].gate.index]


def test_the_command_keeps_what_it_finds_in_the_run(made, tmp_path):
    fast = ("--steps", 2, "--batch-size", 8, "--quiet", "--device", "cpu")
    text = call("explain", made.path, *fast).output
    kept = Explanation.load(made)
    assert str(made.path / "explain.json") in text
    assert f"n = {len(kept)} gates" in text
    top = max(kept.effects, key=lambda e: e.loss_increase)
    assert f"{top.gate.column} {top.gate.module} {top.gate.pet_type}" in text
    assert f"{top.loss_increase:+.4f}" in text
    assert open_run(made.path).status == "finished"
    other = tmp_path / "other.json"
    before = (made.path / "explain.json").read_bytes()
    call("explain", made.path, "--budget", 200, "--rows", 4, "--no-metric", "--out", other, *fast)
    assert len(Explanation.load(other)) == len(made.structure(budget=200))
    assert (made.path / "explain.json").read_bytes() == before  # another structure than the run's own
    assert "exists already" in call("explain", made.path, "--out", other, *fast, code=2).stderr
    with RunWriter.attach(made.path):
        assert "being written by process" in call("explain", made.path, *fast, code=2).stderr
    path = Structure(made.structure().gates).save(tmp_path / "bare.json")
    assert "--task" in call("explain", path, *fast, code=2).stderr
    assert "only a run" in call("explain", path, "--budget", 9, code=2).stderr


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"rows": 0}, ConfigError, "rows: expected a whole number of at least 1, found 0"),
        ({"budget": "0.1%"}, ConfigError, "budget: only a run"),
        ({"stepz": 3}, ConfigError, "unknown option 'stepz'"),
        ({"workbench": None}, ConfigError, "task: expected a task, found none"),
        ({"workbench": None, "task": "sentiment", "target": Structure(structure_for("bert").gates)}, ConfigError, "backbone"),
        ({"target": "nowhere"}, RunError, "nowhere: no such run directory: expected a run folder or a structure file"),
        ({"target": Structure(())}, StructureError, "at least one gate"),
        ({"target": structure_for("t5")}, StructureError, "no position"),
    ],
)
def test_explain_refuses_before_it_trains(bert, options, error, says):
    options = {"target": structure_for("bert"), "workbench": bert, "progress": False, **options}
    with pytest.raises(error, match=says):
        explain(options.pop("target"), **options)
