"""Every backbone family: PEFT and a merge compute what the attached adapter computes."""

from __future__ import annotations

import pytest
import torch
from export_problems import adapter_of, structure_of
from peft import PeftModel

from s3pet_viz.backbones import load_backbone, wrap_backbone
from s3pet_viz.errors import ExportError
from s3pet_viz.export import Adapter, merge, to_peft
from s3pet_viz.export.probe import difference, outputs

TINY = pytest.importorskip("tiny_families").TINY
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm.* encountered:UserWarning"),
]
every_family = pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)


def backbone_of(tiny):
    return wrap_backbone(tiny.model().double(), tiny.make_tokenizer(), name=tiny.name)


def most_of(tiny) -> float:
    """Gemma's norm computes in float32 whatever the type."""
    return 1e-6 if tiny.name == "gemma" else 1e-12


@every_family
def test_adapter_peft_and_merge(tiny, tmp_path):
    backbone = backbone_of(tiny)
    adapter = adapter_of(backbone, structure_of(backbone, types=("LoRA", "LNFit")))
    adapter = Adapter.from_pretrained(adapter.save_pretrained(tmp_path / "adapter"))
    plain = outputs(backbone.model)
    with adapter.attach(backbone):
        expected = outputs(backbone.model)
    assert difference(plain, expected) > 1e-3
    merge(adapter, backbone, folder=tmp_path / "merged")
    again = type(backbone.model).from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    assert difference(expected, outputs(again)) < most_of(tiny)
    to_peft(adapter, backbone, folder=tmp_path / "peft")
    theirs = PeftModel.from_pretrained(tiny.model().double(), str(tmp_path / "peft"))
    assert difference(expected, outputs(theirs)) < most_of(tiny)


@every_family
def test_biases_merge_where_there_are_some(tiny):
    backbone = backbone_of(tiny)
    structure = structure_of(backbone, types=("BitFit",))
    names = {n for n, _ in backbone.model.base_model.named_parameters(remove_duplicate=False)}
    wanting = [g for g in structure.gates if f"{g.position}.bias" not in names]
    adapter = adapter_of(backbone, structure)
    if wanting:
        with pytest.raises(ExportError, match=f"{len(wanting)} of {len(structure)} gates cannot be merged"):
            merge(adapter, backbone)
        adapter = adapter.only(g for g in structure.gates if g not in wanting)
    if adapter.structure.gates:
        with adapter.attach(backbone):
            expected = outputs(backbone.model)
        assert difference(expected, outputs(merge(adapter, backbone))) < most_of(tiny)


@pytest.mark.parametrize("tiny", [t for t in TINY if t.name.startswith("llama")], ids=lambda tiny: tiny.name)
def test_the_right_head_is_loaded(tiny, tmp_path):
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.make_tokenizer().save_pretrained(tmp_path / "base")
    backbone = load_backbone(tmp_path / "base", head="lm" if tiny.form == "text" else "classification")
    adapter = adapter_of(backbone, structure_of(backbone, "S3PET-L"))
    with adapter.attach(backbone):
        expected = outputs(backbone.model)
    with adapter.attach() as attached:
        assert type(attached.model) is type(backbone.model)
        assert torch.equal(outputs(attached.model)[0], expected[0])
