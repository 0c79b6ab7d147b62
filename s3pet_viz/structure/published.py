"""Structures of the published implementation (thunlp/S3Delta): JSON that names positions and PET types.

See docs/export.md. Positions are T5's; sizes follow from T5's widths, from a
list of gates, or from the file; where none of them tells, a gate has ``n_params = 0``, and what needs sizes says so.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s3pet_viz.errors import StructureError, short
from s3pet_viz.files import read_json
from s3pet_viz.structure.gate import MOST_GATES, Gate, check_grid
from s3pet_viz.structure.sizes import FORMS, pet_params
from s3pet_viz.structure.structure import Structure
from s3pet_viz.structure.t5 import Place, T5Shape, parse_position, shape_of
from s3pet_viz.structure.units import joined

Backbone = str | T5Shape

#: Their name -> (ours, where they insert it, {their option: (ours, its value where the file says nothing)}).
#: Without a rank OpenDelta's Lora has r = 8.
_TYPES: Mapping[str, tuple[str, str, Mapping[str, tuple[str, int]]]] = {
    "Lora": ("LoRA", "parallel", {"lora_r": ("r", 8), "lora_alpha": ("lora_alpha", 16)}),
    "BitFitParallel": ("BitFit", "sequential", {}),
    "LNFit": ("LNFit", "parallel", {}),
    "Adapter": ("Adapter", "sequential", {"bottleneck_dim": ("bottleneck", 24)}),
    "LowRankAdapter": ("LowRankAdapter", "sequential", {"reduction_factor": ("reduction", 32)}),
    "Compacter": (
        "Compacter",
        "sequential",
        {"reduction_factor": ("reduction", 16), "hypercomplex_division": ("n", 4)},
    ),
}
_THEIRS = {ours: name for name, (ours, _, _) in _TYPES.items()}
#: Options that may stand in a file with the only value that our PET types have.
_FIXED = {"lora_dropout": 0, "low_rank_rank": 1, "non_linearity": "gelu_new", "low_rank_w_init": "glorot-uniform"}
_MOST_OBJECTS = 100  # the published form has two


def is_s3delta(data: Any) -> bool:
    """Whether parsed JSON looks like a structure of the published implementation (it need not be whole)."""
    return isinstance(data, list) or (isinstance(data, dict) and "kind" not in data)


def from_s3delta(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any],
    gates: Sequence[Gate] | None = None,
    backbone: Backbone | None = None,
) -> Structure:
    """Read a structure config of the published implementation.

    Args:
        source: a JSON file, or its content: a list of objects (merged), or one of them.
        gates: a search space (``run.gates_list``): keys are matched with its positions, sizes are its own.
        backbone: the name of a T5 (``t5-large``) or a `T5Shape`; names positions and sizes where `gates` is None.
            Without either, keys must be full positions, and sizes are not known (0).

    Returns:
        The structure; its source names the file.

    Raises:
        StructureError: the file cannot be read or is damaged, a PET type, option or position is unknown, or a key
            matches nothing; names the file and the field.
    """
    file = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
    where = file or "config"
    data: Any = read_json(file, StructureError) if file else source
    shape = shape_for(backbone, where)
    objects = [data] if isinstance(data, Mapping) else data
    if isinstance(objects, (list, tuple)) and len(objects) > _MOST_OBJECTS:
        raise StructureError(f"{where}: expected at most {_MOST_OBJECTS} objects, found {len(objects):,}")
    if not isinstance(objects, (list, tuple)) or not objects:
        raise StructureError(f"{where}: expected a list of objects, found {short(data)}")
    space = _Space(gates, shape, where)
    chosen: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
    for number, part in enumerate(objects):
        if not isinstance(part, Mapping):
            raise StructureError(f"{where}: item {number}: expected an object, found {short(part)}")
        for key, methods in part.items():
            field = f"{where}: {short(key)}"
            for pet_type, options in _entries(methods, field):
                if len(chosen) > MOST_GATES:
                    raise StructureError(f"{where}: expected at most {MOST_GATES:,} gates, found more")
                for position in space.positions(str(key), pet_type, field):
                    before = chosen.setdefault((position, pet_type), (options, field))
                    if before[0] != options:
                        raise StructureError(
                            f"{field}: {pet_type} at {position} is given twice, with options {before[0]} and {options}"
                        )
    if not chosen:
        raise StructureError(f"{where}: expected at least one position with a PET type, found none")
    made = space.gates({key: options for key, (options, _) in chosen.items()})
    check_grid(made, where)
    return Structure(made, *backbone_facts(backbone, shape), None, {"format": "S3Delta", "file": file})


def to_s3delta(structure: Structure) -> list[dict[str, Any]]:
    """The published form: two objects, first linear layers and norms, then whole blocks.

    It holds positions, PET types and their options. It has no place for the backbone, the budget, the sizes, the
    numbers of the gates in their search space and the source. Units become one Lora with a lora_r of their number and a
    lora_alpha that keeps its scale: it has no place for how many a position offered, and is read back as that one gate.

    Raises:
        StructureError: gates whose options or PET type the published form cannot hold; names all of them.
    """
    parts: list[dict[str, Any]] = [{}, {}]
    wrong = []
    for gate in joined(structure.gates):
        if gate.pet_type not in _THEIRS:
            wrong.append(f"gate {gate.position}: S3Delta has no PET type {gate.pet_type!r}")
            continue
        name = _THEIRS[gate.pet_type]
        _, method, known = _TYPES[name]
        names = {ours: (theirs, default) for theirs, (ours, default) in known.items()}
        options = {}
        for option, value in {**FORMS[gate.pet_type].defaults, **gate.options}.items():
            if option not in names:
                wrong.append(f"gate {gate.position}: S3Delta has no option {option!r} of {gate.pet_type}")
                continue
            theirs, default = names[option]
            if value != default or theirs == "lora_r":
                options[theirs] = value
        part = parts["block" in FORMS[gate.pet_type].kinds]
        part.setdefault(gate.position, {}).setdefault(method, {})[name] = options
    if wrong:
        raise StructureError(f"structure: {'; '.join(wrong)}")
    return parts


# -- the config --------------------------------------------------------------------------------------------


class _Space:
    """Which positions a key means, and which gate each becomes."""

    def __init__(self, gates: Sequence[Gate] | None, shape: T5Shape | None, where: str) -> None:
        self.where = where
        self.shape = shape
        self.known = None if gates is None else {g.key: g for g in gates}
        if gates is not None:
            self.names: list[str] | None = list(dict.fromkeys(g.position for g in gates))
        else:
            self.names = None if shape is None else shape.positions()

    def positions(self, key: str, pet_type: str, field: str) -> list[str]:
        """Positions that a key means: itself, or all that end with it at a dot."""
        if self.names is None:
            if parse_position(key) is None:
                raise StructureError(
                    f"{field}: not a full T5 position; a suffix that matches every block needs "
                    "backbone='t5-large' (or another), or gates="
                )
            found = [key]
        else:
            found = [name for name in self.names if name == key or name.endswith(f".{key}")]
            if self.known is not None:
                found = [name for name in found if (name, pet_type) in self.known]
            if not found and key == "lm_head":
                warnings.warn(f"{field}: no position of this package; left out", stacklevel=4)
            elif not found:
                what = "the search space" if self.known is not None else "this backbone"
                raise StructureError(f"{field}: {pet_type} matches no position of {what}")
        if self.known is None:
            for name in found:
                place = parse_position(name)
                assert place is not None
                check_kind(pet_type, place, name, field)
        return found

    def gates(self, chosen: Mapping[tuple[str, str], dict[str, Any]]) -> tuple[Gate, ...]:
        """Gates in the order of the backbone's modules, then PET types."""
        if self.known is not None:
            return tuple(self._known_gate(self.known[key], options) for key, options in chosen.items())
        places = {name: parse_position(name) for name, _ in chosen}
        depth = depths((place for place in places.values() if place), self.shape)
        order = list(FORMS)
        if self.names is not None:
            at = {name: i for i, name in enumerate(self.names)}
            keys = sorted(chosen, key=lambda key: (at[key[0]], order.index(key[1])))
        else:
            keys = list(chosen)
        made = []
        for index, (name, pet_type) in enumerate(keys):
            place, options = places[name], chosen[name, pet_type]
            assert place is not None
            size = 0 if self.shape is None else pet_params(pet_type, self.shape.widths(place), options)
            made.append(place.gate(index, name, depth, pet_type, size, options))
        return tuple(made)

    def _known_gate(self, gate: Gate, options: dict[str, Any]) -> Gate:
        own = {**(FORMS[gate.pet_type].defaults if gate.pet_type in FORMS else {}), **gate.options}
        if own != options:
            raise StructureError(
                f"{self.where}: {gate.position} {gate.pet_type} has options {options} there, "
                f"but {own} in the search space"
            )
        return gate


