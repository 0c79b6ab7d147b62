"""A structure: the chosen gates, for which backbone, under which budget, and where they came from."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from s3pet_viz.errors import StructureError
from s3pet_viz.files import check_ending, check_kind, located, named_in, read_json, write_json_atomic
from s3pet_viz.hub import OnHub, Parcel, card, folder_of
from s3pet_viz.structure.gate import LIMITS, LONGEST, LONGEST_PET_TYPE, MOST_GATES, MOST_UNITS, Gate, check_grid
from s3pet_viz.structure.units import check_units, comparable, rank_keys

SCHEMA_VERSION = 1
KIND = "s3pet_viz.structure"
#: In a folder or a repository.
_FILE = "structure.json"


@dataclass(frozen=True)
class Structure(OnHub):
    """The chosen gates with their options. Never bound to a live model.

    Two structures are equal when they hold the same gates (position and PET type) with the same options; of units, as
    many at each position.

    Attributes:
        gates: chosen gates, in index order.
        backbone: name of the backbone they are for.
        backbone_params: parameters of that backbone.
        budget: in parameters, or None for a manual structure.
        source: where it came from (task, mode, seed, steps, run...). JSON values only.
    """

    gates: tuple[Gate, ...]
    backbone: str = ""
    backbone_params: int = 0
    budget: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.gates, key=lambda g: g.index))
        object.__setattr__(self, "gates", ordered)
        seen: set[tuple[str, str]] = set()
        for gate in ordered:
            if gate.key in seen:
                raise StructureError(f"structure: gate {gate.name} appears twice")
            seen.add(gate.key)
        check_units(ordered, "structure")
        if self.budget is not None and self.n_params > self.budget:
            raise StructureError(f"structure: {self.n_params:,} parameters exceed the budget of {self.budget:,}")

    # -- reading ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.gates)

    @property
    def n_params(self) -> int:
        """Trainable parameters of all chosen gates."""
        return sum(g.n_params for g in self.gates)

    @property
    def fraction(self) -> float:
        """`n_params` over the parameters of the backbone."""
        return self.n_params / self.backbone_params if self.backbone_params else float("nan")

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """The set of (position, PET type); each unit has a key of its own."""
        return frozenset(g.key for g in self.gates)

    @property
    def rank_keys(self) -> frozenset[tuple[str, str]]:
        """`keys` to compare structures by, which tell how many units a position has and not which."""
        return frozenset(rank_keys(self.gates))

    def _identity(self) -> frozenset[tuple[str, str, str]]:
        keys = rank_keys(self.gates)
        return frozenset((*k, json.dumps(g.options, sort_keys=True)) for k, g in zip(keys, self.gates, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def overlap(self, other: Structure, *, weighted: bool = False) -> float:
        """Jaccard index of the two sets of gates; `weighted` counts parameters instead of gates.

        Two empty structures overlap by 1. Units of one position count by their number, whichever they are; beside a
        whole gate of another structure there they count as one.
        """
        mine, theirs = comparable(self.gates, other.gates)
        either, both = mine.keys() | theirs.keys(), mine.keys() & theirs.keys()
        if not weighted:
            return len(both) / len(either) if either else 1.0
        union = sum(max(mine.get(key, 0), theirs.get(key, 0)) for key in either)
        return sum(min(mine[key], theirs[key]) for key in both) / union if union else 1.0

    def edit(self, *, add: Any = (), remove: Any = (), of: Any = None) -> Structure:
        """The same structure with gates put in and taken out by hand; its ``source["edits"]`` says which.

        Args:
            add: gates, or patterns of their names among those of `of` (as in ``search(pin=)``); one or several. Those
                that are in already stay.
            remove: gates, or patterns of names among its own.
            of: where names to add are looked up: a run, or gates.

        Raises:
            ConfigError: names to add without `of`, a pattern that matches nothing, a gate that is added and removed, or
                nothing changes. StructureError: more parameters than the budget, or a gate that cannot stand beside
                those that are there.
        """
        # By name: it needs this file.
        made: Structure = import_module("s3pet_viz.structure.pins").edit(self, add, remove, of)
        return made

    def fit_to(self, backbone: Any, budget: Any = None, ranks: str = "keep", *, origin: Any = None) -> Structure:
        """The same structure on another backbone of its kind, as from a small model to a larger one.

        Each layer gets what the layer at its relative depth has: layer t of D what layer ``floor((t + 1/2) d / D)`` of
        d has. Norms in front of all layers and behind them stay there. Gates are matched by stack and module name;
        their sizes are those of the new widths.

        Args:
            backbone: a name or a folder, of which no weights are read, a `Backbone` or a transformers model.
            budget: of the new structure, as of `search`; default: the same share of the new backbone. Nothing is ever
                above it: what does not fit is left out, second counterparts of a gate first. A structure without a
                budget has none there either.
            ranks: ``keep``, or ``scale``: LoRA's ranks (and numbers of units) times the highest common factor that
                leaves as large a share of the budget free as here, at least 1.
            origin: the backbone that this structure is for, where its name cannot be opened.

        Returns:
            A structure whose ``source["fit"]`` says where it came from, and under ``left_out`` which gates have no
            counterpart, and why.

        Raises:
            StructureError: nothing can be carried, or the origin is unknown or has other positions. BudgetError,
            BackboneError, ConfigError: a budget, a backbone or `ranks` that cannot be used.
        """
        # By name: it needs torch, which this room goes without.
        made: Structure = import_module("s3pet_viz.pet.carry").fit(self, backbone, budget, ranks, origin)
        return made

    def __repr__(self) -> str:
        share = f" = {self.fraction:.4%} of {self.backbone}" if self.backbone_params else ""
        return f"Structure({len(self)} gates, {self.n_params:,} parameters{share})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(g.column)}</td><td>{html.escape(g.module)}</td>"
            f"<td>{html.escape(g.key[1])}</td><td style='text-align:right'>{g.n_params:,}</td></tr>"
            for g in self.gates
        )
        return (
            f"<p>{html.escape(repr(self))}</p><table><thead><tr><th>layer</th><th>module</th><th>PET type</th>"
            f"<th>parameters</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    # -- files -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "backbone": self.backbone,
            "backbone_params": self.backbone_params,
            "budget": self.budget,
            "n_params": self.n_params,
            "source": dict(self.source),
            "gates": [g.to_dict() for g in self.gates],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON; the file is replaced as a whole or not at all. Raises FileError: the name promises another form
        (``.csv``), or the folder cannot be written.
        """
        check_ending(path, ".json")
        return write_json_atomic(path, self.to_dict())

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "structure") -> Structure:
        """Build from `to_dict`'s form.

        Raises:
            StructureError: naming `where` and the field.
        """
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise StructureError(f"{where}: expected a structure file of s3pet_viz (field 'kind' is missing)")
        check_kind(data, KIND, SCHEMA_VERSION, StructureError, where)
        gates = data.get("gates")
        if not isinstance(gates, list):
            raise StructureError(f"{where}: field 'gates': expected a list, found {type(gates).__name__}")
        if len(gates) > MOST_GATES:
            raise StructureError(f"{where}: field 'gates': expected at most {MOST_GATES:,}, found {len(gates):,}")
        backbone_params = _field(data, "backbone_params", int, where)
        budget = data.get("budget")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
            raise StructureError(f"{where}: field 'budget': expected a whole number or null, found {budget!r}")
        if backbone_params < 0:
            raise StructureError(f"{where}: field 'backbone_params': expected 0 or more, found {backbone_params}")
        source = data.get("source", {})
        if not isinstance(source, dict):
            raise StructureError(f"{where}: field 'source': expected an object, found {type(source).__name__}")
        n_params = _field(data, "n_params", int, where)
        try:
            made = cls(
                gates=tuple(gate_from_dict(g, f"{where}: gates[{i}]") for i, g in enumerate(gates)),
                backbone=_field(data, "backbone", str, where),
                backbone_params=backbone_params,
                budget=budget,
                source=source,
            )
        except StructureError as error:
            message = str(error)
            raise StructureError(message if message.startswith(where) else f"{where}: {message}") from None
        check_grid(made.gates, where)
        if made.n_params != n_params:
            raise StructureError(
                f"{where}: field 'n_params': expected {made.n_params:,}, the sum over its gates, found {n_params:,}"
            )
        return made

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None, **hub: Any) -> Structure:
        """Read the ``structure.json`` of a folder or of a repository on the Hugging Face hub (``owner/name``), also one
        of an adapter or a run.

        Args:
            revision: branch, tag or commit of a hub repository.
            hub: further arguments of ``huggingface_hub.hf_hub_download`` (cache_dir, token, local_files_only).

        Raises:
            StructureError: neither a folder nor such a repository, or the file is damaged. ConfigError: a revision for
                a folder.
        """
        return cls.load(folder_of(name, [_FILE], StructureError, "a structure", revision=revision, **hub) / _FILE)

    def _parcel(self, repo_id: str) -> Parcel:
        types = ", ".join(sorted({g.pet_type for g in self.gates}))
        task = f", searched on {Path(str(self.source['task'])).name}" if self.source.get("task") else ""
        words = f"Where to put {self.n_params:,} parameters: {len(self)} PET modules ({types}){task}. No weights."
        told = card(repo_id, self.backbone, words, f'structure = s3.Structure.from_pretrained("{repo_id}")')
        return Parcel(lambda folder: self.save(folder / _FILE), [_FILE], told, StructureError)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Structure:
        """Read a file that `save` wrote.

        Raises:
            StructureError: no such file, not JSON, or a field is wrong; names file and field.
        """
        made = cls.from_dict(read_json(path, StructureError), where=str(path))
        return replace(made, backbone=named_in(made.backbone, located(path).parent))


