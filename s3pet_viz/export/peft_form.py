"""Structures and trained adapters in the form of PEFT (huggingface/peft): LoRA and LNTuning."""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.load import quiet
from s3pet_viz.backbones.position import Position, is_conv1d, understood
from s3pet_viz.config.checks import number
from s3pet_viz.errors import ConfigError, ExportError, MissingExtraError, StructureError
from s3pet_viz.export.adapter import Adapter, Attached
from s3pet_viz.export.folder import check_free_folder, staged_folder
from s3pet_viz.export.host import Host, host_of, named, read_source
from s3pet_viz.export.merging import lora_scale, lora_size
from s3pet_viz.export.probe import check_same, outputs
from s3pet_viz.files import located
from s3pet_viz.pet import insert
from s3pet_viz.sources import Source
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.units import joined
from s3pet_viz.threads import no_warnings

_OWN = ("adapter_model.*",)
_NAME = "default"


@dataclass(frozen=True)
class PeftExport:
    """What became of a structure in PEFT.

    Attributes:
        config: a ``LoraConfig`` (norms among its ``modules_to_save``), or an ``LNTuningConfig`` where no gate is LoRA.
            Give it to ``peft.get_peft_model`` to train the same structure there.
        held: the gates that it holds, units of one position as one.
        dropped: the gates that PEFT cannot hold, each with the reason.
        notes: what PEFT trains beside what the gates say.
        folder: the PEFT adapter folder, where one was written.
        gap: largest difference of the logits, loaded back from that folder, over the largest logit.
    """

    config: Any
    held: tuple[Gate, ...]
    dropped: dict[Gate, str]
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    gap: float | None = None

    def __repr__(self) -> str:
        lost = f", {len(self.dropped)} gates dropped" if self.dropped else ""
        return f"PeftExport({type(self.config).__name__} of {len(self.held)} gates{lost})"


def need_peft(what: str) -> Any:
    """The module. Raises MissingExtraError: it is not installed."""
    try:
        import peft
    except ImportError:
        raise MissingExtraError(f'{what}: PEFT needs an extra: pip install "s3pet_viz[peft]"') from None
    return peft