def _entries(methods: Any, field: str) -> Iterable[tuple[str, dict[str, Any]]]:
    if not isinstance(methods, Mapping) or not methods:
        raise StructureError(f"{field}: expected an object with 'parallel' or 'sequential', found {short(methods)}")
    for method, types in methods.items():
        if method not in ("parallel", "sequential"):
            raise StructureError(f"{field}: expected 'parallel' or 'sequential', found {short(method)}")
        if not isinstance(types, Mapping):
            raise StructureError(f"{field}: {method}: expected an object of PET types, found {short(types)}")
        for name, options in types.items():
            pet_type = pet_type_of(name, method, field)
            yield pet_type, _options(name, options, f"{field}: {name}")


def pet_type_of(name: Any, method: str, where: str) -> str:
    if name not in _TYPES:
        raise StructureError(f"{where}: type: expected one of {', '.join(_TYPES)}, found {short(name)}")
    pet_type, expected, _ = _TYPES[name]
    if method != expected:
        raise StructureError(f"{where}: {name}: expected to be {expected}, found {short(method)}")
    return pet_type


def _options(name: str, options: Any, where: str) -> dict[str, Any]:
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise StructureError(f"{where}: expected an object of options, found {short(options)}")
    known = _TYPES[name][2]
    made: dict[str, Any] = dict(known.values())
    for option, value in options.items():
        if option in _FIXED:
            if value != _FIXED[option]:
                raise StructureError(f"{where}: {option}: expected {_FIXED[option]!r}, found {short(value)}")
            continue
        if option not in known:
            raise StructureError(f"{where}: unknown option {short(option)} (known: {', '.join(known) or 'none'})")
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6
        scale = option == "lora_alpha" and isinstance(value, float) and 0 < value <= 10**6
        if not (whole or scale):
            raise StructureError(f"{where}: {option}: expected a whole number of at least 1, found {short(value)}")
        made[known[option][0]] = value
    return made


