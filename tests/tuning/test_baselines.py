"""`tune` and `baselines`: what they take, what their tables hold, and that they leave nothing behind."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from problems import MOOD, STRENGTH, assert_same, mood_data, snapshot, tiny_model, tokenizer_of
from tuning_problems import FAST, run, structure_for

import s3pet_viz as s3
from s3pet_viz.backbones import positions, wrap_backbone
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import BackboneError, BudgetError, ConfigError, RunError, SourceError, StructureError
from s3pet_viz.pet import PRESETS, candidate_gates
from s3pet_viz.structure import Structure
from s3pet_viz.training.fit import Splits
from s3pet_viz.training.model_state import as_found
from s3pet_viz.tuning import Workbench, baselines, summary, tune
from s3pet_viz.tuning.baselines import MANUAL, manual_structure, random_structure

# -- structures ----------------------------------------------------------------------------------------


def test_random_structures(bert):
    gates = candidate_gates(positions(bert.backbone.model), PRESETS["S3PET-M"])[0]
    sizes = [g.n_params for g in gates]
    budget = 700
    made = [random_structure(gates, budget, bert.backbone, seed) for seed in range(8)]
    assert len(set(made)) == 8
    for s in made:
        assert s.n_params <= budget
        assert s.budget == budget
        left = min(size for size, g in zip(sizes, gates, strict=True) if g.key not in s.keys)
        assert s.n_params + left > budget  # nothing more would fit
        assert s.backbone_params == bert.backbone.n_params
    assert made[3] == random_structure(gates, budget, bert.backbone, 3)
    assert made[3].source == {"baseline": "random", "seed": 3}
    with pytest.raises(BudgetError, match="no module of the space fits 1 parameters"):
        random_structure(gates, 1, bert.backbone, 0)


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
def test_manual_structures_sit_where_they_usually_do(form):
    backbone = wrap_backbone(tiny_model(form), tokenizer_of(form))
    text = form in ("t5", "gated")
    linear = {"SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O", "FFN.W1", "FFN.W2"}
    linear |= {"CrossAttn.Q", "CrossAttn.K", "CrossAttn.V", "CrossAttn.O"} if text else set()
    linear |= {"FFN.W1.gate"} if form == "gated" else set()
    norms = {"SelfAttn.LN", "FFN.LN"} | ({"CrossAttn.LN", "Final.LN"} if text else {"Emb.LN"})
    blocks = {"SelfAttn", "FFN"}
    places = {
        "LoRA": {"SelfAttn.Q", "SelfAttn.V"}, "Adapter": blocks, "LowRankAdapter": blocks, "Compacter": blocks,
        "BitFit": linear | norms, "LNFit": norms,
    }  # fmt: skip
    assert set(places) == set(MANUAL)
    for name, modules in places.items():
        made = manual_structure(name, backbone)
        assert {g.module for g in made.gates} == modules, name
        assert {g.pet_type for g in made.gates} == {name}
        everywhere = [p for p in positions(backbone.model) if p.module in modules]
        assert len(made) == len(everywhere)
    with pytest.raises(ConfigError, match="found 'Prompt'"):
        manual_structure("Prompt", backbone)


@pytest.mark.parametrize(
    ("method", "error", "says"),
    [
        ("fully", ConfigError, "expected a Structure or one of full, head, untouched, found 'fully'"),
        (Structure(()), StructureError, "at least one gate"),
        (structure_for("t5"), StructureError, "no position"),
    ],
)
def test_what_cannot_be_run(bert, method, error, says):
    before = snapshot(bert.backbone.model)
    with pytest.raises(error, match=says):
        run(bert, method)
    assert_same(bert.backbone.model, before)


# -- baselines -----------------------------------------------------------------------------------------


def test_the_table_of_baselines(bert):
    said = []
    table = baselines(
        workbench=bert, budget=700, seeds=[4, 9], n_random=2, progress=False, on_scores=said.append,
        structures={"searched": structure_for("bert")}, **FAST,
    )  # fmt: skip
    assert list(table.columns) == [
        "method", "task", "seed", "score", "loss", "validation", "pet_params", "percent", "head_params", "n_gates",
        "best_step", "steps_taken", "cap_reached", "learned", "seconds", "accuracy", "structure", "budget", "meets_budget", "words", "passes",
    ]  # fmt: skip
    counts = {
        "searched": 2, "untouched": 1, "head": 2, "LoRA": 2, "Adapter": 2, "LowRankAdapter": 2, "Compacter": 2,
        "BitFit": 2, "LNFit": 2, "random": 4, "full": 2,
    }  # fmt: skip
    assert table.groupby("method", sort=False).size().to_dict() == counts
    assert len(said) == len(table)
    random = table[table.method == "random"]
    assert [(w, s) for w, s in zip(random.structure, random.seed, strict=True)] == [(0, 4), (0, 9), (1, 4), (1, 9)]
    assert (random.pet_params <= 700).all()
    assert (random.pet_params > 0).all()
    assert set(table[table.method != "untouched"].seed) == {4, 9}
    assert set(table.head_params) == {0, 66}
    sizes = table.drop_duplicates("method").set_index("method").pet_params
    assert sizes["full"] == bert.backbone.n_params
    assert sizes["head"] == sizes["untouched"] == 0
    assert sizes["LoRA"] == 2 * 64
    assert sizes["LNFit"] == 3 * 32

    means = summary(table).set_index("method")
    assert list(means.index) == list(counts)
    assert means.runs.to_dict() == counts
    by_hand = table[table.method == "random"].score
    assert means.score["random"] == pytest.approx(by_hand.mean())
    assert means.spread["random"] == pytest.approx(by_hand.std())
    assert np.isnan(means.spread["untouched"])


def test_baselines_of_a_text_to_text_backbone(t5):
    options = {**FAST, "steps": 1, "evaluations": 1}
    with pytest.warns(UserWarning, match="'head' is left out"):
        table = baselines(workbench=t5, methods=["head", "LNFit", "LNFit"], seeds=1, progress=False, **options)
    assert list(table.method) == ["LNFit"]
    assert isinstance(table, pd.DataFrame)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"methods": ["Prompt"]}, ConfigError, "methods: expected names among .*, found 'Prompt'"),
        ({"seeds": 0}, ConfigError, "seeds: expected a whole number of at least 1, found 0"),
        ({"seeds": []}, ConfigError, "seeds: expected at least one"),
        ({"budget": 5}, BudgetError, "smallest module"),
        ({"budget": "0%"}, BudgetError, "above zero"),
        ({"learning_rate": 1}, ConfigError, "unknown option 'learning_rate' .*lr, head_lr"),
        ({"steps": 0}, ConfigError, "steps: expected auto or a whole number of at least 1, found 0"),
    ],
)
def test_baselines_refuse_before_they_train(bert, options, error, says):
    said = []
    with pytest.raises(error, match=says):
        baselines(workbench=bert, on_scores=said.append, progress=False, **{"methods": ["full", "random"], **options})
    assert not said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1"),
        ({"evaluations": 0}, "evaluations: expected a whole number of at least 1"),
        ({"lr": 0}, "lr: expected a positive number"),
        ({"lr": math.nan}, "lr: expected a positive number"),
        ({"head_lr": -1}, "head_lr: expected a positive number"),
        ({"full_lr": math.inf}, "full_lr: expected a positive number"),
        ({"clip": -1}, "clip: expected 0"),
        ({"clip": math.nan}, "clip: expected 0"),
        ({"max_source_length": 0}, "max_source_length: expected a whole number of at least 1"),
    ],
)
def test_options_that_cannot_be_used(options, says):
    with pytest.raises(ConfigError, match=says):
        TuneConfig(**options)


# -- tune ----------------------------------------------------------------------------------------------


def test_tune_from_memory_leaves_the_model_as_it_was():
    model, tokenizer = tiny_model("bert"), tokenizer_of("bert")
    model.train()
    model.bert.embeddings.requires_grad_(False)
    model.classifier.eval()
    before = snapshot(model)
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    data = {k: pd.DataFrame(v) for k, v in mood_data(40, 20).items()}
    scores = tune(
        structure_for("bert"), task=data, model=model, tokenizer=tokenizer, load={"task_spec": MOOD}, device="cpu",
        progress=False, **FAST,
    )  # fmt: skip
    assert scores.task == "mood"
    assert_same(model, before)
    assert [(p.requires_grad, p.grad) for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes


def test_tune_from_a_folder_and_a_file(tiny_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    path = structure_for("bert").save(tmp_path / "structure.json")
    data = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in mood_data(40, 20).items()})
    options = {"task": data, "backbone": tiny_folder("bert"), "load": {"task_spec": MOOD}, "device": "cpu", **FAST}
    for source in (path, str(path), structure_for("bert")):
        scores = tune(source, progress=False, **options)
        assert scores.method == "structure"
        assert scores.backbone == str(tiny_folder("bert"))
    assert tune("untouched", progress=False, label="mine", **options).method == "mine"
    with pytest.raises(RunError, match="nowhere.json: no such run directory: expected a run folder or a structure file"):
        tune("nowhere.json", **options)


@pytest.mark.parametrize("form", ["bert", "t5"])
def test_a_folder_gets_the_form_and_head_of_the_task(tiny_folder, form):
    names = ["negative", "positive", "quick"]
    wb = Workbench.open(mood_data(40, 20), tiny_folder(form), task_spec={**MOOD, "label_names": names}, device="cpu")
    assert wb.splits.data.form == wb.backbone.form
    if form == "bert":
        assert wb.backbone.head["classifier.weight"].shape == (3, 32)
    assert isinstance(wb.splits, Splits)


@pytest.mark.parametrize(
    ("changes", "spec"),
    [({"num_labels": 3}, MOOD), ({"num_labels": 1}, MOOD), ({"num_labels": 2}, STRENGTH),
     ({"num_labels": 2, "problem_type": "multi_label_classification"}, MOOD)],
)  # fmt: skip
def test_a_head_in_memory_has_to_be_for_the_task(changes, spec):
    with pytest.raises(BackboneError, match=r"expects a model with num_labels=\d for .*, found num_labels=\d"):
        tune(
            "head", task=mood_data(40, 20), model=tiny_model("bert", **changes), tokenizer=tokenizer_of("bert"),
            load={"task_spec": spec}, device="cpu",
        )  # fmt: skip


def test_either_a_name_or_a_model(tiny_folder):
    given = {"task": mood_data(40, 20), "load": {"task_spec": MOOD}}
    with pytest.raises(ConfigError, match="either backbone= .* or model="):
        tune("head", **given)
    with pytest.raises(ConfigError, match="either backbone= .* or model="):
        tune("head", backbone=tiny_folder("bert"), model=tiny_model("bert"), tokenizer=tokenizer_of("bert"), **given)
    with pytest.raises(BackboneError, match="tokenizer"):
        tune("head", model=tiny_model("bert"), **given)


def test_a_model_in_memory_goes_back_to_its_device():
    """``meta`` stands in for a device that this machine may lack."""
    model = tiny_model("bert").to("meta")
    with as_found(model):
        model.to_empty(device="cpu")
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    spread = tiny_model("bert")
    spread.classifier.to("meta")
    with as_found(spread):
        pass
    assert {p.device.type for p in spread.parameters()} == {"cpu", "meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tune_on_cuda_brings_the_model_back():
    model, before = tiny_model("bert"), snapshot(tiny_model("bert"))
    tune(
        structure_for("bert"), task=mood_data(40, 20), model=model, tokenizer=tokenizer_of("bert"),
        load={"task_spec": MOOD}, device="cuda", progress=False, **FAST,
    )  # fmt: skip
    assert_same(model, before)


def test_structures_are_opened_like_every_other_source(tmp_path):
    """By a name, a path or as they are; what is none of these is refused before a backbone is loaded."""
    options = {"task": "sentiment", "backbone": "tiny-t5", "methods": ["untouched"], "seeds": 1, "steps": 1, "evaluations": 1}
    options |= {"load": {"max_rows": 8}, "progress": False, "device": "cpu"}
    recorded = s3.open_run("sentiment-0.2pct-s0")
    recorded.structure().save(tmp_path / "s.json")
    given = {"run": recorded, "name": "sentiment-0.2pct-s0", "path": tmp_path / "s.json", "structure": recorded.structure()}
    table = s3.baselines(structures=given, **options)
    assert list(table["method"]) == [*given, "untouched"]
    assert table["loss"].head(4).nunique() == 1
    with pytest.raises(RunError, match="nowhere: no such run directory"):
        s3.baselines(structures={"mine": "nowhere"}, **options)
    with pytest.raises(SourceError, match="structures: mine: expected a run, a structure, or the path of one, found 5"):
        s3.baselines(structures={"mine": 5}, **options)
