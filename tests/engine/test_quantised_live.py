"""Models whose weights bitsandbytes or torchao packed: searched, tuned, explained and exported as they are."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil

import numpy as np
import pytest
import torch
from problems import MOOD, mood_data, tiny_model, tokenizer_of, word_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3Config, Qwen3ForCausalLM

import s3pet_viz as s3
from s3pet_viz.backbones import load_backbone, positions, wrap_backbone
from s3pet_viz.backbones.placed import stored
from s3pet_viz.backbones.quantised import is_packed, is_quantised, plain_copy, plain_weight
from s3pet_viz.engine.fingerprint import fingerprint_of
from s3pet_viz.errors import AdapterError, BackboneError, ConfigError, MissingExtraError
from s3pet_viz.export.adapter import digest
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.tasks import load_task
from s3pet_viz.threads import no_warnings

QUICK = {"task": mood_data(24, 8), "load": {"task_spec": MOOD}, "batch_size": 8, "progress": False, "device": "cpu"}
#: Largest difference of two ways to the same numbers: 8 bits round the input of each layer too.
CLOSE = {"nf4": 1e-5, "int8": 2e-5, "8-bit": 3e-2}


def _needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f'{package} is not installed (pip install "s3pet_viz[quantised]")')


KINDS = [
    pytest.param("8-bit", marks=_needs("bitsandbytes")),
    pytest.param("nf4", marks=_needs("bitsandbytes")),
    pytest.param("int8", marks=_needs("torchao")),
]


def _how(kind):
    if kind == "8-bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer("gpt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A decoder-only model before it is packed."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("plain")
    Qwen3ForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def load(folder):
    def loaded(kind, **more):
        how = {"quantization_config": _how(kind), "dtype": torch.float32, **more}
        return AutoModelForCausalLM.from_pretrained(folder, **how)

    return loaded


@pytest.fixture(scope="module")
def made(load):
    """Each kind once."""
    models = {}
    return lambda kind: models.setdefault(kind, load(kind))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@torch.no_grad()
def logits(model, tokenizer):
    return model(**tokenizer([row["text"] for row in QUICK["task"]["test"][:1]], return_tensors="pt")).logits


def apart(a, b):
    return float((a - b).abs().max() / a.abs().max())


def contents(model):
    return {name: value.clone() for name, value in stored(model)}


def assert_kept(model, before, held):
    assert all(torch.equal(value, before[name]) for name, value in stored(model))
    assert all(p.grad is None for p in model.parameters())
    assert [(id(p), p.requires_grad) for p in model.parameters()] == held


def test_it_counts_as_the_model_that_it_was(made, folder, tokenizer, kind):
    """The same parameters, positions and gates, so the same share is the same budget."""
    plain = load_backbone(folder)
    ours = wrap_backbone(made(kind), tokenizer)
    assert is_quantised(ours.model)
    assert ours.n_params == plain.n_params
    facts = [[(p.name, p.module, p.in_features, p.out_features) for p in b.positions()] for b in (ours, plain)]
    assert facts[0] == facts[1]
    gates = [candidate_gates(positions(b.model), load_space("S3PET-M"))[0] for b in (ours, plain)]
    assert gates[0] == gates[1]


@pytest.mark.parametrize("form", ["t5", "bert", "gated"])
@_needs("bitsandbytes")
def test_positions_of_packed_blocks(form):
    """Blocks whose every weight is packed, which has another shape."""
    import bitsandbytes as bnb

    model, plain = tiny_model(form), tiny_model(form)
    for name, layer in list(model.base_model.named_modules()):
        if isinstance(layer, nn.Linear) and name != "lm_head":
            packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, layer.bias is not None)
            packed.load_state_dict(layer.state_dict())
            model.base_model.set_submodule(name, packed.to("cpu"))
    ours, theirs = (wrap_backbone(m, tokenizer_of(form)) for m in (model, plain))
    assert sum(map(is_packed, ours.body)) > 8
    assert ours.n_params == theirs.n_params
    facts = [[(p.name, p.in_features, p.out_features) for p in b.positions()] for b in (ours, theirs)]
    assert facts[0] == facts[1]


def test_closed_gates_change_nothing(made, tokenizer, kind):
    model = made(kind)
    backbone = wrap_backbone(model, tokenizer)
    plain = logits(model, tokenizer)
    pets = insert(model, candidate_gates(backbone.positions(), load_space("S3PET-M"))[0])
    try:
        for p in pets.parameters():
            nn.init.normal_(p)
        with pets.gated(torch.zeros(len(pets))):
            assert torch.equal(logits(model, tokenizer), plain)
        with pets.gated(torch.ones(len(pets))):
            assert not torch.allclose(logits(model, tokenizer), plain)
        assert {p.dtype for p in pets.parameters()} == {torch.float32}
    finally:
        pets.detach()
    assert torch.equal(logits(model, tokenizer), plain)


def test_the_numbers_that_it_stands_for(made, folder, tokenizer, kind):
    """A plain model of the numbers behind the packed weights says the same, and loses its marks."""
    model = made(kind)
    plain = plain_copy(model)
    assert not is_quantised(plain)
    assert apart(logits(model, tokenizer), logits(plain, tokenizer)) < CLOSE[kind]
    assert plain.float() is plain  # transformers refuses that of a quantised model
    wrap_backbone(plain, tokenizer)
    layer = model.model.layers[0].mlp.down_proj
    was = load_backbone(folder).model.model.layers[0].mlp.down_proj.weight
    assert 0 < apart(was, plain_weight(layer)) < (0.2 if kind == "nf4" else 0.01)


@pytest.mark.parametrize(
    ("kind", "mode", "space"),
    [
        pytest.param("8-bit", "fast", "S3PET-M", marks=_needs("bitsandbytes")),
        pytest.param("nf4", "exact", "LoRA-ranks", marks=_needs("bitsandbytes")),
        pytest.param("nf4", "prune", "S3PET-M", marks=_needs("bitsandbytes")),
        pytest.param("int8", "fast", "LoRA-ranks", marks=_needs("torchao")),
    ],
)
def test_a_search_is_that_of_the_numbers(made, folder, tokenizer, tmp_path, kind, mode, space):
    """Losses, gates and their gradients are those of a plain model of the same numbers; nothing packed moves."""
    model = made(kind)
    before, held = contents(model), [(id(p), p.requires_grad) for p in model.parameters()]
    found = []
    for name, own in (("packed", model), ("plain", plain_copy(model))):
        run = s3.search(
            model=own, tokenizer=tokenizer, budget="2%", space=space, mode=mode, steps=4, second_order_from=1,
            out=tmp_path / name, **QUICK,
        )  # fmt: skip
        found.append((run.steps()["train_loss"].to_numpy(), run.alphas(), run))
    assert_kept(model, before, held)
    (losses, alphas, run), (plain_losses, plain_alphas, _) = found
    assert np.allclose(losses, plain_losses, rtol=3e-3)
    both = np.corrcoef(alphas[-1], plain_alphas[-1])[0, 1]
    assert both > 0.95
    assert 0 < run.structure().n_params <= math.floor(0.02 * load_backbone(folder).n_params)


def test_tuned_explained_and_exported(made, load, folder, tokenizer, tmp_path, kind):
    peft = pytest.importorskip("peft")
    model = made(kind)
    gates = candidate_gates(wrap_backbone(model, tokenizer).positions(), load_space("S3PET-M"))[0]
    before, held = contents(model), [(id(p), p.requires_grad) for p in model.parameters()]
    chosen = [next(g for g in gates if g.pet_type == what) for what in ("LoRA", "BitFit", "LNFit")]
    structure = s3.Structure(tuple(chosen), "mine", 1)
    given = {"model": model, "tokenizer": tokenizer, "evaluations": 1, **QUICK}
    tuned = s3.tune(structure, steps=12, lr=0.05, save=tmp_path / "adapter", **given)
    assert math.isfinite(tuned.metrics["loss"])
    assert len(s3.explain(structure, steps=2, **given).effects) == 3
    assert_kept(model, before, held)

    adapter = s3.Adapter.from_pretrained(tmp_path / "adapter")
    lora = adapter.only(chosen[:1])
    with adapter.attach(model):
        assert apart(logits(model, tokenizer), _plain(model, tokenizer)) > 0.05
    with lora.attach(model):
        ours = logits(model, tokenizer)
    assert apart(ours, logits(model, tokenizer)) > 1e-3
    assert s3.to_peft(lora, model, folder=tmp_path / "peft").held == (chosen[0],)
    with no_warnings():
        theirs = peft.PeftModel.from_pretrained(load(kind), tmp_path / "peft")
    assert apart(ours, logits(theirs, tokenizer)) < CLOSE[kind]
    with pytest.raises(ConfigError, match=r"merge: expected unquantised weights, found \w+\.\w+ at model\.layers\.0"):
        s3.merge(adapter, model)
    with pytest.raises(AdapterError, match="weights"):  # it was trained beside other weights
        adapter.attach(folder)
    assert_kept(model, before, held)


def _plain(model, tokenizer):
    return logits(plain_copy(model), tokenizer)


def test_what_cannot_work_is_refused_first(made, tokenizer, kind):
    given = {"model": made(kind), "tokenizer": tokenizer, **QUICK}
    for method in ("full", "AdaLoRA"):
        with pytest.raises(ConfigError, match=rf"methods: {method}: expected unquantised weights, found .* at model\.layers"):
            s3.baselines(methods=["random", method], budget="2%", steps=10**9, **given)
    with pytest.raises(ConfigError, match="score: expected unquantised weights for a score that reads them"):
        s3.score(method="plop", budget="2%", **given)
    assert s3.score(method="gradient", budget="2%", **given).structure().n_params > 0


def test_in_bfloat16(kind, load, tokenizer, tmp_path):
    """What the other weights are in is what a pass computes in; what is trained is float32, as of any such model."""
    model = load(kind, dtype=torch.bfloat16)
    backbone = wrap_backbone(model, tokenizer)
    gates = candidate_gates(backbone.positions(), load_space("S3PET-M"))[0]
    pets = insert(model, gates)
    assert {p.dtype for p in pets.parameters()} == {torch.bfloat16}
    assert logits(model, tokenizer).dtype == torch.bfloat16
    pets.detach()
    given = {"model": model, "tokenizer": tokenizer, **QUICK}
    run = s3.search(budget="2%", steps=2, second_order_from=1, out=tmp_path / "run", **given)
    assert np.isfinite(run.steps()["train_loss"]).all()
    assert (run.alphas()[-1] != 0).mean() > 0.9
    tuned = s3.tune(run.structure(), steps=2, save=tmp_path / "adapter", evaluations=1, **given)
    assert math.isfinite(tuned.metrics["loss"])
    assert {w.dtype for w in s3.Adapter.from_pretrained(tmp_path / "adapter").weights.values()} == {torch.float32}


def test_what_a_search_and_an_adapter_know_it_by(made, load, folder, tokenizer, kind):
    """The numbers behind the packed weights: another scale is another backbone."""
    data = load_task("sentiment", form="text", max_rows=8)
    own = load(kind)
    first, other = (wrap_backbone(m, tokenizer) for m in (made(kind), own))
    facts = [fingerprint_of(b, [], data, 1)["backbone weights"] for b in (first, other)]
    assert facts[0] == facts[1]
    assert digest(first.model) == digest(own) != digest(load_backbone(folder).model)
    layer = own.model.layers[1].mlp.up_proj
    if kind == "int8":
        layer.weight.scale.mul_(2)
    elif kind == "nf4":
        layer.weight.quant_state.offset += 1
    else:
        layer.weight.SCB.mul_(2)
    assert fingerprint_of(other, [], data, 1)["backbone weights"] != facts[0]
    assert digest(own) != digest(first.model)


def test_a_folder_of_packed_weights(load, folder, tmp_path, tokenizer, kind):
    packed = tmp_path / "packed"
    load(kind).save_pretrained(packed)
    tokenizer.save_pretrained(packed)
    ours = load_backbone(packed)
    assert is_quantised(ours.model)
    assert ours.n_params == load_backbone(folder).n_params
    run = s3.search(backbone=packed, budget="2%", steps=2, out=tmp_path / "run", **QUICK)
    assert (run.alphas()[-1] != 0).mean() > 0.9
    assert len(s3.positions(packed)) == len(ours.positions())
    with pytest.raises(ConfigError, match=r"estimate: expected unquantised weights, found .*quantization_config"):
        s3.estimate(task="sentiment", backbone=packed, budget="2%")


@_needs("torchao")
def test_rounded_inputs_hand_no_gradient_on(tokenizer):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = tiny_model("bert")
    quantize_(model.bert, Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(BackboneError, match=r"is quantised \(torchao's Int8Tensor with int8 inputs at bert\."):
        wrap_backbone(model, tokenizer_of("bert"))


@_needs("bitsandbytes")
def test_layers_of_bitsandbytes_that_are_refused():
    import bitsandbytes as bnb

    def refused(what, layer, place="bert.encoder.layer.0.output.dense"):
        model = tiny_model("bert")
        model.set_submodule(place, layer)
        with pytest.raises(BackboneError, match=what):
            wrap_backbone(model, tokenizer_of("bert"))

    refused("Linear8bitLt at bert", bnb.nn.Linear8bitLt(64, 32))  # it packs anew in each pass
    refused("Linear4bit at bert", bnb.nn.Linear4bit(64, 32))  # not packed yet
    packed = bnb.nn.Linear4bit(64, 32).to("cpu")
    packed.weight.quant_state.packing_format_for_cpu = True
    refused("repacked by bitsandbytes for inference when it ran; load it anew", packed)
    refused(
        r"head with unquantised weights, which are trained, found classifier\.weight",
        bnb.nn.Linear8bitLt(32, 2, has_fp16_weights=False).to("cpu"), "classifier",
    )  # fmt: skip
    embedding = bnb.nn.Embedding4bit(40, 64).to("cpu")
    refused("Embedding4bit at bert", embedding, "bert.embeddings.word_embeddings")


def test_a_package_that_is_not_installed(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("s3pet_viz.backbones.quantised.find_spec", lambda name: None)
    for method in ("bitsandbytes", "torchao"):
        folder = shutil.copytree(tiny_folder("bert"), tmp_path / method)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
        with pytest.raises(MissingExtraError, match=rf"{method}' is quantised \(quantization_config: {method}\), which needs"):
            load_backbone(folder)


@_needs("bitsandbytes")
def test_an_encoder_with_a_head(tmp_path):
    """Packed by hand, after it was loaded; its pooler cannot be trained then."""
    import bitsandbytes as bnb

    model = tiny_model("bert")
    for name, layer in list(model.bert.named_modules()):
        if isinstance(layer, nn.Linear):
            packed = bnb.nn.Linear8bitLt(layer.in_features, layer.out_features, has_fp16_weights=False)
            packed.load_state_dict(layer.state_dict())
            model.bert.set_submodule(name, packed.to("cpu"))
    before, held = contents(model), [(id(p), p.requires_grad) for p in model.parameters()]
    given = {"model": model, "tokenizer": tokenizer_of("bert"), **QUICK}
    run = s3.search(budget=400, steps=3, second_order_from=1, out=tmp_path / "run", **given)
    assert (run.alphas()[-1] != 0).mean() > 0.9
    s3.tune(run.structure(), steps=2, evaluations=1, **given)
    with pytest.raises(ConfigError, match="expected unquantised weights"):
        s3.tune(run.structure(), steps=2, evaluations=1, train_pooler=True, **given)
    assert_kept(model, before, held)
