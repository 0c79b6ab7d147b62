"""A structure with its trained weights: kept in a folder, fetched from the hub, attached to a backbone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import Backbone, load_backbone
from s3pet_viz.backbones.check import check_bare
from s3pet_viz.backbones.placed import stored
from s3pet_viz.backbones.position import base_of
from s3pet_viz.errors import AdapterError, BackboneError, ConfigError
from s3pet_viz.export.folder import FILES, META, WEIGHTS, find_adapter, staged_folder
from s3pet_viz.export.form import check_tensors, read_adapter, read_fact, write_adapter
from s3pet_viz.files import located, named_in
from s3pet_viz.hub import OnHub, Parcel, card
from s3pet_viz.pet import PETs, insert
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.units import joined

_PET, _HEAD = "pet.", "head."
_SAMPLE = 256  # values of each weight that the digest reads


@dataclass(frozen=True, eq=False)
class Adapter(OnHub):
    """A structure and its trained weights; the backbone itself is not part of it.

    Attributes:
        structure: which gates.
        weights: PET weights by ``<position>.<PET type>.<weight>``, of a unit by ``<position>.LoRA.3.<weight>``.
        head: an encoder's trained head by parameter name, and a pooler that was trained or drawn with it.
        backbone, revision: what to load; see `load_backbone`.
        model_type, form: of that backbone.
        num_labels, regression: width and kind of an encoder's head. problem: of the kind, as `load_backbone` takes it.
        labels: class names of the task, where it has them.
        digest: of the backbone's weights, so that others are noticed.
        task, scores: what it was trained on, and its metrics there.
        where: the folder it was read from; for messages.
    """

    structure: Structure
    weights: Mapping[str, Tensor]
    head: Mapping[str, Tensor] = field(default_factory=dict)
    backbone: str = ""
    revision: str | None = None
    model_type: str = ""
    form: str = "text"
    num_labels: int = 2
    regression: bool = False
    problem: str = ""
    labels: tuple[str, ...] = ()
    digest: str = ""
    task: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    where: str = "adapter"

    def __repr__(self) -> str:
        size = sum(t.numel() for t in self.head.values())
        head = f" + {size:,} of the head" if size else ""
        return f"Adapter({len(self.structure)} gates, {self.structure.n_params:,} parameters{head}, {self.backbone})"

    # -- making ----------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls, backbone: Backbone, structure: Structure, pets: PETs, *, head: Iterable[nn.Parameter] = (), **facts: Any
    ) -> Adapter:
        """A copy of the trained weights that are attached to a backbone.

        Args:
            pets: the attached modules of `structure`.
            head: the parameters of the model that were trained beside them.
            facts: further fields (task, labels, scores, revision).
        """
        trained = {id(p) for p in head}
        config: Any = getattr(backbone.model, "config", None)
        pair = backbone.form == "pair"
        kept = {
            name: p.detach().clone()
            for name, p in backbone.model.named_parameters()
            if id(p) in trained or (pair and name in backbone.drawn)
        }
        return cls(
            structure,
            {name: p.detach().clone() for name, p in pets.weights().items()},
            kept,
            backbone=backbone.name,
            model_type=getattr(config, "model_type", type(backbone.model).__name__),
            form=backbone.form,
            num_labels=int(config.num_labels) if pair else 0,
            regression=backbone.problem == "regression",
            problem=backbone.problem,
            digest=digest(backbone.model, kept),
            **facts,
        )

    def only(self, gates: Iterable[Gate]) -> Adapter:
        """The same adapter with some of its gates."""
        kept = tuple(gates)
        starts = tuple(f"{'.'.join(g.key)}." for g in kept)
        weights = {name: t for name, t in self.weights.items() if name.startswith(starts)}
        return replace(self, structure=replace(self.structure, gates=kept), weights=weights)

    def joined(self) -> Adapter:
        """The same with the units of each position as one LoRA whose rank is their number."""
        gates = self.structure.gates
        if all(g.unit is None for g in gates):
            return self
        weights = {n: t for g in gates if g.unit is None for n, t in self.only([g]).weights.items()}
        for place in dict.fromkeys(g.place for g in gates if g.unit is not None):
            units = [".".join(g.key) for g in gates if g.place == place]
            for name, dim in (("lora_A", 0), ("lora_B", 1)):
                weights[".".join((*place, name))] = torch.cat([self.weights[f"{u}.{name}"] for u in units], dim)
        return replace(self, structure=replace(self.structure, gates=tuple(joined(gates))), weights=weights)

    # -- use -------------------------------------------------------------------------------------------

    def load_backbone(self, name: str | Path | None = None, *, dtype: torch.dtype | str = torch.float32) -> Backbone:
        """Its backbone, with a head of the right width.

        Raises:
            AdapterError: it does not say which. BackboneError: it cannot be loaded.
        """
        source = name or self.backbone
        if self.form == "own" and name is None:
            raise AdapterError(
                f"{self.where}: field 'form': trained with a loss of the user's on {self.backbone}, which no file "
                "names; give the model"
            )
        if not source:
            raise AdapterError(f"{self.where}: field 'backbone': expected a name, found none; give backbone=")
        try:
            return load_backbone(
                source,
                head="lm" if self.form == "text" else "classification",
                num_labels=self.num_labels or 2,
                regression=self.regression,
                problem=self.problem or None,
                revision=self.revision if name is None else None,
                dtype=dtype,
            )
        except ConfigError as error:
            raise AdapterError(
                f"{self.where}: field 'form': expected a backbone of form {self.form!r}, found another ({error})"
            ) from None

    def attach(
        self, backbone: Backbone | nn.Module | str | Path | None = None, *, any_weights: bool = False
    ) -> Attached:
        """Put the trained modules (and head) on a backbone; a context manager, or call ``detach()``.

        Args:
            backbone: loaded, a transformers model, a name or folder; the adapter's own where it is None.
            any_weights: accept a backbone of the same shape with other weights.

        Raises:
            AdapterError: the backbone is of another kind, its weights or its head differ, or the adapter's own
                weights do not fit. StructureError: a gate is not of this backbone.
        """
        held = backbone if isinstance(backbone, (Backbone, nn.Module)) else self.load_backbone(backbone)
        model = held.model if isinstance(held, Backbone) else held
        self.check(model, any_weights=any_weights)
        return Attached(self, model, held if isinstance(held, Backbone) else None)

    def check(self, model: nn.Module, *, any_weights: bool = False) -> None:
        """Whether a model is the backbone that this adapter was trained on, and a plain one. Raises AdapterError: it is
        not.
        """
        try:
            check_bare(model)
        except BackboneError as error:
            raise AdapterError(f"{self.where}: {error}") from None
        found = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if found != self.model_type:
            raise AdapterError(
                f"{self.where}: field 'model_type': expected a backbone of type {self.model_type!r}, found {found!r}"
            )
        parameters = dict(model.named_parameters())
        for name, tensor in self.head.items():
            there = tuple(parameters[name].shape) if name in parameters else "none"
            if there != tuple(tensor.shape):
                raise AdapterError(
                    f"{self.where}: head {name}: expected a parameter of shape {tuple(tensor.shape)} in the model, "
                    f"found {there}; load it with num_labels={self.num_labels}"
                )
        if self.digest and not any_weights and digest(model, self.head) != self.digest:
            raise AdapterError(
                f"{self.where}: field 'digest': expected the weights of {self.backbone!r} that the adapter was trained "
                "on, found others; any_weights=True (--any-weights) takes them all the same"
            )

    # -- files -----------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write ``structure.json``, ``adapter.safetensors`` and ``adapter.json``. Nothing is pickled.

        Raises:
            ConfigError: the folder is not empty (and `overwrite` is not given) or cannot be written.
        """
        with staged_folder(folder, overwrite=overwrite) as staged:
            self._write(staged, located(folder))
        return located(folder)

    def _write(self, folder: Path, place: Path | None = None) -> None:
        tensors = {_PET + name: t for name, t in self.weights.items()}
        tensors |= {_HEAD + name: t for name, t in self.head.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        write_adapter(folder, self.structure, tensors, facts | ({"place": str(place)} if place else {}))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None, **hub: Any) -> Adapter:
        """Read a folder that `save_pretrained` wrote, or fetch it from the hub (``owner/name``).

        Args:
            revision: branch, tag or commit of a hub repository.
            hub: further arguments of ``huggingface_hub.hf_hub_download`` (cache_dir, token, local_files_only).

        Raises:
            AdapterError: not found, damaged, or weights that are not those of its structure; names file and field.
            StructureError: ``structure.json`` is damaged.
        """
        folder = find_adapter(name, revision=revision, **hub)
        structure, tensors, meta = read_adapter(folder)
        meta = {"problem": "", **meta}  # adapters of before
        facts: dict[str, Any] = {key: read_fact(meta, key, kind, str(folder / META)) for key, kind in _FACTS.items()}
        facts["labels"] = tuple(facts["labels"])
        facts["backbone"] = named_in(facts["backbone"], folder, meta.get("place"))
        weights = {k.removeprefix(_PET): t for k, t in tensors.items() if k.startswith(_PET)}
        head = {k.removeprefix(_HEAD): t for k, t in tensors.items() if k.startswith(_HEAD)}
        check_tensors(structure, tensors, str(folder / WEIGHTS), _PET, _HEAD)
        return cls(structure=structure, weights=weights, head=head, where=str(folder), **facts)

    def _parcel(self, repo_id: str) -> Parcel:
        types = ", ".join(sorted({g.pet_type for g in self.structure.gates}))
        trained = f", trained on {self.task}" if self.task else ""
        words = f"{len(self.structure)} PET modules ({types}), {self.structure.n_params:,} parameters{trained}."
        told = card(repo_id, self.backbone, words, f'adapter = s3.Adapter.from_pretrained("{repo_id}")')
        return Parcel(self._write, FILES, told, AdapterError)


