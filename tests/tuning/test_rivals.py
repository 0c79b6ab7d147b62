"""Rivals that people know: DomLoRA, LoRA everywhere, EVA's ranks, AdaLoRA; at one budget, or a row that says it is missed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from problems import MOOD, mood_data, tiny_model, tokenizer_of
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.errors import BudgetError, SpaceError
from s3pet_viz.pet import insert
from s3pet_viz.training.model_state import reset_head
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.baselines import against_budget, lora_everywhere

QUIET = {"progress": False}
RANKS = {"gates": [{"type": "LoRA", "modules": ["SelfAttn.?", "FFN.W1", "FFN.W2"], "options": {"ranks": 3}}]}


def double_bench(form: str, rows: int = 12) -> Workbench:
    model = tiny_model(form).double()
    return Workbench.open(mood_data(rows, 8), model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu")


def task_folder(folder: Path) -> Path:
    for split, rows in mood_data(16, 8).items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "task.json").write_text(json.dumps(MOOD))
    return folder


# -- DomLoRA -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bert", "t5"])
@pytest.mark.parametrize("space", ["S3PET-L", RANKS])
def test_domlora_by_hand(form, space):
    """At the start B is 0: dL/dB = s (dL/dW) A^T, and A has no gradient. NumPy, in float64."""
    wb = double_bench(form)
    made = s3.score(workbench=wb, method="domlora", space=space, batch_size=5, seed=3, budget=250, **QUIET)
    model, features = wb.backbone.model, wb.splits.train
    layers = {p.name: p.target for p in positions(model) if p.kind == "linear"}
    kept = {n: p.detach().clone() for n, p in wb.backbone.head.items()}
    pets = insert(model, made.gates, seed=3)
    drawn = [p.detach().numpy() for n, p in pets.named_parameters() if n.endswith("lora_A")]
    pets.detach()
    with wb.working():
        reset_head(wb.backbone, 3)
        model.requires_grad_(True)
        for i in range(len(features)):
            model(**features.batch([i], "cpu")).loss.backward()
        slopes = {name: layer.weight.grad.numpy() / len(features) for name, layer in layers.items() if layer.weight.grad is not None}
    for name, p in wb.backbone.head.items():
        p.data.copy_(kept[name])
    energy = [np.sum((16 * slopes[g.position] @ a.T) ** 2) for g, a in zip(made.gates, drawn, strict=True)]
    np.testing.assert_allclose(made.score, energy, rtol=1e-9)

    names = list(dict.fromkeys(g.position for g in made.gates))
    best = max(names, key=lambda name: np.mean([e for e, g in zip(energy, made.gates, strict=True) if g.position == name]))
    structure = made.structure()
    assert {g.position for g in structure.gates} == {best}
    size = sum(layers[best].weight.shape)
    offered = 3 if space == RANKS else 1000
    rank = min(offered, 250 // size)
    assert rank > 1
    assert structure.n_params == rank * size <= 250
    if space == RANKS:
        assert [g.unit for g in structure.gates] == list(range(rank))
    else:
        (gate,) = structure.gates
        assert gate.options == {"r": rank, "lora_alpha": 16 * rank}
    assert structure.source["baseline"] == "domlora"
    assert made.structure(10 * size).n_params == size * min(offered, 10)
    told = made.table()
    assert set(told.loc[told["chosen"], "position"]) == {best}
    small = replace(made.gates[0], index=len(made.gates), position="other", n_params=1)  # which the budget would hold
    wider = replace(made, gates=(*made.gates, small), score=np.append(made.score, 0.0))
    says = rf"{size - 1} parameters is below rank 1 at {best} \({size} parameters\), the module of the highest gradient energy"
    with pytest.raises(BudgetError, match=says):
        wider.structure(size - 1)


def test_domlora_trains_and_is_a_baseline():
    wb = double_bench("bert")
    table = s3.baselines(
        workbench=wb, budget=400, space="S3PET-L", seeds=1, methods=["domlora"], steps=2, batch_size=4, evaluations=1, **QUIET
    )
    assert list(table.method) == ["domlora"]
    assert list(table.n_gates) == [1]
    assert table.pet_params[0] <= 400
    with pytest.raises(SpaceError, match="method 'domlora' scores linear layers: expected LoRA alone"):
        s3.score(workbench=wb, method="domlora", space="S3PET-M", **QUIET)


# -- LoRA everywhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_lora_everywhere_takes_the_nearest_rank(form):
    backbone = wrap_backbone(tiny_model(form), tokenizer_of(form))
    linear = {p.name: p for p in positions(backbone.model) if p.kind == "linear"}
    step = sum(p.in_features + p.out_features for p in linear.values())
    for budget, rank in ((1, 1), (step, 1), (int(1.5 * step), 1), (int(1.5 * step) + 1, 2), (3 * step - 1, 3)):
        made = lora_everywhere(backbone, budget)
        assert {g.position for g in made.gates} == set(linear)
        assert {(g.options["r"], g.options["lora_alpha"]) for g in made.gates} == {(rank, 16 * rank)}
        assert made.n_params == rank * step
    said = against_budget(lora_everywhere(backbone, step // 2), step // 2)
    assert said["meets_budget"] is False
    assert said["words"] == (
        f"{step:,} parameters, 100.0% above the budget of {step // 2:,}; rank 1 on every linear layer is the nearest"
    )
    assert against_budget(lora_everywhere(backbone, step), step) == {"budget": step, "meets_budget": True, "words": ""}
    said = against_budget(lora_everywhere(backbone, 5 * step // 4), 5 * step // 4)
    assert said["words"].startswith(f"{step:,} parameters, 20.0% below the budget of")
    assert against_budget(None, 5) == {"budget": None, "meets_budget": None, "words": ""}


def test_rows_say_whether_they_meet_the_budget_and_what_the_structure_took(tiny_folder, tmp_path):
    wb = double_bench("bert")
    step = lora_everywhere(wb.backbone, 1).n_params
    table = s3.baselines(
        workbench=wb, budget=step, space="S3PET-L", seeds=1, n_random=1, steps=2, batch_size=4, evaluations=1,
        methods=["LoRA-everywhere", "gora", "LoRA", "head"], structures={"mine": lora_everywhere(wb.backbone, 1)}, **QUIET,
    ).set_index("method")  # fmt: skip
    assert table.pet_params["LoRA-everywhere"] == step
    assert table.meets_budget.to_dict() == {"mine": None, "LoRA-everywhere": True, "gora": True, "LoRA": None, "head": None}
    assert table.passes.fillna(-1).to_dict() == {"mine": -1, "LoRA-everywhere": 0, "gora": 1, "LoRA": 0, "head": 0}
    assert (table.words == "").all()
    arguments = ["--task", task_folder(tmp_path), "--backbone", tiny_folder("bert"), "--budget", step // 2, "--steps", 2, "--seeds", 1]
    arguments += ["--methods", "LoRA-everywhere", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, ["baselines", *map(str, arguments)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert f"LoRA-everywhere: {step:,} parameters, 100.0% above the budget of {step // 2:,}; rank 1 on every" in words


def test_a_study_says_it_too(tiny_folder, tmp_path):
    study = s3.sweep(
        tasks=[task_folder(tmp_path)], backbone=tiny_folder("bert"), budgets=[600], methods=["LoRA-everywhere", "domlora"], seeds=1, out=tmp_path / "s",
        space="S3PET-L", tune_steps=2, batch_size=4, evaluations=1, device="cpu", progress=False,
    )  # fmt: skip
    table = study.table().set_index("method")
    assert bool(table.meets_budget["LoRA-everywhere"]) is False
    assert "above the budget of 600; rank 1 on every linear layer" in table.words["LoRA-everywhere"]
    assert table.pet_params["domlora"] <= 600
