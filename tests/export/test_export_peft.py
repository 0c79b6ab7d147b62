"""What goes to PEFT computes the same there, hits the modules that were meant and no other, and drops nothing in silence."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import torch
from export_problems import RANKS, adapter_of, batch_of, gap, logits, structure_of, tiny_backbone
from peft import LNTuningConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from problems import assert_same, snapshot, tiny_model
from safetensors.torch import load_file

import s3pet_viz as s3
from s3pet_viz.errors import AdapterError, ConfigError, ExportError, MissingExtraError, SourceError, StructureError
from s3pet_viz.export import Adapter, to_peft
from s3pet_viz.pet import Space, SpaceEntry
from s3pet_viz.structure import Structure

#: PEFT itself reads a name that transformers is about to drop, and LNTuning does not know the widths of norms.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm.* encountered:UserWarning"),
]


def attached_logits(adapter: Adapter, backbone) -> torch.Tensor:
    with adapter.attach(backbone):
        return logits(backbone.model)


def in_peft(folder: Path, form: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    """What a user of PEFT does, on a backbone that we never touched."""
    return PeftModel.from_pretrained(tiny_model(form).to(dtype), str(folder))


def test_a_searched_structure_on_tiny_t5(searched, tmp_path):
    """The issue's own case: searched in S3PET-L, tuned, loaded by PEFT and transformers alone."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, structure, _ = searched
    made = to_peft(folder, folder=tmp_path / "peft")
    assert made.held == structure.gates
    assert not made.dropped
    adapter = Adapter.from_pretrained(folder)
    backbone = adapter.load_backbone()
    where = s3.resources.find_resource("backbones", "tiny-t5")
    theirs = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(where), str(tmp_path / "peft")).eval()
    text = AutoTokenizer.from_pretrained(where)(["sentiment text: a fine day", "sentiment text: bad"], return_tensors="pt", padding=True)
    batch = {**text, "decoder_input_ids": torch.tensor([[0, 5, 9], [0, 7, 8]])}
    with torch.no_grad():
        plain = backbone.model(**batch).logits
        with adapter.attach(backbone):
            ours = backbone.model(**batch).logits
            answers = backbone.model.generate(**text, max_new_tokens=8, do_sample=False)
        assert gap(theirs(**batch).logits, ours) < 1e-5
        assert gap(ours, plain) > 1e-3
        assert torch.equal(theirs.generate(**text, max_new_tokens=8, do_sample=False), answers)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["target_modules"] == [g.position for g in structure.gates]
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    assert config["base_model_name_or_path"] == "tiny-t5"


@pytest.mark.parametrize("form", ["t5", "gated", "bert", "roberta"])
@pytest.mark.parametrize(
    ("types", "kind"),
    [(("LoRA",), LoraConfig), (("LNFit",), LNTuningConfig), (("LoRA", "LNFit"), LoraConfig)],
    ids=["lora", "lnfit", "both"],
)
def test_the_same_outputs(form, types, kind, tmp_path):
    backbone = tiny_backbone(form)
    before = snapshot(backbone.model)
    adapter = adapter_of(backbone, structure_of(backbone, types=types))
    made = to_peft(adapter, backbone, folder=tmp_path / "peft")
    assert isinstance(made.config, kind)
    assert made.gap < 1e-5
    assert_same(backbone.model, before)
    assert gap(attached_logits(adapter, backbone), logits(backbone.model)) > 1e-2
    # In float64: how float32 rounds is the processor's business.
    ours = attached_logits(adapter, tiny_backbone(form, torch.float64))
    assert gap(logits(in_peft(tmp_path / "peft", form, torch.float64).double()), ours) < 5e-6  # T5 norms in float32
    trained = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    extra = sum(t.numel() for t in adapter.head.values())
    if form in ("bert", "roberta") and "LNFit" in types:
        extra += sum(g.n_params for g in made.held if g.pet_type == "LNFit")  # the norm's own bias
        assert "trains the bias too of 5 norms" in made.notes[0]
    else:
        assert made.notes == ()
    assert sum(t.numel() for t in trained.values()) == adapter.structure.n_params + extra