def to_peft(
    source: Adapter | Source,
    backbone: Backbone | nn.Module | str | Path | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    partial: bool = False,
    overwrite: bool = False,
    any_weights: bool = False,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
) -> PeftExport:
    """A structure as a PEFT config; an adapter with its trained weights as a PEFT adapter folder.

    LoRA gates become one ``LoraConfig`` with exact target modules, ranks and scales; units of one position one LoRA
    there, whose rank is their number and whose lora_alpha is s r. LNFit gates become an
    ``LNTuningConfig``, or beside LoRA ``modules_to_save`` (a copy of each norm). A BitFit gate on a norm that has a
    bias and an LNFit gate goes with that one. PEFT has no form for other BitFit gates, nor for adapters on blocks.
    IA3 gates are refused too: PEFT keeps IA3 in an adapter of its own kind, which is not written.

    Args:
        source: an adapter, its folder or its name on the hub; or a run or a structure, or what names one
            (`sources.Source`).
        backbone: loaded, a transformers model (left as it was), a name or folder; the source's own where it is None.
        folder: where to write. Of a structure alone only ``adapter_config.json`` is written.
        partial: leave out the gates that PEFT cannot hold; they are listed in the result.
        overwrite: write into a folder that is not empty.
        any_weights: accept a backbone of the same shape with other weights.
        lora_alpha: of a LoRA of rank one, instead of the gates' own; the scale lora_alpha / r of a LoRA of several
            units stays that of each. Only of a structure: trained weights belong to their scale.
        lora_dropout: in training there, from 0 to below 1; the package's own has none inside a LoRA.

    Raises:
        MissingExtraError: PEFT is not installed.
        ExportError: gates that PEFT cannot hold (all of them are named) and not `partial`; or what PEFT makes of
            the export is not what was meant. AdapterError, StructureError, BackboneError, ConfigError: as usual.
    """
    peft = need_peft("to_peft")
    wanted = "a number from 0 to below 1"
    if number("lora_dropout", lora_dropout, wanted) >= 1:
        raise ConfigError(f"lora_dropout: expected {wanted}, found {lora_dropout}")
    if lora_alpha is not None:
        lora_alpha = number("lora_alpha", lora_alpha, "a number above 0", open_end=True)
    if folder is not None:
        check_free_folder(folder, overwrite)
    given = read_source(source, backbone=backbone)
    adapter = given if isinstance(given, Adapter) else None
    adapter = adapter.joined() if adapter is not None else None
    structure = given if isinstance(given, Structure) else given.structure
    if lora_alpha is not None:
        if adapter is not None:
            raise ConfigError(
                "lora_alpha: trained weights belong to the scale they were trained with; give a structure"
            )
        structure = replace(structure, gates=tuple(_scaled(gate, lora_alpha) for gate in structure.gates))
    structure = replace(structure, gates=tuple(joined(structure.gates)))
    if not structure.gates:
        raise StructureError("structure: expected at least one gate, found none")
    host = host_of(given, backbone)
    if adapter is not None:
        adapter.check(host.model, any_weights=any_weights)
    else:
        insert(host.model, structure.gates).detach()  # is it for this backbone?
    host = host.precise()
    sites = host.sites(structure)
    dropped = _dropped(sites)
    held = tuple(g for g in structure.gates if g not in dropped)
    if dropped and not (partial and held):
        rest = "partial=True (--partial) exports the rest; a merged model may hold more, an adapter folder holds all"
        hint = "" if partial else f"\n{rest}"
        raise ExportError(f"PEFT cannot hold {len(dropped)} of {len(sites)} gates:\n{named(dropped)}{hint}")
    plan = _Plan(held, sites, host, adapter)
    # get_peft_model fills the name of the base in, and warns of one that is there.
    config = plan.config(peft, lora_dropout, (adapter.backbone or structure.backbone) if adapter is not None else "")
    with no_warnings(), quiet():
        # PEFT warns of norms and of names that are about to go; what it makes is compared below.
        try:
            wrapped = peft.get_peft_model(copy.deepcopy(host.model), copy.deepcopy(config))
        except (
            TypeError,
            ValueError,
        ) as error:  # a head that is named as a part of PEFT's own layers ends, and the like
            raise ExportError(f"to_peft: expected a model that PEFT takes, found: {error}") from error
        plan.check(wrapped)
        gap = None
        if adapter is not None:
            plan.fill(wrapped, adapter)
            with Attached(adapter.only(held), host.model):
                expected = outputs(host.model)
            gap = check_same(expected, outputs(wrapped), "to_peft: the PEFT model")
        if folder is not None:
            with staged_folder(folder, overwrite=overwrite, own=_OWN) as staged:
                if adapter is None:
                    config.save_pretrained(str(staged))
                else:
                    own = wrapped.peft_config[_NAME]
                    # PEFT shortens long lists to suffixes that fit the model at hand; the file keeps whole names.
                    own.target_modules, own.modules_to_save = config.target_modules, config.modules_to_save
                    own.base_model_name_or_path = config.base_model_name_or_path
                    # "auto" would ask the hub whether the vocabulary grew.
                    wrapped.save_pretrained(str(staged), save_embedding_layers=False)
                    del wrapped
                    again = peft.PeftModel.from_pretrained(copy.deepcopy(host.model), str(staged))
                    plan.check(again)
                    gap = check_same(expected, outputs(again), f"to_peft: the adapter for {folder}")
    return PeftExport(config, held, dropped, plan.notes, None if folder is None else located(folder), gap)


def _scaled(gate: Gate, alpha: float) -> Gate:
    return replace(gate, options={**gate.options, "lora_alpha": alpha}) if gate.pet_type == "LoRA" else gate


def _dropped(sites: dict[Gate, Position]) -> dict[Gate, str]:
    """The gates that PEFT cannot hold, and why."""
    lnfit = {g.position for g in sites if g.pet_type == "LNFit"}
    made = {}
    for gate, site in sites.items():
        if gate.pet_type in ("LoRA", "LNFit"):
            continue
        if gate.pet_type == "IA3":
            made[gate] = "PEFT keeps IA3 in an adapter of its own kind (IA3Config), which to_peft does not write"
        elif gate.pet_type != "BitFit":
            made[gate] = f"PEFT has no {gate.pet_type}"
        elif not (gate.position in lnfit and isinstance(getattr(site.target, "bias", None), nn.Parameter)):
            made[gate] = "PEFT has no bias of its own (only beside an LNFit gate, on a norm with a bias)"
    return made