def check_kind(pet_type: str, place: Place, position: str, where: str) -> None:
    kinds = FORMS[pet_type].kinds
    if place.kind not in kinds:
        raise StructureError(
            f"{where}: {pet_type} cannot go on {position} (a {place.kind}); it goes on a {' or '.join(kinds)}"
        )


# -- both --------------------------------------------------------------------------------------------------


def depths(places: Iterable[Place], shape: T5Shape | None) -> dict[str, int]:
    """Blocks of each stack: the shape's, or as many as are named."""
    if shape is not None:
        return {stack: shape.depth(stack) for stack in ("encoder", "decoder")}
    depth = {"encoder": 0, "decoder": 0}
    for place in places:
        if place.layer is not None:
            depth[place.stack] = max(depth[place.stack], place.layer + 1)
    return depth


def shape_for(backbone: Backbone | None, where: str) -> T5Shape | None:
    if backbone is None or isinstance(backbone, T5Shape):
        return backbone
    shape = shape_of(str(backbone))
    if shape is None:
        raise StructureError(
            f"{where}: backbone: expected a known T5 (t5-small, t5-base, t5-large, t5-3b, t5-11b, tiny-t5) "
            f"or a T5Shape, found {short(backbone)}"
        )
    return shape


def backbone_facts(backbone: Backbone | None, shape: T5Shape | None) -> tuple[str, int]:
    return backbone if isinstance(backbone, str) else "", 0 if shape is None else shape.backbone_params