#: What ``adapter.json`` says beside the weights' checksum, and of which type.
_FACTS: Mapping[str, tuple[type, ...]] = {
    "backbone": (str,),
    "revision": (str, type(None)),
    "model_type": (str,),
    "form": (str,),
    "num_labels": (int,),
    "regression": (bool,),
    "problem": (str,),
    "labels": (list,),
    "digest": (str,),
    "task": (str,),
    "scores": (dict,),
}


class Attached:
    """An adapter on a live backbone. Ends with the ``with`` block or `detach`; the backbone is then as it was."""

    def __init__(self, adapter: Adapter, model: nn.Module, backbone: Backbone | None = None) -> None:
        self.adapter, self.model, self.backbone = adapter, model, backbone
        self.pets = insert(model, adapter.structure.gates)
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        try:
            own = self.pets.weights()
            _check_shapes(own, adapter.weights, adapter.where)
            named = dict(model.named_parameters())
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(adapter.weights[name])
                    parameter.requires_grad_(False)
                for name, tensor in adapter.head.items():
                    self._kept.append((named[name], named[name].detach().clone()))
                    named[name].copy_(tensor)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        self.pets.detach()
        with torch.no_grad():
            for parameter, value in self._kept:
                parameter.copy_(value)
        self._kept.clear()

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def digest(model: nn.Module, without: Container[str] = ()) -> str:
    """A short name for a backbone's weights: 256 values of each, rounded to bfloat16, so that precision does not
    matter. A classification head and a pooler do not count, nor do parameters that were trained with it (`without`).
    """
    made = hashlib.sha256()
    writes = getattr(model, "can_generate", None)
    counted = model if writes and writes() else base_of(model)
    prefix = next((f"{n}." for n, m in model.named_modules() if m is counted and n), "")
    for name, p in stored(counted):
        if ".pooler." in f".{name}" or f"{prefix}{name}" in without:
            continue
        flat = p.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].to(device="cpu", dtype=torch.bfloat16)
        made.update(f"{name} {tuple(p.shape)} ".encode())
        made.update(sample.view(torch.int16).numpy().tobytes())
    return made.hexdigest()[:32]


def _check_shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    if set(own) != set(given):
        name = min(set(own) ^ set(given))
        found = "none" if name in own else "one too many"
        raise AdapterError(f"{where}: {name}: expected the weights of its structure, found {found}")
    for name, parameter in own.items():
        if parameter.shape != given[name].shape:
            raise AdapterError(
                f"{where}: {name}: expected shape {tuple(parameter.shape)} in this backbone, "
                f"found {tuple(given[name].shape)}"
            )
