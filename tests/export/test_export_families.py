"""Backbone families: the head of a decoder's adapter. That every export computes the same: tests/family_checks.py."""

from __future__ import annotations

import pytest
import torch
from export_problems import adapter_of, structure_of
from tiny_families import TINY

from s3pet_viz.backbones import load_backbone
from s3pet_viz.export.probe import outputs


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
