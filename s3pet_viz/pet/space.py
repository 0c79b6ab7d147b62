"""Search spaces: which PET types at which positions. Presets, and a user's own YAML or JSON."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from s3pet_viz.backbones.position import Position
from s3pet_viz.errors import SpaceError
from s3pet_viz.files import expanded, is_there
from s3pet_viz.pet.modules import PET_CLASSES, check_options
from s3pet_viz.structure import Gate, pet_type_order
from s3pet_viz.structure.gate import MOST_GATES, MOST_UNITS
from s3pet_viz.structure.written import SUFFIXES, read_written


@dataclass(frozen=True)
class SpaceEntry:
    """One PET type on the positions that match.

    Attributes:
        type: a PET type.
        modules: canonical module names, ``*`` allowed, e.g. ``("SelfAttn.*", "FFN.W1*")``.
        positions: patterns over position names, e.g. ``("encoder.*",)``.
        options: PET options, e.g. ``{"r": 1}``; of LoRA also ``{"ranks": 8}`` in place of r: so many exchangeable gates
            of rank one at each position, whose number chosen is the rank.
    """

    type: str
    modules: tuple[str, ...]
    positions: tuple[str, ...] = ("*",)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """A named search space."""

    name: str
    entries: tuple[SpaceEntry, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "gates": [asdict(e) for e in self.entries]}

    def with_cross_attention(self) -> Space:
        """The same space with the cross-attention's own linear layers (and block) too."""

        def widened(modules: tuple[str, ...]) -> tuple[str, ...]:
            return (*modules, *(m.replace("SelfAttn", "CrossAttn") for m in modules if "SelfAttn" in m))

        return Space(f"{self.name}+cross", tuple(replace(e, modules=widened(e.modules)) for e in self.entries))


_ATTENTION = ("SelfAttn.Q", "SelfAttn.K", "SelfAttn.V", "SelfAttn.O")
_LINEAR = (*_ATTENTION, "FFN.W1*", "FFN.W2")

#: The published search spaces (arXiv 2206.07382, section 4.1), and below them ours.
PRESETS: dict[str, Space] = {
    "S3PET-M": Space(
        "S3PET-M",
        (
            SpaceEntry("LoRA", _LINEAR, options={"r": 1}),
            SpaceEntry("BitFit", (*_LINEAR, "*.LN")),
            SpaceEntry("LNFit", ("*.LN",)),
            SpaceEntry("LowRankAdapter", ("SelfAttn", "FFN")),
        ),
    ),
    "S3PET-L": Space("S3PET-L", (SpaceEntry("LoRA", _LINEAR, options={"r": 1}),)),
    "LoRA-ranks": Space("LoRA-ranks", (SpaceEntry("LoRA", ("*",), options={"ranks": 8}),)),
}


def load_space(space: str | Path | Space | Mapping[str, Any]) -> Space:
    """A preset by name (``+cross`` adds cross-attention), a YAML or JSON file, or the same as a mapping.

    A file looks like::

        name: my-space
        gates:
          - {type: LoRA, modules: [SelfAttn.Q, SelfAttn.V], options: {r: 2}}
          - {type: BitFit, modules: ["*.LN"], positions: ["encoder.*"]}
          - {type: LoRA, modules: ["FFN.*"], options: {ranks: 8}}

    Raises:
        SpaceError: naming the file and the field.
    """
    if isinstance(space, Space):
        return space
    if isinstance(space, Mapping):
        return _parse(space, "space")
    name = str(space)
    preset, cross = name.removesuffix("+cross"), name.endswith("+cross")
    for known, value in PRESETS.items():
        if preset.lower() == known.lower():
            return value.with_cross_attention() if cross else value
    path = expanded(name)
    if path.suffix.lower() not in SUFFIXES or not is_there(path):
        raise SpaceError(
            f"space: expected one of {', '.join(PRESETS)} (with '+cross' for cross-attention), "
            f"or a YAML or JSON file, found {name!r}"
        )
    return _parse(read_written(path, SpaceError, "a search space"), str(path))


def recorded_space(space: str | Path | Space | Mapping[str, Any]) -> str | dict[str, Any]:
    """What a run or a study keeps of a space: a preset's name, else all of it (its file may change)."""
    if isinstance(space, str) and not space.lower().endswith(SUFFIXES):
        return space
    return load_space(space).to_dict()


