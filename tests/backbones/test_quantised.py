"""Weights quantised in a way that is not searched are refused in words, by what a config or a model says.

Those that are searched: tests/engine/test_quantised_live.py.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from problems import tiny_model, tokenizer_of
from torch import nn

from s3pet_viz.backbones import load_backbone, wrap_backbone
from s3pet_viz.errors import BackboneError


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_a_config_that_says_so(tiny_folder, tmp_path, method):
    folder = shutil.copytree(tiny_folder("bert"), tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(BackboneError, match=rf"small' is quantised \(quantization_config: {method}\); expected unquant"):
        load_backbone(folder)


def _stand_in(name: str, module: str, base: type = nn.Linear) -> type[nn.Module]:
    return type(name, (base,), {"__module__": module})


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("Linear4bit", "bitsandbytes.nn.modules"),
        ("Linear8bitLt", "bitsandbytes.nn.modules"),
        ("TorchQuantLinear", "gptqmodel.nn_modules.qlinear.torch"),
        ("WQLinear_GEMM", "awq.modules.linear.gemm"),
    ],
)
def test_layers_of_another_package(name, module):
    """These are subclasses of nn.Linear, or look like one."""
    model = tiny_model("bert")
    model.bert.encoder.layer[1].attention.self.value = _stand_in(name, module)(32, 32)
    says = rf"'mine' is quantised \({module}\.{name} at bert\.encoder\.layer\.1\.attention\.self\.value\)"
    with pytest.raises(BackboneError, match=says):
        wrap_backbone(model, tokenizer_of("bert"), name="mine")
    assert all(p.requires_grad for p in model.parameters())  # refused before anything was done to it


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_a_byte(dtype):
    model = tiny_model("bert")
    packed = torch.zeros(32, 32).to(dtype)
    model.bert.encoder.layer[0].output.dense.weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(BackboneError, match=r"is quantised \(Linear at bert\.encoder\.layer\.0\.output\.dense\)"):
        wrap_backbone(model, tokenizer_of("bert"))


def test_packed_weights_beside_the_weight():
    model = tiny_model("t5")
    model.encoder.block[0].layer[0].SelfAttention.q.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))
    with pytest.raises(BackboneError, match="is quantised"):
        wrap_backbone(model, tokenizer_of("t5"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats_are_no_quantisation(dtype):
    assert wrap_backbone(tiny_model("t5").to(dtype), tokenizer_of("t5")).n_params > 0
