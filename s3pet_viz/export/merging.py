"""Trained PET weights folded into plain backbone weights, where that is exact."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.load import quiet
from s3pet_viz.backbones.position import Position, is_conv1d
from s3pet_viz.backbones.quantised import is_packed, need_plain
from s3pet_viz.errors import ExportError
from s3pet_viz.export.adapter import Adapter, Attached
from s3pet_viz.export.folder import check_free_folder, staged_folder
from s3pet_viz.export.host import host_of, named, read_adapter
from s3pet_viz.export.probe import check_same, outputs
from s3pet_viz.structure import Gate

#: The backbone's weights that a gate changes, by PET type in the order in which gates are folded.
_CHANGES = {"LoRA": ("weight",), "LNFit": ("weight",), "IA3": ("weight", "bias"), "BitFit": ("bias",)}
#: Weights of an earlier model in a folder that is written again.
_OWN = ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.json")


def merge(
    adapter: Adapter | str | Path,
    backbone: Backbone | nn.Module | str | Path | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    any_weights: bool = False,
) -> Any:
    """A plain transformers model that computes what the backbone with the adapter computes.

    LoRA: ``W + s B A``. LNFit: ``w + w_pet``. IA3: the rows of W (after LoRA) and the bias times ``1 + w_pet``. BitFit:
    ``b + b_pet`` (after IA3, which does not scale it), where the architecture has that bias. An encoder's trained head
    comes along. The sums are taken in float64 and rounded to the backbone's type (that of the files, where it is
    loaded here); where that is a half-precision one, outputs are compared in float32, before the last rounding.

    Args:
        adapter: trained (`Adapter`), or its folder or name on the hub.
        backbone: loaded, a transformers model (left as it was), a name or folder; the adapter's own where it is None.
        folder: write the model (and the tokenizer) there with ``save_pretrained``, load it back, and compare.
        overwrite: write into a folder that is not empty.
        any_weights: accept a backbone of the same shape with other weights.

    Returns:
        The merged model, in evaluation mode.

    Raises:
        ExportError: gates that cannot be merged (all of them are named), no trained weights, or the merged model
            computes something else. AdapterError, BackboneError, ConfigError: before any long work.
    """
    if folder is not None:
        check_free_folder(folder, overwrite)
    source = read_adapter(adapter, "merge")
    host = host_of(source, backbone)
    need_plain("merge", host.model)
    source.check(host.model, any_weights=any_weights)
    types = {n: t.dtype for n, t in _tensors(host.model).items()}
    written = types if host.borrowed else _types_in_files(host.model, types)
    host = host.precise()
    with Attached(source, host.model):
        expected = outputs(host.model)
    source = source.joined()
    sites = host.sites(source.structure)
    owners = _owners(host.model)
    wrong = {g: why for g, site in sites.items() if (why := obstacle(g, site, owners))}
    if wrong:
        raise ExportError(f"merge: {len(wrong)} of {len(sites)} gates cannot be merged:\n{named(wrong)}")

    merged: Any = host.copy()
    targets = dict(merged.named_modules())
    for gate in sorted(sites, key=lambda g: list(_CHANGES).index(g.pet_type)):
        _fold(gate, source.weights, targets[host.prefix + gate.position])
    parameters = dict(merged.named_parameters())
    with torch.no_grad():
        for name, tensor in source.head.items():
            parameters[name].copy_(tensor)
    if source.labels and not source.regression and len(source.labels) == merged.config.num_labels:
        merged.config.id2label = dict(enumerate(source.labels))
        merged.config.label2id = {label: i for i, label in enumerate(source.labels)}
    merged.eval()
    check_same(expected, outputs(merged), "merge: the merged model")
    for name, tensor in _tensors(merged).items():
        tensor.data = tensor.data.to(written[name]).to(types[name])
    if folder is not None:
        expected = outputs(merged)
        with staged_folder(folder, overwrite=overwrite, own=_OWN) as staged, quiet():
            state = {n: t.to(written.get(n, t.dtype)) for n, t in merged.state_dict().items()}
            merged.save_pretrained(staged, state_dict=state)
            if host.tokenizer is not None:
                host.tokenizer.save_pretrained(staged)
            # How experts are computed is not kept in a folder, and not every way knows float64.
            how = {"experts_implementation": getattr(merged.config, "_experts_implementation", None)}
            how = {name: value for name, value in how.items() if value}
            again = type(merged).from_pretrained(staged, dtype=merged.dtype, **how).to(merged.device)
            check_same(expected, outputs(again), f"merge: the model for {folder}")
    return merged


def obstacle(gate: Gate, site: Position, owners: dict[int, list[str]]) -> str:
    """Why a gate cannot become plain weights; empty where it can. `owners`: names of the modules that hold each
    parameter, by its id.
    """
    target = site.target
    if gate.pet_type not in _CHANGES:
        from s3pet_viz.pet.modules import PET_CLASSES

        if PET_CLASSES[gate.pet_type].kinds == ("block",):
            return "computes on a block's output; no weight of the backbone does"
        return f"merge knows no weights of the backbone for a {gate.pet_type}"
    for name in _CHANGES[gate.pet_type]:
        weight = getattr(target, name, None)
        if weight is None and (gate.pet_type, name) == ("IA3", "bias"):
            continue  # nothing to scale
        if not isinstance(weight, nn.Parameter):
            kind = type(target).__name__
            return f"{kind} of this architecture has no {name}, and transformers would drop an added one"
        if is_packed(weight):
            return f"the {name} is quantised ({weight.dtype})"
        if gate.pet_type in ("LoRA", "IA3") and not (isinstance(target, nn.Linear) or is_conv1d(target)):
            return f"expected a linear layer, found {type(target).__name__}"
        if len(owners[id(weight)]) > 1:
            return f"its {name} is shared by {', '.join(owners[id(weight)])}"
    return ""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _types_in_files(model: Any, types: dict[str, torch.dtype]) -> dict[str, torch.dtype]:
    """transformers holds some weights of a float16 model in float32 (T5's wo), in memory alone."""
    high = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if model.dtype == torch.float16 else set()
    return {n: model.dtype if t == torch.float32 and high & set(n.split(".")) else t for n, t in types.items()}


def _owners(model: nn.Module) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return found


@torch.no_grad()
def _fold(gate: Gate, weights: Any, target: Any) -> None:
    start = f"{gate.position}.{gate.pet_type}"
    if gate.pet_type == "IA3":
        factor = 1 + _exact(weights[f"{start}.weight"])  # (out,)
        rows = factor if is_conv1d(target) else factor[:, None]
        target.weight.copy_((_exact(target.weight) * rows).to(target.weight.dtype))
        if target.bias is not None:
            target.bias.copy_((_exact(target.bias) * factor).to(target.bias.dtype))
        return
    if gate.pet_type == "LoRA":
        a, b = (_exact(weights[f"{start}.{name}"]) for name in ("lora_A", "lora_B"))
        delta = lora_scale(gate) * (b @ a)  # (out, in)
        parameter, delta = target.weight, (delta.t() if is_conv1d(target) else delta)
    else:
        name = "weight" if gate.pet_type == "LNFit" else "bias"
        parameter, delta = getattr(target, name), _exact(weights[f"{start}.{name}"])
    parameter.copy_((_exact(parameter) + delta).to(parameter.dtype))


def lora_scale(gate: Gate) -> float:
    """``s = lora_alpha / r`` (docs/method.md, "PET types")."""
    r, alpha = lora_size(gate)
    return alpha / r


def lora_size(gate: Gate) -> tuple[int, float]:
    """r and lora_alpha of a LoRA gate, the defaults where it says nothing."""
    from s3pet_viz.pet.modules import LoRA

    options = {**LoRA.defaults, **gate.options}
    return options["r"], options["lora_alpha"]


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float64)
