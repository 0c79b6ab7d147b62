"""Carry a structure from one backbone to another of its kind: `Structure.fit_to`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from s3pet_viz.backbones.listing import Sized, sized
from s3pet_viz.backbones.position import Position
from s3pet_viz.config.checks import among
from s3pet_viz.errors import S3PETError, SpaceError, StructureError
from s3pet_viz.pet.modules import PET_CLASSES
from s3pet_viz.structure import Gate, Structure, parse_budget, pet_type_order
from s3pet_viz.structure.gate import EMBEDDING_LAYER, MOST_UNITS
from s3pet_viz.structure.units import at_rank

#: What may become of ranks.
RANKS = ("keep", "scale")


class _Member(NamedTuple):
    """All gates of one PET type at one position, of which units count as one LoRA of so high a rank."""

    gates: tuple[Gate, ...]
    site: Position
    turn: int = 0  # among the counterparts of one source gate, the nearest in depth first

    @property
    def n_params(self) -> int:
        return sum(g.n_params for g in self.gates)

    def at(self, factor: float) -> _Member:
        """With its rank times `factor`, at least 1; other PET types stay."""
        first = self.gates[0]
        if first.pet_type != "LoRA":
            return self
        if first.unit is None:
            r = {**PET_CLASSES["LoRA"].defaults, **first.options}["r"]
            now = max(1, round(r * factor))
            return self if now == r else self._replace(gates=(at_rank(first, now),))
        many = min(MOST_UNITS, max(1, round(len(self.gates) * factor)))
        kept = self.gates[:many]
        used = {gate.unit for gate in kept}
        more = [k for k in range(MOST_UNITS) if k not in used][: many - len(kept)]
        return self._replace(gates=(*kept, *(replace(first, unit=k) for k in more)))


def fit(structure: Structure, backbone: Any, budget: Any = None, ranks: str = "keep", origin: Any = None) -> Structure:
    """See `Structure.fit_to`."""
    among("ranks", ranks, RANKS)
    if not structure.gates:
        raise StructureError("structure: expected at least one gate, found none")
    there = sized(backbone)
    limit = None if budget is None else parse_budget(budget, there.n_params)
    here = _origin(structure, origin)
    own = structure.budget or structure.n_params
    if limit is None and (structure.budget is not None or ranks == "scale"):
        limit = own * there.n_params // here.n_params  # the same share
    left: dict[str, str] = {}
    carried = list(_carried(structure, here, there, left))
    if ranks == "scale" and limit is not None:
        carried = _scaled(carried, limit * structure.n_params // own)
    chosen, over = _within(carried, limit)
    left |= {member.gates[0].name: f"over the budget of {limit:,} parameters" for member in over}
    if not chosen:
        reasons = "; ".join(dict.fromkeys(left.values()))
        raise StructureError(f"structure: nothing of it can be carried to {there.name}: {reasons}")
    order = {name: k for k, name in enumerate(pet_type_order(PET_CLASSES))}
    place = {p.name: k for k, p in enumerate(there.positions)}
    chosen.sort(key=lambda member: (place[member.site.name], order[member.gates[0].pet_type]))
    gates = [gate for member in chosen for gate in member.gates]
    said = {
        "backbone": structure.backbone or here.name,
        "backbone_params": here.n_params,
        "gates": len(structure),
        "n_params": structure.n_params,
        "budget": structure.budget,
        "ranks": ranks,
        "left_out": left,
    }
    numbered = tuple(replace(gate, index=i) for i, gate in enumerate(gates))
    return Structure(numbered, there.name, there.n_params, limit, {**structure.source, "fit": said})


def _origin(structure: Structure, origin: Any) -> Sized:
    """The backbone that a structure is for: its depth says where in it a gate is."""
    if origin is None and not structure.backbone:
        raise StructureError("structure: field 'backbone': expected a name, found none; give origin=")
    try:
        found = sized(structure.backbone if origin is None else origin)
    except S3PETError as error:
        hint = "; give the backbone that the structure is for as origin=" if origin is None else ""
        raise StructureError(f"origin: {error}{hint}") from None
    known = {(p.name, p.module) for p in found.positions}
    for gate in structure.gates:
        if (gate.position, gate.module) not in known:
            raise StructureError(f"origin: {found.name} has no position {gate.position!r} ({gate.module})")
    return found


def _carried(structure: Structure, here: Sized, there: Sized, left: dict[str, str]) -> Iterable[_Member]:
    """Each target layer has what the layer at its relative depth has; what finds no place goes to `left`."""
    mine, theirs = _by_place(here.positions), _by_place(there.positions)
    depths = {stack: (_depth(here.positions, stack), _depth(there.positions, stack)) for stack, _, _ in mine}
    groups: dict[tuple[str, str], list[Gate]] = defaultdict(list)
    for gate in structure.gates:
        groups[gate.place].append(gate)
    for gates in groups.values():
        gate = gates[0]
        before, after = depths[gate.stack]
        nth = [p.name for p in mine[gate.stack, gate.layer, gate.module]].index(gate.position)
        layers = counterparts(gate.layer, before, after)
        found = [s[nth] for t in layers if len(s := theirs.get((gate.stack, t, gate.module), [])) > nth]
        made = [m for turn, site in enumerate(found) if (m := _moved(gates, site, turn, left)) is not None]
        if not found:
            has = {p.module for p in there.positions if p.stack == gate.stack}
            why = f"no {gate.stack}" if not has else f"no {gate.module} in its {gate.stack}"
            if gate.module in has:
                why = f"fewer layers: none at the relative depth of layer {gate.layer}"
            left |= {g.name: f"{there.name}: {why}" for g in gates}
        yield from made


def _moved(gates: Sequence[Gate], site: Position, turn: int, left: dict[str, str]) -> _Member | None:
    first = gates[0]
    cls = PET_CLASSES.get(first.pet_type)
    try:
        if cls is None:
            raise SpaceError(f"no PET type {first.pet_type!r} is registered")
        if site.kind not in cls.kinds:
            raise SpaceError(f"{first.pet_type} cannot go on a {site.kind}")
        size = cls.n_params(site, dict(first.options))
    except SpaceError as error:
        left |= {gate.name: str(error) for gate in gates}
        return None
    where: dict[str, Any] = {"position": site.name, "stack": site.stack, "layer": site.layer, "n_params": size}
    return _Member(tuple(replace(gate, **where) for gate in gates), site, turn)


def counterparts(layer: int, before: int, after: int) -> list[int]:
    """The layers of a stack of `after` whose middle lies in this layer of a stack of `before`, the nearest first.

    Layer t of D lies from t / D to (t + 1) / D of the depth. What is in front of all layers or behind them stays there.
    """
    if layer == EMBEDDING_LAYER or layer >= before:
        return [layer if layer == EMBEDDING_LAYER else after]
    middle = (2 * layer + 1) / (2 * before)
    inside = [t for t in range(after) if (2 * t + 1) * before // (2 * after) == layer]
    return sorted(inside, key=lambda t: (abs((2 * t + 1) / (2 * after) - middle), t))


def _by_place(positions: Sequence[Position]) -> Mapping[tuple[str, int, str], list[Position]]:
    made: dict[tuple[str, int, str], list[Position]] = {}
    for p in positions:
        made.setdefault((p.stack, p.layer, p.module), []).append(p)
    return made


def _depth(positions: Sequence[Position], stack: str) -> int:
    return 1 + max((p.layer for p in positions if p.stack == stack and p.kind != "norm"), default=-1)


def _within(members: Sequence[_Member], limit: int | None) -> tuple[list[_Member], list[_Member]]:
    """Those that fit, the nearest counterpart of each gate before any second one; and the others."""
    chosen, over, rest = [], [], limit
    for member in sorted(members, key=lambda m: m.turn):
        if rest is None or member.n_params <= rest:
            chosen.append(member)
            rest = None if rest is None else rest - member.n_params
        else:
            over.append(member)
    return chosen, over


def _scaled(members: Sequence[_Member], goal: int) -> list[_Member]:
    """With the highest common factor of the ranks at which their sizes stay within `goal`."""
    size: Callable[[float], int] = lambda factor: sum(m.at(factor).n_params for m in members)  # noqa: E731
    low, high = 0.0, 1.0
    while size(high) <= goal and high < MOST_UNITS:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= goal else (low, middle)
    return [m.at(low) for m in members]
