"""A merged model computes what backbone and adapter compute, for transformers alone; what cannot be merged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_problems import RANKS, adapter_of, batch_of, gap, logits, structure_of, tiny_backbone
from problems import assert_same, snapshot, tiny_model
from torch import nn
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

import s3pet_viz as s3
from s3pet_viz.backbones.position import Position
from s3pet_viz.errors import AdapterError, ConfigError, ExportError, SourceError
from s3pet_viz.export import Adapter, merge, merging
from s3pet_viz.export.merging import obstacle
from s3pet_viz.pet import Space, SpaceEntry
from s3pet_viz.pet.modules import PET_CLASSES, LoRA
from s3pet_viz.structure import Gate

PLAIN = ("LoRA", "LNFit")


def attached_logits(adapter: Adapter, backbone) -> torch.Tensor:
    with adapter.attach(backbone):
        return logits(backbone.model)


def reloaded(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    encoder = (folder / "config.json").read_text().count("ForSequenceClassification")
    auto = AutoModelForSequenceClassification if encoder else AutoModelForSeq2SeqLM
    return auto.from_pretrained(folder, dtype=dtype)


def test_a_searched_structure_on_tiny_t5(searched, tmp_path):
    """The same generations and logits from plain transformers."""
    folder, _, scores = searched
    adapter = Adapter.from_pretrained(folder)
    backbone = adapter.load_backbone()
    before = snapshot(backbone.model)
    merge(folder, backbone, folder=tmp_path / "merged-t5")
    assert_same(backbone.model, before)
    theirs, tokenizer = reloaded(tmp_path / "merged-t5"), AutoTokenizer.from_pretrained(tmp_path / "merged-t5")
    rows = [e.source for e in s3.load_task("sentiment", form="text", max_rows=48).test]
    batch = tokenizer(rows, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 8, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    plain = backbone.model.generate(**batch, **options)
    with adapter.attach(backbone):
        ours = backbone.model.generate(**batch, **options)
    made = theirs.generate(**batch, **options)
    assert torch.equal(made.sequences, ours.sequences)
    assert gap(made.logits[0], ours.logits[0]) < 1e-4
    assert gap(plain.logits[0], ours.logits[0]) > 1e-3
    # The whole task, scored by transformers' model as a backbone of its own.
    untouched = s3.tune("untouched", task="sentiment", backbone=tmp_path / "merged-t5", load={"max_rows": 48}, progress=False)
    assert untouched.score == scores.score
    assert untouched.metrics["loss"] == pytest.approx(scores.metrics["loss"], rel=1e-5)


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["float64", "float32"])
def test_the_same_outputs(form, dtype, most, tmp_path):
    backbone = tiny_backbone(form, dtype)
    before = snapshot(backbone.model)
    types = PLAIN if form in ("t5", "gated") else (*PLAIN, "BitFit")
    adapter = adapter_of(backbone, structure_of(backbone, types=types), labels=("negative", "positive"))
    made = merge(adapter, backbone, folder=tmp_path / f"m-{form}")
    assert_same(backbone.model, before)
    ours = attached_logits(adapter, backbone)
    assert gap(ours, logits(backbone.model)) > 1e-2
    again = reloaded(tmp_path / f"m-{form}", dtype)
    for model in (made, again):
        assert type(model) is type(backbone.model)
        assert gap(logits(model), ours) < most
        assert list(model.state_dict()) == list(before)  # plain: no weight more, none less
    if form in ("bert", "roberta"):
        assert again.config.id2label == {0: "negative", 1: "positive"}
    else:
        batch = batch_of(again)
        ids = {k: v for k, v in batch.items() if not k.startswith("decoder")}
        with adapter.attach(backbone):
            expected = backbone.model.generate(**ids, max_new_tokens=6, do_sample=False)
        assert torch.equal(again.generate(**ids, max_new_tokens=6, do_sample=False), expected)


def test_ranks_scales_and_half_precision(tmp_path):
    backbone = tiny_backbone("t5", torch.float64)
    adapter = adapter_of(backbone, structure_of(backbone, RANKS))
    gate = next(g for g in adapter.structure.gates if g.options["r"] == 2)
    made = merge(adapter, backbone)
    moved = made.get_submodule(gate.position).weight - backbone.model.get_submodule(gate.position).weight
    a, b = (adapter.weights[f"{gate.position}.LoRA.{n}"] for n in ("lora_A", "lora_B"))
    assert gap(moved, 7 / 2 * b @ a) < 1e-15
    half = tiny_backbone("bert", torch.bfloat16)
    before = snapshot(half.model)
    adapter = adapter_of(half, structure_of(half, types=(*PLAIN, "BitFit")))
    made = merge(adapter, half, folder=tmp_path / "half")
    assert_same(half.model, before)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    single = tiny_backbone("bert")  # the bfloat16 weights in float32, merged there
    single.model.load_state_dict({k: v.to(single.model.state_dict()[k]) for k, v in before.items()})
    exact = merge(adapter, single).state_dict()
    rounded = reloaded(tmp_path / "half", torch.bfloat16).state_dict()
    assert all(torch.equal(rounded[k], v.to(rounded[k].dtype)) for k, v in exact.items())


def test_tied_embeddings_stay_tied(tmp_path):
    backbone = tiny_backbone("t5")
    adapter = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    merge(adapter, backbone, folder=tmp_path / "t5")
    again = reloaded(tmp_path / "t5")
    assert again.lm_head.weight is again.shared.weight
    assert torch.equal(again.shared.weight, backbone.model.shared.weight)


def test_a_backbone_by_name_is_loaded_and_the_callers_head_is_replaced(tiny_folder, tmp_path):
    backbone = s3.load_backbone(tiny_folder("bert"))
    adapter = adapter_of(backbone, structure_of(backbone, types=(*PLAIN, "BitFit")))
    made = merge(adapter, folder=tmp_path / "m")
    assert torch.equal(made.classifier.weight, adapter.head["classifier.weight"])
    assert gap(logits(reloaded(tmp_path / "m")), attached_logits(adapter, backbone)) < 2e-5
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("good cat") == backbone.tokenizer("good cat")
    assert made.training is False


# -- what cannot be merged -----------------------------------------------------------------------------------


def test_t5_has_no_biases_to_merge_into(tmp_path):
    backbone = tiny_backbone("t5")
    adapter = adapter_of(backbone, structure_of(backbone))
    with pytest.raises(ExportError) as caught:
        merge(adapter, backbone, folder=tmp_path / "m")
    message = str(caught.value)
    lost = [g for g in adapter.structure.gates if g.pet_type in ("BitFit", "LowRankAdapter")]
    assert f"{len(lost)} of {len(adapter.structure)} gates cannot be merged" in message
    assert all(f"{g.position} {g.pet_type}" in message for g in lost)
    assert "Linear of this architecture has no bias" in message
    assert "T5LayerNorm of this architecture has no bias" in message
    assert "computes on a block's output" in message
    assert not (tmp_path / "m").exists()


def test_transformers_does_drop_an_added_bias(tmp_path):
    """Why it is refused."""
    model = tiny_model("t5")
    model.encoder.block[0].layer[0].SelfAttention.q.bias = nn.Parameter(torch.ones(32))
    model.save_pretrained(tmp_path / "t5")
    again = reloaded(tmp_path / "t5")
    assert again.encoder.block[0].layer[0].SelfAttention.q.bias is None


def place(target: nn.Module, width: tuple[int, int] = (4, 6)) -> Position:
    return Position("p", target, "encoder", 0, "SelfAttn.Q", "linear", *width)


def why(pet_type: str, target: nn.Module, names: tuple[str, ...] = ("p",)) -> str:
    owners = {id(p): list(names) for p in target.parameters()}
    return obstacle(Gate(0, "p", "encoder", 0, "SelfAttn.Q", pet_type, 1), place(target), owners)


def test_obstacles():
    assert why("LoRA", nn.Linear(4, 6)) == ""
    assert why("LoRA", Conv1D(6, 4)) == ""
    assert why("BitFit", Conv1D(6, 4)) == ""
    assert why("BitFit", nn.LayerNorm(4)) == ""
    assert why("LNFit", nn.LayerNorm(4)) == ""
    assert "has no bias" in why("BitFit", nn.Linear(4, 6, bias=False))
    assert "has no weight" in why("LNFit", nn.LayerNorm(4, elementwise_affine=False))
    assert "expected a linear layer, found Embedding" in why("LoRA", nn.Embedding(4, 6))
    assert "its weight is shared by p, lm_head" in why("LoRA", nn.Linear(4, 6), ("p", "lm_head"))
    eight_bit = nn.Linear(4, 6)
    eight_bit.weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
    assert "quantised (torch.int8)" in why("LoRA", eight_bit)
    assert why("IA3", nn.Linear(4, 6)) == ""
    assert why("IA3", nn.Linear(4, 6, bias=False)) == ""  # nothing else to scale
    assert why("IA3", Conv1D(6, 4)) == ""
    assert "its weight is shared by p, lm_head" in why("IA3", nn.Linear(4, 6), ("p", "lm_head"))
    assert "quantised (torch.int8)" in why("IA3", eight_bit)
    assert "expected a linear layer, found Embedding" in why("IA3", nn.Embedding(4, 6))
    for name in ("Adapter", "LowRankAdapter", "Compacter"):
        assert "block's output" in why(name, nn.Linear(4, 6))


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: Conv1D(6, 4)], ids=["Linear", "Conv1D"])
def test_lora_folds_into_both_layouts(make):
    target = make().double()
    gate = Gate(0, "p", "encoder", 0, "SelfAttn.Q", "LoRA", 30, {"r": 3, "lora_alpha": 5})
    pet = LoRA(place(target), gate.options).double()
    with torch.no_grad():
        for p in pet.parameters():
            p.copy_(torch.randn(p.shape, dtype=p.dtype))
        x = torch.randn(7, 4, dtype=torch.float64)
        expected = target(x) + pet.delta(x, None)
        merging._fold(gate, {"p.LoRA.lora_A": pet.lora_A, "p.LoRA.lora_B": pet.lora_B}, target)
        assert gap(target(x), expected) < 1e-13


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: Conv1D(6, 4)], ids=["Linear", "Conv1D"])
def test_ia3_folds_into_both_layouts(make):
    target = make().double()
    gate = Gate(0, "p", "encoder", 0, "SelfAttn.Q", "IA3", 6)
    x, w = torch.randn(7, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    with torch.no_grad():
        target.bias.copy_(torch.randn(6))
        expected = target(x) * (1 + w)
        merging._fold(gate, {"p.IA3.weight": w}, target)
        assert gap(target(x), expected) < 1e-13


@pytest.mark.parametrize("form", ["t5", "bert"])
def test_ia3_scales_lora_and_not_bitfit(form, tmp_path):
    """Gates come in the order LoRA, BitFit, IA3; weights are folded in another, IA3 before BitFit."""
    backbone = tiny_backbone(form, torch.float64)
    types = ("IA3", "LoRA", *(("BitFit",) if form == "bert" else ()))  # T5 has no bias for a BitFit
    space = Space("all", tuple(SpaceEntry(t, ("SelfAttn.?", "FFN.W*")) for t in types))
    adapter = adapter_of(backbone, structure_of(backbone, space))
    assert {g.pet_type for g in adapter.structure.gates} == set(types)
    expected = attached_logits(adapter, backbone)
    assert gap(logits(merge(adapter, backbone, folder=tmp_path / "m")), expected) < 1e-12
    without = adapter.only(g for g in adapter.structure.gates if g.pet_type != "IA3")
    assert gap(attached_logits(without, backbone), expected) > 1e-3


def test_ia3_from_a_yaml_space_to_a_merged_model(tmp_path):
    """Searched, chosen within the budget, drawn, saved, loaded, tuned, attached, taken off, merged."""
    space = tmp_path / "space.yaml"
    space.write_text('gates:\n  - {type: IA3, modules: ["SelfAttn.?", "FFN.W*"]}\n  - {type: LoRA, modules: ["SelfAttn.Q"]}\n')
    options = {"task": "sentiment", "backbone": "tiny-t5", "batch_size": 8, "progress": False}
    run = s3.search(space=space, budget="0.1%", steps=3, max_rows=48, seed=0, out=tmp_path / "run", **options)
    structure = run.structure()
    ia3 = [g for g in structure.gates if g.pet_type == "IA3"]
    assert ia3
    assert 0 < structure.n_params <= 0.001 * structure.backbone_params
    assert "IA3" in s3.figures.heatmap(run).to_json()
    structure.save(tmp_path / "structure.json")
    assert s3.Structure.load(tmp_path / "structure.json").gates == structure.gates
    scores = s3.tune(structure, steps=20, evaluations=1, load={"max_rows": 48}, save=tmp_path / "adapter", **options)
    assert scores.pet_params == structure.n_params
    adapter = Adapter.from_pretrained(tmp_path / "adapter")
    assert any(adapter.weights[f"{g.position}.IA3.weight"].any() for g in ia3)
    backbone = adapter.load_backbone()
    before, bare = snapshot(backbone.model), logits(backbone.model)
    ours = attached_logits(adapter, backbone)
    assert gap(ours, bare) > 1e-4
    assert torch.equal(logits(backbone.model), bare)
    assert_same(backbone.model, before)
    assert gap(logits(merge(adapter, backbone)), ours) < 1e-3
    with pytest.raises(ExportError, match=f"PEFT cannot hold {len(ia3)} of {len(structure)} gates"):
        s3.to_peft(adapter, backbone)


def test_a_type_that_merge_does_not_know_is_named(monkeypatch):
    class Strange(LoRA):
        """Not IA3, nor on a block."""

    monkeypatch.setitem(PET_CLASSES, "Strange", Strange)
    assert why("Strange", nn.Linear(4, 6)) == "merge knows no weights of the backbone for a Strange"


def test_wrong_inputs(tmp_path):
    backbone = tiny_backbone("bert")
    structure = structure_of(backbone, "S3PET-L")
    adapter = adapter_of(backbone, structure)
    with pytest.raises(SourceError, match="expected an adapter with trained weights, found a structure: tune it"):
        merge(structure, backbone)
    with pytest.raises(AdapterError, match="field 'digest'"):
        merge(adapter, tiny_model("bert", seed=4))
    with pytest.raises(AdapterError, match="field 'model_type'"):
        merge(adapter, tiny_model("t5"))
    with adapter.attach(backbone), pytest.raises(ExportError, match="PET modules attached to bert.encoder"):
        merge(adapter, backbone)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="the folder is not empty"):
        merge(adapter, backbone, folder=tmp_path / "mine")
    merge(adapter, backbone, folder=tmp_path / "mine", overwrite=True)
    assert {p.name for p in (tmp_path / "mine").iterdir()} >= {"thesis.tex", "model.safetensors", "config.json"}


def test_a_wrong_merge_is_noticed(monkeypatch, tmp_path):
    backbone = tiny_backbone("t5")
    adapter = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    monkeypatch.setattr(merging, "lora_scale", lambda _gate: 1.0)
    with pytest.raises(ExportError, match="the merged model was loaded back and computes something else"):
        merge(adapter, backbone, folder=tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_bias_and_lora_at_one_place():
    backbone = tiny_backbone("bert", torch.float64)
    both = Space("both", (SpaceEntry("LoRA", ("FFN.W2",), options={"r": 2}), SpaceEntry("BitFit", ("FFN.W2", "FFN.LN")), SpaceEntry("LNFit", ("FFN.LN",))))
    adapter = adapter_of(backbone, structure_of(backbone, both))
    assert gap(logits(merge(adapter, backbone)), attached_logits(adapter, backbone)) < 1e-12
