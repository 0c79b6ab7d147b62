"""Gates pinned by hand: in or out before a search, which then chooses among the others with what is left.

A pinned gate is no part of what is searched: it has no alpha and no p, so that no number of a run can take a choice of
its user's for a finding. One that is pinned in is in the structure, and its weights are trained at z = 1 all along.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from s3pet_viz.errors import BudgetError, ConfigError, short
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.structure.gate import Gate
from s3pet_viz.structure.structure import Structure

SIDES = ("in", "out")
_FORM = "in=PATTERN, PATTERN; out=PATTERN, or a mapping of in and out to lists of them"


class Pinned(NamedTuple):
    """A search space, parted.

    Attributes:
        gates: what is searched, gate i with index i.
        inside: pinned in, numbered on from there. outside: pinned out, with the index that they had.
    """

    gates: list[Gate]
    inside: tuple[Gate, ...]
    outside: tuple[Gate, ...]


def read_pin(name: str, value: Any) -> dict[str, list[str]] | None:
    """What a config keeps of ``pin``: the patterns of each side; None where there are none.

    Args:
        value: a mapping with ``in``, ``out`` or both, each a pattern or a list of them; or its text form,
            ``in=E.3 *; out=*BitFit, D.*``.

    Raises:
        ConfigError: it is neither.
    """
    found = value
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(";") if part.strip()]
        found = {side.strip(): [p.strip() for p in text.split(",")] for side, mark, text in parts if mark}
        if len(found) < len(parts) or not parts:
            raise ConfigError(f"{name}: expected {_FORM}, found {short(value)}")
    if not isinstance(found, Mapping) or set(found) - set(SIDES):
        raise ConfigError(f"{name}: expected {_FORM}, found {short(value)}")
    made = {}
    for side in SIDES:
        given = found.get(side, [])
        patterns = [given] if isinstance(given, str) else given
        if not (isinstance(patterns, (list, tuple)) and all(isinstance(p, str) and p for p in patterns)):
            raise ConfigError(f"{name}: {side}: expected patterns of gate names, found {short(given)}")
        if patterns:
            made[side] = list(dict.fromkeys(patterns))
    return made or None


def pin_text(pin: Mapping[str, Sequence[str]] | None) -> str:
    """The text form of what `read_pin` gives."""
    return "; ".join(f"{side}={', '.join(patterns)}" for side, patterns in (pin or {}).items())


def matching(gates: Sequence[Gate], pattern: str, what: str) -> list[Gate]:
    """The gates of which a name matches (`Gate.names`; ``*`` stands for anything, ``?`` for a character).

    Raises:
        ConfigError: none does; begins with `what`.
    """
    found = [gate for gate in gates if any(fnmatch.fnmatchcase(name, pattern) for name in gate.names)]
    if found:
        return found
    inside = [gate for gate in gates if any(fnmatch.fnmatchcase(name, f"*{pattern}*") for name in gate.names)]
    starred = f"*{pattern.strip('*')}*"
    hint = f"; a part of a name needs stars: {starred!r}" if inside else ""
    raise ConfigError(
        f"{what}: no gate of this search is named {pattern!r}; expected a position, a gate, a row, a column or a "
        f"pattern of one, such as {', '.join(repr(name) for name in gates[0].names[:5])}{hint}"
    )


def part(gates: Sequence[Gate], pin: Mapping[str, Sequence[str]] | None, budget: int) -> Pinned:
    """Part the gates of a search space by what is pinned.

    Args:
        gates: those that can help, gate i with index i.
        pin: as `read_pin` gives it.
        budget: of the whole structure, in parameters.

    Raises:
        ConfigError: a pattern that matches nothing, a gate that is pinned both ways, or nothing is left to search.
        BudgetError: those pinned in leave too little of the budget.
    """
    pin = pin or {}
    sides = {
        side: {g.key: g for pattern in pin.get(side, ()) for g in matching(gates, pattern, f"pin: {side}")}
        for side in SIDES
    }
    inside, outside = (sides[side] for side in SIDES)
    if both := inside.keys() & outside.keys():
        one = next(gate for key, gate in inside.items() if key in both)
        raise ConfigError(f"pin: expected a gate to be pinned in or out, found both for {one.name} ({one.label})")
    rest = [gate for gate in gates if gate.key not in inside and gate.key not in outside]
    used = sum(gate.n_params for gate in inside.values())
    if used > budget:
        raise BudgetError(
            f"pin: the {len(inside)} gates pinned in have {used:,} parameters, more than the budget of {budget:,}"
        )
    if not rest:
        raise ConfigError(f"pin: expected gates that are left to search, found all {len(gates):,} pinned")
    if inside and budget - used < min(gate.n_params for gate in rest):
        raise BudgetError(
            f"pin: the {len(inside)} gates pinned in have {used:,} parameters and leave {budget - used:,} of the "
            f"budget of {budget:,}, less than the smallest other gate ({min(gate.n_params for gate in rest):,}): "
            "nothing is left to search"
        )
    check_budget([gate.n_params for gate in rest], budget - used)
    return Pinned(
        [replace(gate, index=i) for i, gate in enumerate(rest)],
        tuple(replace(gate, index=len(rest) + i) for i, gate in enumerate(_in_order(inside.values()))),
        tuple(_in_order(outside.values())),
    )


def _in_order(gates: Any) -> list[Gate]:
    return sorted(gates, key=lambda gate: gate.index)


def left_for(budget: int, inside: Sequence[Gate]) -> int:
    """What those pinned in leave of a budget, in parameters.

    Raises:
        BudgetError: nothing.
    """
    used = sum(gate.n_params for gate in inside)
    if used >= budget and inside:
        raise BudgetError(
            f"budget: expected more than the {used:,} parameters of the {len(inside)} gates pinned in, found {budget:,}"
        )
    return budget - used


def with_pinned(
    structure: Structure, pinned: Pinned, pin: Mapping[str, Sequence[str]] | None, budget: int
) -> Structure:
    """A structure chosen among `pinned.gates`, with the gates pinned in, for the whole budget; its source says both."""
    source = {**structure.source, **pins_said(pinned.inside, pin)}
    return replace(structure, gates=(*structure.gates, *pinned.inside), budget=budget, source=source)


def pins_said(inside: Sequence[Gate], pin: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """What the source of a structure says of pins, under ``pinned``: names of the gates in it, patterns of those kept
    out. Nothing of none.
    """
    outside = list((pin or {}).get(SIDES[1], ()))
    said = dict(zip(SIDES, ([gate.name for gate in inside], outside), strict=True))
    return {"pinned": {side: words for side, words in said.items() if words}} if inside or outside else {}


def searched_of(structure: Structure) -> Structure:
    """A structure without the gates that its source says were pinned in, and its budget without theirs."""
    found = structure.source.get("pinned")
    names = found.get(SIDES[0]) if isinstance(found, Mapping) else None
    apart = [gate for gate in structure.gates if isinstance(names, list) and gate.name in names]
    if not apart:
        return structure
    budget = None if structure.budget is None else structure.budget - sum(gate.n_params for gate in apart)
    return replace(structure, gates=tuple(gate for gate in structure.gates if gate not in apart), budget=budget)


def by_hand(structure: Structure) -> list[Gate]:
    """The gates of a structure that its source says a user put there: pinned in, or edited in."""
    pinned, edits = structure.source.get("pinned"), structure.source.get("edits")
    lists = [pinned.get(SIDES[0])] if isinstance(pinned, Mapping) else []
    lists += [one.get("added") for one in edits if isinstance(one, Mapping)] if isinstance(edits, (list, tuple)) else []
    names = {name for names in lists if isinstance(names, (list, tuple)) for name in names if isinstance(name, str)}
    return [gate for gate in structure.gates if gate.name in names]


def edit(structure: Structure, add: Any, remove: Any, of: Any) -> Structure:
    """`Structure.edit`."""
    pool = getattr(of, "candidates", of)
    adding, removing = _listed("add", add), _listed("remove", remove)
    if of is None and any(isinstance(one, str) for one in adding):
        raise ConfigError(f"add: expected of=, a run whose gates have the name {short(adding[0])}, found none")
    if pool is not None and not (isinstance(pool, (list, tuple)) and pool and all(isinstance(g, Gate) for g in pool)):
        raise ConfigError(f"of: expected a run or gates, found {short(of)}")
    own = structure.keys
    if removing and not own:
        raise ConfigError("remove: expected a structure with gates, found none")
    if missing := next((one for one in removing if isinstance(one, Gate) and one.key not in own), None):
        raise ConfigError(f"remove: the structure has no gate {missing.name}")
    coming = {g.key: g for g in _found(adding, pool or (), "add")}
    going = {g.key: g for g in _found(removing, structure.gates, "remove")}
    if both := coming.keys() & going.keys():
        raise ConfigError(f"edit: expected a gate to be added or removed, found both for {coming[min(both)].name}")
    new = {key: gate for key, gate in coming.items() if key not in own}
    if not new and not going:
        found = "gates that are in already" if coming else "none"
        raise ConfigError(f"edit: expected gates to add or to remove, found {found}")
    said = {"by": "hand", "added": [g.name for g in new.values()], "removed": [g.name for g in going.values()]}
    source = {**structure.source, "edits": [*structure.source.get("edits", ()), said]}
    kept = [gate for gate in structure.gates if gate.key not in going]
    return replace(structure, gates=(*kept, *new.values()), source=source)


def _listed(name: str, given: Any) -> list[Any]:
    several = [given] if isinstance(given, (str, Gate)) else given
    if not (
        isinstance(several, (list, tuple))
        and all(isinstance(one, Gate) or (one and isinstance(one, str)) for one in several)
    ):
        raise ConfigError(f"{name}: expected gates or patterns of their names, found {short(given)}")
    return list(several)


def _found(given: Sequence[Any], pool: Sequence[Gate], what: str) -> list[Gate]:
    return [gate for one in given for gate in ([one] if isinstance(one, Gate) else matching(pool, one, what))]