def candidate_gates(positions: Sequence[Position], space: Space) -> tuple[list[Gate], list[str]]:
    """Every gate of a space on a backbone, in the order of its modules.

    Where one matrix computes queries, keys and values (GPT-2's ``SelfAttn.QKV``), an entry for any of the three means
    that matrix, once.

    Args:
        positions: of the backbone, from `backbones.positions`.

    Returns:
        gates, and what the space names but the backbone lacks (also said as a warning).

    Raises:
        SpaceError: nothing matches at all, a PET type at a place where it cannot go, two entries that ask for the same
            gate, or more gates than a run holds.
    """
    chosen: dict[tuple[int, str], dict[str, Any]] = {}
    missing = []
    for entry in space.entries:
        cls = PET_CLASSES[entry.type]
        own, units = _units(entry.type, entry.options, f"space {space.name}")
        options = {**cls.defaults, **own} | ({} if units is None else {"ranks": units})
        for module in entry.modules:
            named = [i for i, p in enumerate(positions) if any(fnmatch.fnmatchcase(m, module) for m in p.modules)]
            hits = [i for i in named if positions[i].kind in cls.kinds]
            if named and not hits:
                raise SpaceError(
                    f"space {space.name}: {entry.type} cannot go on {module} (a {positions[named[0]].kind}); "
                    f"it goes on a {' or '.join(cls.kinds)}"
                )
            if not hits:
                missing.append(f"{entry.type} on {module}")
            for pattern in entry.positions:
                inside = [i for i in hits if fnmatch.fnmatchcase(positions[i].name, pattern)]
                if hits and not inside:
                    missing.append(f"{entry.type} on {module} at {pattern}")
                for i in inside:
                    previous = chosen.setdefault((i, entry.type), options)
                    if previous != options:
                        raise SpaceError(
                            f"space {space.name}: {entry.type} at {positions[i].name} is asked for twice, "
                            f"with options {previous} and {options}"
                        )
    if not chosen:
        modules = ", ".join(dict.fromkeys(p.module for p in positions))
        raise SpaceError(f"space {space.name}: nothing matches this backbone, whose modules are: {modules}")
    if missing:
        warnings.warn(f"space {space.name} names what this backbone lacks: {'; '.join(missing)}", stacklevel=2)
    order = {name: k for k, name in enumerate(pet_type_order(PET_CLASSES))}
    gates: list[Gate] = []
    for i, pet_type in sorted(chosen, key=lambda key: (key[0], order[key[1]])):
        at, options = positions[i], dict(chosen[i, pet_type])
        units = options.pop("ranks", None)
        size = PET_CLASSES[pet_type].n_params(at, options)
        where = (at.name, at.stack, at.layer, at.module, pet_type, size)
        for unit in [None] if units is None else range(units):
            gates.append(Gate(len(gates), *where, dict(options), unit))
    if len(gates) > MOST_GATES:
        raise SpaceError(f"space {space.name}: expected at most {MOST_GATES:,} gates, found {len(gates):,}")
    return gates, missing


def _units(pet_type: str, options: Mapping[str, Any], where: str) -> tuple[dict[str, Any], int | None]:
    """The options of each gate, and how many units a position offers; None where it offers no choice of rank."""
    own = dict(options)
    if pet_type != "LoRA" or "ranks" not in own:
        return own, None
    units = own.pop("ranks")
    if "r" in own:
        raise SpaceError(
            f"{where}: expected LoRA's option 'r' (its rank) or 'ranks' (the highest to choose), found both"
        )
    if type(units) is not int or not 1 <= units <= MOST_UNITS:
        raise SpaceError(f"{where}: option 'ranks': expected a whole number from 1 to {MOST_UNITS}, found {units!r}")
    return {**own, "r": 1}, units


def _parse(data: Any, where: str) -> Space:
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: expected a mapping with 'gates', found {type(data).__name__}")
    _refuse_unknown(data, ("name", "gates"), where)
    entries = data.get("gates")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise SpaceError(f"{where}: field 'gates': expected a non-empty list, found {entries!r}")
    return Space(
        name=str(data.get("name", Path(where).stem)),
        entries=tuple(_parse_entry(e, f"{where}: gates[{i}]") for i, e in enumerate(entries)),
    )


def _refuse_unknown(data: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := set(data) - set(known):
        raise SpaceError(f"{where}: unknown field {sorted(map(str, unknown))[0]!r} (expected {', '.join(known)})")


def _parse_entry(data: Any, where: str) -> SpaceEntry:
    if not isinstance(data, Mapping):
        raise SpaceError(f"{where}: expected a mapping, found {type(data).__name__}")
    _refuse_unknown(data, ("type", "modules", "positions", "options"), where)
    pet_type = data.get("type")
    if not isinstance(pet_type, str) or pet_type not in PET_CLASSES:
        raise SpaceError(f"{where}: field 'type': expected one of {', '.join(PET_CLASSES)}, found {pet_type!r}")
    options = data.get("options") or {}
    if not isinstance(options, Mapping):
        raise SpaceError(f"{where}: field 'options': expected a mapping, found {options!r}")
    check_options(pet_type, _units(pet_type, options, where)[0], where)
    return SpaceEntry(
        type=pet_type,
        modules=_strings(data.get("modules"), f"{where}: field 'modules'"),
        positions=_strings(data.get("positions", ["*"]), f"{where}: field 'positions'"),
        options=dict(options),
    )


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(v, str) for v in value):
        raise SpaceError(f"{where}: expected a non-empty list of names, found {value!r}")
    return tuple(value)