class _Plan:
    """Which module of the model gets what."""

    def __init__(
        self, held: tuple[Gate, ...], sites: dict[Gate, Position], host: Host, adapter: Adapter | None
    ) -> None:
        self.gates = {g: host.prefix + g.position for g in held}
        self.loras = {name: g for g, name in self.gates.items() if g.pet_type == "LoRA"}
        self.norms = list(dict.fromkeys(name for g, name in self.gates.items() if g.pet_type != "LoRA"))
        self.heads = _head_modules(host, adapter)
        self.host = host
        self.transposed = any(is_conv1d(sites[g].target) for g in self.loras.values())
        biased = {
            host.prefix + g.position
            for g in held
            if g.pet_type == "LNFit" and isinstance(getattr(sites[g].target, "bias", None), nn.Parameter)
        } - {name for g, name in self.gates.items() if g.pet_type == "BitFit"}
        self.notes = (f"PEFT trains the bias too of {len(biased)} norms with an LNFit gate alone",) if biased else ()

    def config(self, peft: Any, dropout: float, base: str) -> Any:
        model = self.host.model
        more: dict[str, Any] = {"task_type": _task_type(model), "base_model_name_or_path": base or None}
        if not self.loras:
            return peft.LNTuningConfig(target_modules=self.norms, modules_to_save=self.heads or None, **more)
        sizes = {name: lora_size(g) for name, g in self.loras.items()}
        r = Counter(size[0] for size in sizes.values()).most_common(1)[0][0]
        alpha = Counter(size[1] for size in sizes.values()).most_common(1)[0][0]
        made = peft.LoraConfig(
            target_modules=list(self.loras),
            r=r,
            lora_alpha=alpha,
            rank_pattern={_exactly(name): size[0] for name, size in sizes.items() if size[0] != r},
            alpha_pattern={_exactly(name): size[1] for name, size in sizes.items() if size[1] != alpha},
            modules_to_save=[*self.norms, *self.heads] or None,
            fan_in_fan_out=self.transposed,
            lora_dropout=dropout,
            bias="none",
            **more,
        )
        made.target_modules = list(self.loras)  # PEFT makes a set of it, whose order is another in each file
        return made

    def check(self, wrapped: Any) -> None:
        """PEFT hit the modules that were meant, with their ranks and scales, and no other. Raises ExportError: it did
        not.
        """
        from peft.tuners.ln_tuning.layer import LNTuningLayer
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import ModulesToSaveWrapper

        base = wrapped.get_base_model()
        changed = (LNTuningLayer, LoraLayer, ModulesToSaveWrapper)
        kinds = {name: module for name, module in base.named_modules() if isinstance(module, changed)}
        meant = {*self.gates.values(), *self.heads}
        if set(kinds) != meant:
            name = sorted(set(kinds) ^ meant)[0]
            raise ExportError(f"to_peft: PEFT was meant to change {len(meant)} modules, and differs at {name!r}")
        for name, gate in self.loras.items():
            layer: Any = kinds[name]
            expected = (lora_size(gate)[0], lora_scale(gate))
            found = (layer.r[_NAME], layer.scaling[_NAME])
            if found != expected:
                raise ExportError(f"to_peft: {name}: expected rank and scale {expected}, found {found} in PEFT")

    @torch.no_grad()
    def fill(self, wrapped: Any, adapter: Adapter) -> None:
        """Put the trained weights into a PEFT model."""
        base = wrapped.get_base_model()
        for gate, name in self.gates.items():
            start, layer = f"{gate.position}.{gate.pet_type}", base.get_submodule(name)
            if gate.pet_type == "LoRA":
                layer.lora_A[_NAME].weight.copy_(adapter.weights[f"{start}.lora_A"])
                layer.lora_B[_NAME].weight.copy_(adapter.weights[f"{start}.lora_B"])
                continue
            weight = "weight" if gate.pet_type == "LNFit" else "bias"
            parameter = getattr(_own_copy(layer), weight)
            parameter.add_(adapter.weights[f"{start}.{weight}"].to(parameter))
        for name in self.heads:
            for part, parameter in _own_copy(base.get_submodule(name)).named_parameters():
                if (value := adapter.head.get(f"{name}.{part}")) is not None:
                    parameter.copy_(value)


def _own_copy(layer: Any) -> nn.Module:
    """The trainable copy of a module that PEFT keeps."""
    copies = layer.ln_tuning_layers if hasattr(layer, "ln_tuning_layers") else layer.modules_to_save
    made: nn.Module = copies[_NAME]
    return made


def _head_modules(host: Host, adapter: Adapter | None) -> list[str]:
    """The modules that are trained beside the gates: an encoder's head, and a pooler where the adapter holds it."""
    inside = host.prefix
    if not _has_head(host.model):
        return []
    names = [n for n, _ in host.model.named_parameters() if not n.startswith(inside)]
    found = dict.fromkeys(n.split(".")[0] for n in names)
    if adapter is not None and any(n.startswith(f"{inside}pooler.") for n in adapter.head):
        found[f"{inside}pooler"] = None
    return list(found)


def _has_head(model: Any) -> bool:
    named = re.search("For(Sequence|Token)Classification", type(model).__name__)
    return named is not None or not model.can_generate()


def _task_type(model: Any) -> str | None:
    """PEFT's name for the task; None: the model is taken as it is (PEFT's class for a head wants to give it more)."""
    if _has_head(model):
        kind = "TOKEN_CLS" if "ForTokenClassification" in type(model).__name__ else "SEQ_CLS"
        return kind if understood(model, inputs_embeds=None) else None
    return "SEQ_2_SEQ_LM" if getattr(model.config, "is_encoder_decoder", False) else "CAUSAL_LM"


def _exactly(name: str) -> str:
    """A PEFT pattern is a regular expression that may match the end of a name; this one matches the whole."""
    return f"^{re.escape(name)}"
