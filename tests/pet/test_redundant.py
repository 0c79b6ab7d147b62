"""Biases that add nothing beside another are found by measuring, in every family; their neighbours are not."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from problems import MOOD, mood_data, tiny_model
from tiny_families import TINY

import s3pet_viz as s3
from s3pet_viz.backbones import positions
from s3pet_viz.errors import RunError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.pet.inert import logits_of
from s3pet_viz.pet.redundant import redundant_pairs
from s3pet_viz.runs import layout
from s3pet_viz.viewer.documents import of_run

VALUES, NORM = ("SelfAttn.V", "SelfAttn.O"), ("FFN.LN", "FFN.W1")
#: Gemma, Llama and gated T5 have two matrices behind the norm, and so no pair there; where a norm stands behind the
#: block (BERT), its bias goes elsewhere too. GPT-2 has one matrix for queries, keys and values.
EXPECTED = {
    "t5": {VALUES, NORM}, "opt": {VALUES, NORM}, "gpt2": {("SelfAttn.LN", "SelfAttn.QKV"), NORM},
    "gpt2, classification": {("SelfAttn.LN", "SelfAttn.QKV"), NORM},
}  # fmt: skip


def biases_of(model) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return candidate_gates(positions(model), load_space("S3PET-M"))[0]


def found_in(tiny, dtype) -> tuple:
    model = tiny.model().to(dtype)
    return model, redundant_pairs(model, biases_of(model), tiny.inputs())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("tiny", TINY, ids=[tiny.name for tiny in TINY])
def test_values_beside_outputs_and_norms_in_front_of_one_matrix(tiny, dtype):
    model, pairs = found_in(tiny, dtype)
    assert {g.pet_type for pair in pairs for g in pair} == {"BitFit"}
    assert all(a.column == b.column for a, b in pairs), "another layer's"
    assert {(a.module, b.module) for a, b in pairs} == EXPECTED.get(tiny.name, {VALUES})
    layers = {g.column for g in biases_of(model) if g.module == "FFN.W1" or g.module == "FFN.LN"} - {"E.final"}
    kinds = len(EXPECTED.get(tiny.name, {VALUES}))
    assert len(pairs) == kinds * len({g.column for pair in pairs for g in pair})
    assert {g.column for pair in pairs for g in pair} <= layers


def test_half_precision_finds_no_pair_that_is_none():
    """In a search autocast computes, as a head is float32."""
    for tiny in TINY:
        if tiny.name in ("t5", "bert", "llama", "gpt2"):
            model, pairs = found_in(tiny, torch.bfloat16)
            if hasattr(model, "classifier"):
                model.classifier.float()
            autocast = partial(torch.autocast, "cpu", torch.bfloat16)
            pairs += redundant_pairs(model, biases_of(model), tiny.inputs(), autocast)
            assert {(a.module, b.module) for a, b in pairs} <= EXPECTED.get(tiny.name, {VALUES}), tiny.name


def test_the_claim_itself():
    """What a bias on values does, a bias on the output matrix does: W_O b, worked out by hand; that of another layer, or
    a bias on queries, leaves the output moved.
    """
    model = tiny_model("t5").double().eval()
    inputs = next(t for t in TINY if t.name == "t5").inputs()
    gates = {(g.column, g.module): g for g in biases_of(model) if g.pet_type == "BitFit"}
    value = gates["E.0", "SelfAttn.V"]
    weight = model.get_submodule(gates["E.0", "SelfAttn.O"].position).weight.detach()
    bias = torch.randn(weight.shape[1], dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = logits_of(model, inputs)

        def moved(*others) -> float:
            pets = insert(model, [replace(g, index=i) for i, g in enumerate((value, *others))])
            pets[0].bias.copy_(bias)
            for pet in list(pets)[1:]:
                pet.bias.copy_(-(weight @ bias))
            made = float((logits_of(model, inputs) - base).abs().max())
            pets.detach()
            return made

        assert moved(gates["E.0", "SelfAttn.O"]) < 1e-10 < 1e-3 < moved()
        assert moved(gates["E.1", "SelfAttn.O"]) > 1e-3
        assert moved(gates["E.0", "SelfAttn.Q"]) > 1e-3


def test_weights_that_do_not_sum_to_one_make_no_pair():
    """Measured, not listed: an attention whose output is scaled by its input has no pair of the kind."""
    model = tiny_model("t5").double()
    for layer in model.encoder.block:
        out = layer.layer[0].SelfAttention.o
        out.register_forward_pre_hook(lambda module, args: (args[0] * args[0].abs().mean(-1, keepdim=True),))
    inputs = next(t for t in TINY if t.name == "t5").inputs()
    pairs = redundant_pairs(model, biases_of(model), inputs)
    assert {(a.stack, a.module) for a, _ in pairs} == {("decoder", "SelfAttn.V"), ("encoder", "FFN.LN"), ("decoder", "FFN.LN")}


def test_nothing_to_compare():
    model, inputs = tiny_model("bert"), next(t for t in TINY if t.name == "bert").inputs()
    gates = biases_of(model)
    assert redundant_pairs(model, [g for g in gates if g.pet_type == "LoRA"], inputs) == ()
    assert redundant_pairs(model, gates, {name: rows[:1] for name, rows in inputs.items()}) == ()
    only = [g for g in gates if g.module in ("SelfAttn.V", "SelfAttn.Q")]
    assert redundant_pairs(model, only, inputs) == ()


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    return s3.search(
        task=mood_data(24, 8), backbone=str(tiny_folder("bert")), budget="5%", steps=2, batch_size=4, progress=False,
        device="cpu", load={"task_spec": MOOD}, out=tmp_path_factory.mktemp("runs") / "run", mode="prune",
    )  # fmt: skip


def test_a_search_keeps_all_of_them_and_says_which(run):
    assert {(a.module, b.module) for a, b in run.redundant} == {VALUES}
    keys = {g.key for g in run.gates_list}
    assert all(g.key in keys for pair in run.redundant for g in pair), "both are searched"
    table = run.gates().set_index(["column", "module", "pet_type"])["redundant_beside"]
    assert table["E.0", "SelfAttn.V", "BitFit"] == "E.0 SelfAttn.O · BitFit"
    assert table["E.0", "SelfAttn.O", "BitFit"] == table["E.0", "SelfAttn.V", "LoRA"] == ""
    cells = s3.figures.heatmap(run).data[0]
    words = [w[-1] for row in cells.customdata for w in row if w[0] == "E.0 SelfAttn.V · BitFit"]
    assert words == ["adds nothing beside E.0 SelfAttn.O · BitFit"]
    assert set(of_run(run)["beside"].values()) == {f"E.{k} SelfAttn.O · BitFit" for k in range(2)}
    assert "redundant_beside" not in s3.open_run("similarity-0.2pct-s0").gates(), "recorded before"


def test_a_search_goes_on_where_it_cannot_be_measured(monkeypatch, tmp_path):
    def broken(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("s3pet_viz.training.candidates.redundant_pairs", broken)
    options = {"task": "sentiment", "backbone": "tiny-t5", "budget": 600, "steps": 1, "max_rows": 16, "batch_size": 4}
    with pytest.warns(UserWarning, match="redundant was not measured: CUDA out of memory.$"):
        made = s3.search(**options, out=tmp_path / "run", progress=False)
    assert made.status == "finished"
    assert made.redundant == ()


def test_attention_that_looks_at_one_token_hides_nothing():
    """In a layer of tiny-t5's decoder it does on most inputs, and a norm's bias acts there through values alone."""
    backbone = s3.load_backbone("tiny-t5")
    texts = ["a good film", "no", "they never came back to the old house", "well made", "dull and far too long", "a", "I like it a lot", "bad"]
    batch = backbone.tokenizer(texts, return_tensors="pt", padding=True)
    batch["labels"] = backbone.tokenizer(["positive", "negative"] * 4, return_tensors="pt", padding=True).input_ids
    pairs = redundant_pairs(backbone.model, biases_of(backbone.model), batch)
    assert {(a.module, b.module) for a, b in pairs} == {VALUES, NORM}
    assert all((a.stack, a.layer) == (b.stack, b.layer) for a, b in pairs)
    assert len(pairs) == 2 * 8


@pytest.mark.parametrize("wrong", ["all", [1], [[1, 2, 3]], [[{"position": "x"}, {"position": "y"}]]])
def test_a_damaged_list_is_said(run, tmp_path, wrong):
    path = tmp_path / "run"
    path.mkdir()
    for file in run.path.iterdir():
        if file.is_file():
            (path / file.name).write_bytes(file.read_bytes())
    info = path / layout.RUN_JSON
    info.write_text(json.dumps(json.loads(info.read_text()) | {"redundant": wrong}))
    with pytest.raises(RunError, match="run.json.*redundant"):
        _ = s3.open_run(path).redundant
