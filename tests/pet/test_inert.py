"""Gates that cannot help are found by measuring, in every family and precision, and no search or score takes them."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from problems import MOOD, assert_same, mood_data, snapshot, tiny_model
from tiny_families import TINY

import s3pet_viz as s3
from s3pet_viz.backbones import positions
from s3pet_viz.errors import RunError, SpaceError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.pet.inert import inert_gates
from s3pet_viz.pet.redundant import redundant_pairs
from s3pet_viz.runs import layout
from s3pet_viz.tuning import Workbench

#: Families whose attention scores depend on the key by a product alone, each with a key matrix of its own.
BY_PRODUCT = {"t5", "t5 v1.1 (Flan)", "bart", "bert", "roberta", "distilbert", "opt"}
KEYS = ("SelfAttn.K", "BitFit")


def gates_on(model) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return candidate_gates(positions(model), load_space("S3PET-M"))[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("tiny", TINY, ids=[tiny.name for tiny in TINY])
def test_biases_on_keys_are_inert_where_scores_are_a_product(tiny, dtype):
    model = tiny.model().to(dtype)
    gates = gates_on(model)
    found = inert_gates(model, gates, tiny.inputs())
    expected = [g for g in gates if (g.module, g.pet_type) == KEYS] if tiny.name in BY_PRODUCT else []
    assert list(found) == expected
    assert bool(expected) == (tiny.name in BY_PRODUCT)
    alone = [g for g in gates if (g.module, g.pet_type) == KEYS]  # with nothing beside them that can help
    assert list(inert_gates(model, alone, tiny.inputs()) if alone else ()) == expected


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_what_is_inert_changes_no_output_and_the_others_do(form):
    """The claim itself, gate by gate: other weights, the same logits."""
    model = tiny_model(form).double().eval()
    tiny = next(t for t in TINY if t.name == form)
    gates, inputs = gates_on(model), tiny.inputs()
    inert = {g.key for g in inert_gates(model, gates, inputs)}
    with torch.no_grad():
        before = model(**inputs).logits
        for gate in gates:
            pets = insert(model, [gate])
            for weight in pets.parameters():
                weight.copy_(torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1)))
            moved = float((model(**inputs).logits - before).abs().max())
            pets.detach()
            assert (moved < 1e-12) == (gate.key in inert), (gate.name, moved)


@pytest.mark.parametrize("measure", [inert_gates, redundant_pairs])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_state_are_left_as_they_were(training, measure):
    model = tiny_model("bert").train(training)
    before, state = snapshot(model), torch.random.get_rng_state()
    assert measure(model, gates_on(model), next(t for t in TINY if t.name == "bert").inputs())
    assert_same(model, before)
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_says_the_same_to_everything_has_no_inert_gates():
    """Where nothing depends on any gate, that is no finding about single ones."""
    model = tiny_model("bert")
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert inert_gates(model, gates_on(model), next(t for t in TINY if t.name == "bert").inputs()) == ()


def search(folder, out, **options):
    return s3.search(
        task=mood_data(24, 8), backbone=str(folder), budget="5%", steps=2, batch_size=4, progress=False, device="cpu",
        load={"task_spec": MOOD}, out=out, **options,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["fast", "prune", "paper"])
def test_a_search_leaves_them_out_and_says_which(tiny_folder, tmp_path, mode):
    folder = tiny_folder("bert")
    run = search(folder, tmp_path / "run", mode=mode)
    whole = gates_on(tiny_model("bert"))
    keys = {g.key for g in whole if (g.module, g.pet_type) == KEYS}
    assert {g.key for g in run.inert} == (set() if mode == "paper" else keys)
    assert [g.key for g in run.gates_list] == [g.key for g in whole if mode == "paper" or g.key not in keys]
    assert [g.index for g in run.gates_list] == list(range(len(run.gates_list)))
    assert run.alphas().shape[1] == len(run.gates_list)


def test_a_space_in_which_nothing_can_help_is_refused(tiny_folder, tmp_path):
    space = {"gates": [{"type": "BitFit", "modules": ["SelfAttn.K"]}]}
    words = "expected a gate that can help, found none: the output of .* its 2 gates .*E.0 SelfAttn.K · BitFit"
    with pytest.raises(SpaceError, match=words):
        search(tiny_folder("bert"), tmp_path / "run", space=space, mode="prune")
    assert not (tmp_path / "run").exists()
    bench = Workbench.open(mood_data(24, 8), str(tiny_folder("bert")), task_spec=MOOD, device="cpu")
    with pytest.raises(SpaceError, match=words):
        s3.score(workbench=bench, budget="5%", rows=8, progress=False, space=space)


def test_a_resumed_search_keeps_its_own_gates(tiny_folder, tmp_path):
    """Also one of an earlier version, which has all of them."""
    folder, data = tiny_folder("bert"), mood_data(24, 8)
    run = search(folder, tmp_path / "run", mode="paper")
    path = run.path / layout.RUN_JSON
    info = json.loads(path.read_text())
    info["config"] |= {"mode": "fast", "steps": 3}
    del info["inert"]
    info |= {"status": "stopped", "steps_total": 3}
    path.write_text(json.dumps(info))
    assert s3.open_run(run.path).inert == ()
    again = s3.search(resume=run.path, task=data, load={"task_spec": MOOD}, progress=False)
    assert (again.n_steps, len(again.gates_list)) == (3, len(run.gates_list))


def test_scores_and_random_structures_leave_them_out(tiny_folder):
    bench = Workbench.open(mood_data(24, 8), str(tiny_folder("bert")), task_spec=MOOD, device="cpu")
    scores = s3.score(workbench=bench, budget="5%", rows=8, progress=False)
    assert {(g.module, g.pet_type) for g in scores.inert} == {KEYS}
    assert not {g.key for g in scores.gates} & {g.key for g in scores.inert}
    assert len(scores.gates) + len(scores.inert) == len(gates_on(tiny_model("bert")))


def test_heatmaps_hatch_them(tiny_folder, tmp_path):
    run = search(tiny_folder("bert"), tmp_path / "run")
    figure = s3.figures.heatmap(run)
    (hatched,) = (t for t in figure.data if t.name == "cannot help")
    rows = list(figure.layout.yaxis.ticktext)
    at = {rows[int(v)] for v in np.round(np.array(hatched.y, dtype=float)[np.isfinite(np.array(hatched.y, dtype=float))])}
    assert at == {"SelfAttn.K · BitFit"}
    (told,) = (t for t in figure.data if t.name == "inert")
    assert {words[1] for words in told.customdata} == {g.position for g in run.inert}
    assert not [t for t in s3.figures.heatmap("similarity-0.2pct-s0").data if t.name == "cannot help"], "recorded before"


@pytest.mark.parametrize("wrong", ["all", [1], [{"position": "x"}]])
def test_a_damaged_list_is_said(tiny_folder, tmp_path, wrong):
    run = search(tiny_folder("bert"), tmp_path / "run")
    path = run.path / layout.RUN_JSON
    path.write_text(json.dumps(json.loads(path.read_text()) | {"inert": wrong}))
    with pytest.raises(RunError, match="run.json.*inert"):
        _ = s3.open_run(run.path).inert
