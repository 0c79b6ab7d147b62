"""Backbones with quantised weights are refused: PET modules and their fused forms are not written for such layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from s3pet_viz.errors import BackboneError

#: Packages whose layers hold packed weights, by the first part of a module's import path.
_PACKAGES = ("bitsandbytes", "gptqmodel", "auto_gptq", "awq", "aqlm", "eetq", "hqq", "optimum", "torchao", "quanto")


def refuse_quantised(config: Any, model: nn.Module | None, name: str) -> None:
    """Raise where a config or a live model says that its weights are quantised.

    Args:
        config: of the model; its ``quantization_config`` is what GPTQ, AWQ, bitsandbytes and the like leave there.
        model: None while there is only a config.

    Raises:
        BackboneError: naming what was found.
    """
    found = _of_config(config) or (_of_modules(model) if model is not None else "")
    if found:
        raise BackboneError(
            f"backbone: {name!r} is quantised ({found}); expected unquantised weights (float32, bfloat16): "
            "load the original model"
        )


def _of_config(config: Any) -> str:
    said = getattr(config, "quantization_config", None)
    if not said:
        return ""
    method = said.get("quant_method") if isinstance(said, Mapping) else getattr(said, "quant_method", None)
    return f"quantization_config: {getattr(method, 'value', method) or type(said).__name__}"


def _of_modules(model: nn.Module) -> str:
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.partition(".")[0] in _PACKAGES:
            return f"{kind.__module__}.{kind.__name__} at {name}"
        weight: Any = getattr(module, "weight", None)
        # Packed weights are integers, fp8 ones a single byte.
        packed = hasattr(weight, "dtype") and (not weight.dtype.is_floating_point or weight.dtype.itemsize < 2)
        if packed or hasattr(module, "qweight"):
            return f"{kind.__name__} at {name}"
    return ""
