"""Quantised weights: bitsandbytes' (8 and 4 bits) and torchao's int8 are searched as they are; others are refused."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.errors import BackboneError, ConfigError, MissingExtraError

#: Packages whose layers hold packed weights.
_PACKAGES = ("bitsandbytes", "gptqmodel", "auto_gptq", "awq", "aqlm", "eetq", "hqq", "optimum", "torchao", "quanto")
#: Those that are searched.
_KNOWN = ("bitsandbytes", "torchao")
_BYTES = ("Linear8bitLt", "Linear4bit")
_EXTRA = 'pip install "s3pet_viz[quantised]"'
#: What transformers writes down of a quantised model.
_MARKS = ("is_loaded_in_8bit", "is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer")


def is_packed(weight: Any) -> bool:
    """Whether a parameter holds other numbers than those that torch multiplies with: whole ones, single bytes, or a
    package's own tensor (whose type may be that of what it stands for)."""
    return (
        not weight.dtype.is_floating_point
        or weight.dtype.itemsize < 2
        or _package(weight) == "torchao"
        or getattr(weight, "quant_state", None) is not None
    )


def is_quantised(model: nn.Module) -> bool:
    return any(is_packed(p) for p in model.parameters())


def shape_of(weight: Tensor) -> torch.Size:
    """Of what a parameter stands for: 4 bits are packed two to a byte, in a column."""
    state = getattr(weight, "quant_state", None)
    return weight.shape if state is None else torch.Size(state.shape)


def count(parameters: Iterable[Tensor]) -> int:
    """How many numbers these stand for: a quantised model has as many parameters as the model that it was."""
    return sum(math.prod(shape_of(p)) for p in parameters)


@torch.no_grad()
def plain_weight(layer: nn.Module) -> Tensor:  # -> (out, in)
    """The numbers that a layer's weight stands for, which may be packed."""
    weight: Any = layer.weight
    if not is_packed(weight):
        return weight.detach()
    if _package(weight) == "torchao":
        made: Tensor = weight.dequantize()
    elif getattr(weight, "quant_state", None) is None and not hasattr(weight, "SCB"):
        made = weight  # of no package: whole numbers that stand for themselves
    else:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        made = dequantize_bnb_weight(weight, getattr(layer, "state", None))
    return made.detach()


def plain_copy(model: nn.Module) -> Any:
    """A copy of a quantised model that computes with the numbers its weights stand for, in plain linear layers of
    float32; so it can tell an error from rounding."""
    memo: dict[int, Any] = {}
    for layer in model.modules():
        weight: Any = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear) and is_packed(weight):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(plain_weight(layer).float(), requires_grad=False)
            plain.bias = None if layer.bias is None else copy.deepcopy(layer.bias, memo)
            memo[id(layer)] = plain.train(layer.training)
    made: Any = copy.deepcopy(model, memo)
    for name in _MARKS:
        vars(made).pop(name, None)
    if hasattr(made.config, "quantization_config"):
        del made.config.quantization_config
    return made.float()


def refuse_quantised(config: Any, model: nn.Module | None, name: str) -> None:
    """No weights are quantised in a way that is not searched, as far as a config or (where there is one) a live model
    says.

    Raises:
        BackboneError: some are; names what was found.
        MissingExtraError: they are bitsandbytes' or torchao's, which is not installed.
    """
    method = _method(config)
    found = method and method not in _KNOWN and f"quantization_config: {method}"
    if found := found or (_strange_layer(model) if model is not None else ""):
        raise BackboneError(
            f"backbone: {name!r} is quantised ({found}); expected unquantised weights (float32, bfloat16), those of "
            "bitsandbytes in 8 or 4 bits, or int8 ones of torchao; load the original model"
        )
    if method and find_spec(method) is None:
        raise MissingExtraError(
            f"backbone: {name!r} is quantised (quantization_config: {method}), which needs an extra: {_EXTRA}"
        )
    for layer in model.modules() if model is not None else ():
        _prepare(layer)


def refuse_outline(config: Any, name: str) -> None:
    """Raises ConfigError: weights without numbers cannot be packed, so nothing is known of a quantised model."""
    if method := _method(config):
        raise ConfigError(
            f"estimate: expected unquantised weights, found {name!r} (quantization_config: {method}); the original "
            "model's estimate holds but for its frozen weights"
        )


def need_plain(what: str, model: nn.Module) -> None:
    """Raises ConfigError: weights that are to change are quantised."""
    if layer := _first(model):
        raise ConfigError(f"{what}: expected unquantised weights, found {layer}; quantised weights stay as they are")


def check_trained(parameters: Mapping[str, nn.Parameter], name: str) -> None:
    """Raises BackboneError: a head that is trained whole is quantised."""
    for at, parameter in parameters.items():
        if is_packed(parameter):
            raise BackboneError(
                f"backbone: expected a head with unquantised weights, which are trained, found {at} of {name!r} "
                "quantised; leave it out when you quantise (llm_int8_skip_modules, modules_to_not_convert)"
            )


def _package(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]


def _method(config: Any) -> str:
    said = getattr(config, "quantization_config", None)
    if not said:
        return ""
    method = said.get("quant_method") if isinstance(said, Mapping) else getattr(said, "quant_method", None)
    return str(getattr(method, "value", method) or type(said).__name__)


def _first(model: nn.Module) -> str:
    """The first layer whose weight is packed, in words."""
    for name, module in model.named_modules():
        if any(is_packed(p) for p in module.parameters(recurse=False)):
            kind = type(module)
            return f"{kind.__module__.partition('.')[0]}.{kind.__name__} at {name}"
    return ""


def _strange_layer(model: nn.Module) -> str:
    """The first layer that is quantised, and is none that is searched; in words."""
    for name, module in model.named_modules():
        kind = type(module)
        weight: Any = getattr(module, "weight", None)
        packed = hasattr(weight, "dtype") and is_packed(weight)
        if _package(module) in _PACKAGES:
            if not (_package(module) == "bitsandbytes" and kind.__name__ in _BYTES and packed):
                return f"{kind.__module__}.{kind.__name__} at {name}"
            if getattr(weight.quant_state if hasattr(weight, "quant_state") else None, "packing_format_for_cpu", False):
                # It multiplies, and hands no gradient on.
                return f"{kind.__name__} at {name}, repacked by bitsandbytes for inference when it ran; load it anew"
        elif packed and _package(weight) == "torchao":
            if not (isinstance(module, nn.Linear) and type(weight).__name__ == "Int8Tensor"):
                return f"torchao's {type(weight).__name__} at {name}"
            if weight.act_quant_kwargs is not None:  # rounded inputs hand no gradient on
                return f"torchao's {type(weight).__name__} with int8 inputs at {name}"
        elif packed or hasattr(module, "qweight"):
            return f"{kind.__name__} at {name}"
    return ""


def _prepare(layer: Any) -> None:
    """bitsandbytes' 4-bit layers repack their weights in a pass without gradients, on CPUs that know bfloat16, and
    hand none on afterwards; 8-bit ones say in each pass of each layer that they round their input."""
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False
    if _package(layer) == "bitsandbytes":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")