def _field(data: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = data.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise StructureError(f"{where}: field {name!r}: expected {kind.__name__}, found {value!r}")
    return value


def gate_from_dict(data: Any, where: str) -> Gate:
    """Build from `Gate.to_dict`'s form.

    Raises:
        StructureError: naming `where` and the field.
    """
    if not isinstance(data, dict):
        raise StructureError(f"{where}: expected an object, found {type(data).__name__}")
    pet_type = _field(data, "pet_type", str, where)
    # Any name: what a run holds can be read and drawn where its PET type is not installed; inserting asks for that.
    if not (pet_type.isidentifier() and len(pet_type) <= LONGEST_PET_TYPE):
        raise StructureError(f"{where}: field 'pet_type': expected a name such as LoRA, found {pet_type[:80]!r}")
    numbers = {name: _field(data, name, int, where) for name in LIMITS}
    for name, (least, most) in LIMITS.items():
        if not least <= numbers[name] <= most:
            raise StructureError(f"{where}: field {name!r}: expected {least} to {most:,}, found {numbers[name]:,}")
    words = {name: _field(data, name, str, where) for name in ("position", "stack", "module")}
    for name, text in words.items():
        if len(text) > LONGEST[name]:
            raise StructureError(f"{where}: field {name!r}: expected at most {LONGEST[name]:,} characters")
    unit = data.get("unit")
    if unit is not None and not (type(unit) is int and 0 <= unit < MOST_UNITS):
        raise StructureError(f"{where}: field 'unit': expected a whole number below {MOST_UNITS}, found {unit!r:.80}")
    return Gate(**words, pet_type=pet_type, options=_field(data, "options", dict, where), unit=unit, **numbers)


def gates_by_index(gates: Iterable[Gate], indices: Iterable[int]) -> tuple[Gate, ...]:
    """The gates at these places, e.g. `select`'s result."""
    table = list(gates)
    return tuple(table[i] for i in indices)
