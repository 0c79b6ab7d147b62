"""Rivals that people know: DomLoRA, LoRA everywhere, EVA's ranks, AdaLoRA; at one budget, or a row that says it is missed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import MOOD, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from tuning_problems import bench
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.cli import app
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import BudgetError, ConfigError, MissingExtraError, SpaceError
from s3pet_viz.pet import insert
from s3pet_viz.training.model_state import reset_head
from s3pet_viz.tuning import Workbench
from s3pet_viz.tuning.adalora import AdaLoRA
from s3pet_viz.tuning.baselines import against_budget, lora_everywhere

QUIET = {"progress": False}
ADALORA = ["AdaLoRA"] if importlib.util.find_spec("peft") else []
RANKS = {"gates": [{"type": "LoRA", "modules": ["SelfAttn.?", "FFN.W1", "FFN.W2"], "options": {"ranks": 3}}]}


def double_bench(form: str, rows: int = 12) -> Workbench:
    model = tiny_model(form, layers=1).double()
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
    made = s3.score(workbench=wb, method="domlora", space=space, batch_size=5, seed=3, budget=290, **QUIET)
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
    rank = 290 // size
    assert rank > 1
    assert structure.n_params == rank * size <= 290
    if space == RANKS:
        assert [g.unit for g in structure.gates] == list(range(rank))
    else:
        (gate,) = structure.gates
        assert gate.options == {"r": rank, "lora_alpha": 16 * rank}
    assert structure.source["baseline"] == "domlora"
    for rank in (20, 70):  # the space offers three, a position holds 64
        more = made.structure((rank + 1) * size - 1)
        assert more.n_params == rank * size
        assert s3.figures.heatmap_table(made.at((rank + 1) * size - 1))["position"].is_unique == (space != RANKS)
        assert len({g.index for g in more.gates}) == len(more) == (20 if space == RANKS and rank == 20 else 1)
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
    backbone = wrap_backbone(tiny_model(form, layers=1), tokenizer_of(form))
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
    arguments = ["--task", task_folder(tmp_path), "--backbone", tiny_folder("bert", layers=1), "--budget", step // 2, "--steps", 2, "--seeds", 1]
    arguments += ["--methods", "LoRA-everywhere", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, ["baselines", *map(str, arguments)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert f"LoRA-everywhere: {step:,} parameters, 100.0% above the budget of {step // 2:,}; rank 1 on every" in words


@pytest.mark.usefixtures("studies_in_threads")
def test_a_study_says_it_too(tiny_folder, tmp_path):
    study = s3.sweep(
        tasks=[task_folder(tmp_path)], backbone=tiny_folder("bert"), budgets=[600], methods=["LoRA-everywhere", "domlora", *ADALORA], seeds=1, out=tmp_path / "s",
        space="S3PET-L", tune_steps=2, batch_size=4, evaluations=1, device="cpu", progress=False,
    )  # fmt: skip
    table = study.table().set_index("method")
    assert bool(table.meets_budget["LoRA-everywhere"]) is False
    assert "above the budget of 600; rank 1 on every linear layer" in table.words["LoRA-everywhere"]
    assert table.pet_params["domlora"] <= 600
    for name in ADALORA:
        assert table.pet_params[name] <= 600
        assert study.structure(table.key[name]).n_params == table.pet_params[name]


# -- AdaLoRA -------------------------------------------------------------------------------------------------

ADA = {"steps": 12, "batch_size": 8, "evaluations": 6, "lr": 1e-2}


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_adalora_ends_at_the_budget(form):
    pytest.importorskip("peft")
    wb, said = bench(form, layers={"bert": 2, "t5": 1}[form]), []  # ranks enough to meet a budget
    before = snapshot(wb.backbone.model)
    hooks = [len(m._forward_hooks) for m in wb.backbone.model.modules()]
    step = lora_everywhere(wb.backbone, 1).n_params
    budget = int(1.1 * step)
    table = s3.baselines(workbench=wb, budget=budget, seeds=[0, 1], methods=["AdaLoRA"], on_scores=said.append, **ADA, **QUIET)
    assert_same(wb.backbone.model, before)
    assert [len(m._forward_hooks) for m in wb.backbone.model.modules()] == hooks
    assert list(table.method) == ["AdaLoRA"] * 2
    assert table.meets_budget.all()
    assert (table.passes == 9).all()  # 12 steps, the last 0.3 of them with fixed ranks
    assert (table.best_step > 8).all()
    for scores in said:
        structure = scores.structure
        assert structure.n_params == scores.pet_params <= budget
        # not one more of the most important ranks would fit, whatever it is
        assert structure.n_params + max(g.n_params for g in structure.gates) > 0.95 * budget
        ranks = Counter(g.position for g in structure.gates)
        assert len(set(ranks.values())) > 1
        assert s3.figures.heatmap(structure) is not None
        assert "structure" not in scores.to_dict()
        json.dumps(scores.to_dict())
    assert said[0].structure != said[1].structure
    with pytest.raises(BudgetError, match="is below rank 1 at the widest layer"):
        s3.baselines(workbench=wb, budget=40, methods=["AdaLoRA"], **ADA, **QUIET)
    with pytest.raises(ConfigError, match="steps: expected a number of at least 2 for AdaLoRA, .* found auto"):
        s3.baselines(workbench=wb, budget=budget, methods=["AdaLoRA"], steps="auto", **QUIET)


def test_adalora_is_peft_s():
    """The loss and the ranks are those of `peft.AdaLoraModel`, driven as its documentation says."""
    peft = pytest.importorskip("peft")
    wb = bench("bert")
    model, config = wb.backbone.model, TuneConfig(**{**ADA, "clip": 0})
    step = lora_everywhere(wb.backbone, 1).n_params
    made = AdaLoRA(wb.backbone, step, config)
    with wb.working():
        weights = made.attach(model, 0)
        tuner = made._tuner
        assert isinstance(tuner, peft.AdaLoraModel)
        batch = wb.splits.train.batch(list(range(8)), "cpu")
        model.train()
        ours = model(**batch).loss
        model.eval()  # no dropout here: what is left of the difference is the term of the orthogonality
        alone = model(**batch).loss
        theirs = tuner(**batch).loss
        torch.testing.assert_close(ours, theirs)
        assert ours > alone
        assert len(weights) == 3 * 6  # A, E and B of each layer
        model.train()
        optimizer = torch.optim.AdamW(weights, lr=1e-2)
        for p in weights:
            p.requires_grad_(True)
        for i in range(12):
            model(**batch).loss.backward()
            optimizer.step()
            made.stepped(i)
            if i == made.since - 1:
                assert sum(map(sum, tuner.peft_config["default"].rank_pattern.values())) == pytest.approx(made._target, abs=2)
            optimizer.zero_grad()
        pattern = tuner.peft_config["default"].rank_pattern
        left = {n: int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n}
        assert left == {n: sum(kept) for n, kept in pattern.items()}
        assert sum(left.values()) == len(made.structure)


def test_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'AdaLoRA: PEFT needs an extra: pip install "s3pet_viz\[peft\]"'):
        s3.baselines(task="sentiment", backbone="tiny-t5", methods=["AdaLoRA"])


# -- EVA -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_eva_by_hand(form):
    """Ratios of the squared singular values of the centred inputs, tokens in one matrix. NumPy, in float64."""
    wb = double_bench(form)
    made = s3.score(workbench=wb, method="eva", space=RANKS, batch_size=5, budget=1000, **QUIET)
    model, features = wb.backbone.model, wb.splits.train
    names = list(dict.fromkeys(g.position for g in made.gates))
    layers = {p.name: p for p in positions(model) if p.name in names}
    inputs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    handles = [
        layer.target.register_forward_hook(lambda m, a, o, n=name: inputs[n].append(a[0].detach().numpy()))
        for name, layer in layers.items()
    ]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with wb.working(), torch.no_grad():
        for i in range(len(features)):
            batch = features.batch([i], "cpu")
            for seen in inputs.values():
                seen.clear()
            model(**batch)
            for name, layer in layers.items():
                kept = (batch["labels"] != -100 if layer.stack == "decoder" else batch["attention_mask"] == 1).numpy()[0]
                rows[name].append(inputs[name][0].reshape(len(kept), -1)[kept])
    for handle in handles:
        handle.remove()
    for name in names:
        x = np.concatenate(rows[name])
        squares = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
        found = [s for s, g in zip(made.score, made.gates, strict=True) if g.position == name]
        np.testing.assert_allclose(found, (squares / squares.sum())[:3], rtol=1e-8, atol=1e-12)
    structure = made.structure()
    assert structure.n_params <= 1000
    assert "forward over 12 rows" in made.cost()
    # the first units of each position, and whole gates of a rank: the sum of its components
    for gates in ([g for g in structure.gates if g.position == name] for name in names):
        assert [g.unit for g in gates] == list(range(len(gates)))
    whole = {"gates": [{**RANKS["gates"][0], "options": {"r": 3}}]}
    sums = s3.score(workbench=wb, method="eva", space=whole, batch_size=5, budget=1000, **QUIET).score
    np.testing.assert_allclose(sums, made.score.reshape(-1, 3).sum(1), rtol=1e-9)


def test_eva_gives_peft_s_ranks():
    """Layers of one size, whose inputs differ; PEFT is given the very rows as one batch."""
    peft = pytest.importorskip("peft")
    wb = bench("bert", layers=2, intermediate_size=32)
    modules = ["SelfAttn.O", "FFN.W1", "FFN.W2"]
    space = {"gates": [{"type": "LoRA", "modules": modules, "options": {"ranks": 6}}]}
    made = s3.score(workbench=wb, method="eva", space=space, budget=6 * 3 * 64, **QUIET)
    ranks = Counter(g.position for g in made.structure().gates)
    names = {g.position for g in made.gates}
    with wb.working():
        model = wb.backbone.model
        batch = wb.splits.train.batch(list(range(len(wb.splits.train))), "cpu")
        targets = [n for n, _ in model.named_modules() if any(n.endswith(name) for name in names)]
        config = peft.LoraConfig(r=3, target_modules=targets, init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0, use_label_mask=False))
        state = peft.get_eva_state_dict(model, [dict(batch)], config, show_progress_bar=False)
    theirs = {next(name for name in names if key.endswith(name)): len(vectors) for key, vectors in state.items()}
    assert {name: ranks[name] for name in names} == theirs
    assert len(set(theirs.values())) > 1