def test_ranks_and_scales(tmp_path):
    backbone = tiny_backbone("t5", torch.float64)
    adapter = adapter_of(backbone, structure_of(backbone, RANKS))
    made = to_peft(adapter, backbone, folder=tmp_path / "peft")
    theirs = in_peft(tmp_path / "peft", "t5", torch.float64)
    assert gap(logits(theirs), attached_logits(adapter, backbone)) < 1e-12
    layers = {n: m for n, m in theirs.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    assert {n: (m.r["default"], m.scaling["default"]) for n, m in layers.items()} == {
        g.position: (g.options["r"], g.options["lora_alpha"] / g.options["r"]) for g in made.held
    }
    assert (made.config.r, made.config.lora_alpha) == (3, 5)
    assert len(made.config.rank_pattern) == len(made.config.alpha_pattern) == 4


def test_half_precision_is_compared_in_float32(tmp_path):
    backbone = tiny_backbone("bert", torch.bfloat16)
    adapter = adapter_of(backbone, structure_of(backbone, types=("LoRA", "LNFit")))
    assert to_peft(adapter, backbone, folder=tmp_path / "peft").gap < 1e-5
    single = tiny_model("bert").to(torch.bfloat16).float()
    with adapter.attach(single):
        expected = logits(single)
    theirs = PeftModel.from_pretrained(tiny_model("bert").to(torch.bfloat16).float(), str(tmp_path / "peft"))
    assert gap(logits(theirs), expected) < 1e-5


def test_more_than_ten_layers_are_told_apart(tmp_path):
    """Block 1 with rank 3, blocks 10 and 11 with rank 1; the names of one end with those of no other."""
    backbone = tiny_backbone("bert", num_hidden_layers=12)
    space = Space(
        "deep",
        (
            SpaceEntry("LoRA", ("SelfAttn.Q",), ("encoder.layer.1.*",), {"r": 3}),
            SpaceEntry("LoRA", ("SelfAttn.Q",), ("encoder.layer.1[01].*",), {"r": 1}),
            SpaceEntry("LoRA", ("SelfAttn.O",), ("encoder.layer.0.*",), {"r": 2}),
        ),
    )
    adapter = adapter_of(backbone, structure_of(backbone, space))
    made = to_peft(adapter, backbone, folder=tmp_path / "peft")
    theirs = PeftModel.from_pretrained(tiny_model("bert", num_hidden_layers=12), str(tmp_path / "peft"))
    layers = {n: m.r["default"] for n, m in theirs.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    assert layers == {f"bert.{g.position}": g.options["r"] for g in made.held}
    assert len(layers) == 4
    # O's name is the end of no other; yet "output.dense" alone would be.
    assert gap(logits(theirs), attached_logits(adapter, backbone)) < 1e-5


def test_a_structure_alone_becomes_a_config(tmp_path):
    backbone = tiny_backbone("bert")
    structure = structure_of(backbone, types=("LoRA", "LNFit"))
    made = to_peft(structure, backbone, folder=tmp_path / "peft")
    assert [p.name for p in (tmp_path / "peft").iterdir()] == ["adapter_config.json"]
    assert made.gap is None
    config = PeftConfig.from_pretrained(str(tmp_path / "peft"))
    theirs = get_peft_model(tiny_model("bert"), config)
    trained = {n for n, p in theirs.named_parameters() if p.requires_grad}
    assert sum("lora_" in n for n in trained) == 2 * sum(g.pet_type == "LoRA" for g in made.held)
    assert sum("LayerNorm" in n and "weight" in n for n in trained) == 5
    assert any("classifier" in n for n in trained)
    assert logits(theirs).shape == (3, 2)  # LoRA starts at zero
    assert gap(logits(theirs), logits(tiny_model("bert"))) < 1e-6
    file = structure_of(s3.load_backbone("tiny-t5"), "S3PET-L").save(tmp_path / "s.json")
    assert to_peft(file).config.target_modules[0] == "encoder.block.0.layer.0.SelfAttention.q"


# -- what PEFT cannot hold -----------------------------------------------------------------------------------


def test_nothing_is_dropped_in_silence(tmp_path):
    backbone = tiny_backbone("t5")
    adapter = adapter_of(backbone, structure_of(backbone))
    with pytest.raises(ExportError) as caught:
        to_peft(adapter, backbone, folder=tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    lost = [g for g in adapter.structure.gates if g.pet_type in ("BitFit", "LowRankAdapter")]
    message = str(caught.value)
    assert f"PEFT cannot hold {len(lost)} of {len(adapter.structure)} gates" in message
    assert all(f"{g.position} {g.pet_type}" in message for g in lost)
    assert "PEFT has no LowRankAdapter: encoder.block.0.layer.0.SelfAttention LowRankAdapter, " in message
    assert "partial=True" in message
    made = to_peft(adapter, backbone, folder=tmp_path / "peft", partial=True)
    assert list(made.dropped) == lost
    assert set(made.held) == set(adapter.structure.gates) - set(lost)
    rest = attached_logits(adapter.only(made.held), backbone)
    assert gap(logits(in_peft(tmp_path / "peft", "t5")), rest) < 1e-5
    assert gap(rest, attached_logits(adapter, backbone)) > 1e-2
    assert repr(made) == f"PeftExport(LoraConfig of {len(made.held)} gates, {len(lost)} gates dropped)"


def test_ia3_is_named_and_not_dropped(tmp_path):
    backbone = tiny_backbone("t5")
    both = Space("both", (SpaceEntry("LoRA", ("SelfAttn.Q",)), SpaceEntry("IA3", ("SelfAttn.Q", "FFN.W2"))))
    adapter = adapter_of(backbone, structure_of(backbone, both))
    lost = [g for g in adapter.structure.gates if g.pet_type == "IA3"]
    assert lost
    with pytest.raises(ExportError) as caught:
        to_peft(adapter, backbone, folder=tmp_path / "peft")
    message = str(caught.value)
    assert f"PEFT cannot hold {len(lost)} of {len(adapter.structure)} gates" in message
    assert "PEFT keeps IA3 in an adapter of its own kind (IA3Config), which to_peft does not write: " in message
    assert all(f"{g.position} IA3" in message for g in lost)
    assert not (tmp_path / "peft").exists()
    assert list(to_peft(adapter, backbone, partial=True).dropped) == lost


def test_a_bias_goes_with_the_norm_that_is_copied(tmp_path):
    backbone = tiny_backbone("bert")
    norms = Space("norms", (SpaceEntry("LNFit", ("FFN.LN",)), SpaceEntry("BitFit", ("*.LN",))))
    adapter = adapter_of(backbone, structure_of(backbone, norms))
    with pytest.raises(ExportError, match="cannot hold 3 of 7 gates"):
        to_peft(adapter, backbone)
    made = to_peft(adapter, backbone, folder=tmp_path / "peft", partial=True)
    assert [(g.module, g.pet_type) for g in made.held] == 2 * [("FFN.LN", "BitFit"), ("FFN.LN", "LNFit")]
    assert made.notes == ()
    ours = attached_logits(adapter.only(made.held), backbone)
    assert gap(logits(in_peft(tmp_path / "peft", "bert")), ours) < 1e-5


@pytest.mark.parametrize("types", [("BitFit",), ("LowRankAdapter",)])
def test_nothing_left_is_an_error_even_if_partial(types):
    backbone = tiny_backbone("t5")
    with pytest.raises(ExportError, match="PEFT cannot hold"):
        to_peft(structure_of(backbone, types=types), backbone, partial=True)


# -- the head ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooler", [False, True])
def test_the_head_travels(tmp_path, pooler):
    """PEFT keeps it among modules_to_save; the base model's own, drawn at random, does not matter."""
    backbone = tiny_backbone("bert")
    adapter = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    if pooler:
        moved = {n: p + 0.3 for n, p in backbone.model.named_parameters() if ".pooler." in n}
        adapter = Adapter(**{**vars(adapter), "head": {**adapter.head, **moved}})
    made = to_peft(adapter, backbone, folder=tmp_path / "peft")
    assert made.config.task_type == "SEQ_CLS"
    assert made.config.modules_to_save == ["classifier", *(["bert.pooler"] if pooler else [])]
    base = tiny_model("bert")
    with torch.no_grad():
        base.classifier.weight.fill_(9.0)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    assert gap(logits(theirs), attached_logits(adapter, backbone)) < 1e-5


# -- wrong input ---------------------------------------------------------------------------------------------


def test_a_wrong_export_is_noticed(monkeypatch, tmp_path):
    """PEFT ignores keys that match nothing: what it made of the config is looked at, and what it computes."""
    from s3pet_viz.export import peft_form

    backbone = tiny_backbone("t5")
    adapter = adapter_of(backbone, structure_of(backbone, RANKS))
    with monkeypatch.context() as m:
        m.setattr(peft_form, "_exactly", lambda name: f"model.{name}")
        with pytest.raises(ExportError, match=r"SelfAttention.v: expected rank and scale \(2, 3.5\), found \(3, "):
            to_peft(adapter, backbone, folder=tmp_path / "peft")
    with monkeypatch.context() as m:
        m.setattr(peft_form._Plan, "fill", lambda *_: None)
        with pytest.raises(ExportError, match="loaded back and computes something else"):
            to_peft(adapter, backbone, folder=tmp_path / "peft")
    assert list(tmp_path.iterdir()) == []


def test_suffixes_do_not_hit_other_modules(monkeypatch):
    from s3pet_viz.export import peft_form

    backbone = tiny_backbone("t5")
    structure = structure_of(backbone, Space("one", (SpaceEntry("LoRA", ("SelfAttn.Q",), ("encoder.block.0.*",)),)))
    own = peft_form._Plan.config

    def shorter(self, *rest):
        made = own(self, *rest)
        made.target_modules = ["SelfAttention.q"]
        return made

    monkeypatch.setattr(peft_form._Plan, "config", shorter)
    with pytest.raises(ExportError, match="PEFT was meant to change 1 modules, and differs at 'decoder.block.0"):
        to_peft(structure, backbone)


def test_wrong_inputs(tmp_path, monkeypatch):
    backbone = tiny_backbone("t5")
    structure = structure_of(backbone, "S3PET-L")
    adapter = adapter_of(backbone, structure)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(ConfigError, match="the folder is not empty"):
        to_peft(adapter, backbone, folder=tmp_path / "full")
    with pytest.raises(StructureError, match="expected at least one gate"):
        to_peft(Structure(()), backbone)
    with pytest.raises(ExportError, match="field 'backbone': expected a name, found none"):
        to_peft(Structure(structure.gates))
    with pytest.raises(SourceError, match="expected an adapter, a run, a structure, or the path of one, found 3"):
        to_peft(3)
    with pytest.raises(StructureError, match="no position"):
        to_peft(structure, tiny_model("bert"))
    with pytest.raises(AdapterError, match="field 'digest'"):
        to_peft(adapter, tiny_model("t5", seed=3))
    assert to_peft(adapter, tiny_model("t5", seed=3), any_weights=True).gap < 1e-5
    with adapter.attach(backbone), pytest.raises(ExportError, match="PET modules attached to .*: detach them first"):
        to_peft(adapter, backbone)
    usual = builtins.__import__

    def without(name, *rest, **more):
        if name == "peft":
            raise ImportError(name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "s3pet_viz\[peft\]"'):
        to_peft(adapter, backbone)


def test_padding_does_not_matter():
    """The probe inputs are whole rows; the batches of these tests are padded."""
    assert not bool(batch_of(tiny_model("t5"))["attention_mask"].all())
