"""Gates of a run's search space that were not searched: those that cannot help, and those that its user pinned; and
those that add nothing beside another."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from s3pet_viz.errors import RunError, StructureError, short
from s3pet_viz.runs import layout
from s3pet_viz.runs.status import RunStatus
from s3pet_viz.structure import Gate
from s3pet_viz.structure.gate import MOST_GATES
from s3pet_viz.structure.pins import SIDES
from s3pet_viz.structure.structure import gate_from_dict


class Apart(RunStatus):
    """What run.json says of gates that have no alpha and no p. Runs of earlier versions have none of either kind."""

    @cached_property
    def inert(self) -> tuple[Gate, ...]:
        """Gates of the search space that cannot help and were left out of the search (`pet.inert`); each with its index
        in the space.
        """
        return self._listed("inert", self.info.get("inert", []))

    @cached_property
    def redundant(self) -> tuple[tuple[Gate, Gate], ...]:
        """Pairs of gates, searched like all others, of which the first adds nothing where the second is in a structure
        too (`pet.redundant`). None are known of runs of earlier versions, of mode ``paper`` and of own batches.
        """
        found = self.info.get("redundant", [])
        if not isinstance(found, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in found):
            where = f"{self.path / layout.RUN_JSON}: field 'redundant'"
            raise RunError(f"{where}: expected a list of pairs of gates, found {short(found)}")
        firsts, seconds = (self._listed("redundant", [pair[k] for pair in found]) for k in (0, 1))
        return tuple(zip(firsts, seconds, strict=True))

    def redundant_beside(self) -> dict[tuple[str, str], list[str]]:
        """Of each gate that is the first of a pair of `redundant`, by its key: the names of the second ones."""
        made: dict[tuple[str, str], list[str]] = {}
        for gate, other in self.redundant:
            made.setdefault(gate.key, []).append(f"{other.column} {other.row}")
        return made

    @cached_property
    def pinned_in(self) -> tuple[Gate, ...]:
        """Gates that its user put into the structure before the search (`SearchConfig.pin`), numbered after the
        searched ones. The search chose among the others, under what these leave of the budget.
        """
        return self._listed("pinned: in", self._pinned().get(SIDES[0], []))

    @cached_property
    def pinned_out(self) -> tuple[Gate, ...]:
        """Gates that its user kept out of the structure, each with its index in the space without inert ones."""
        return self._listed("pinned: out", self._pinned().get(SIDES[1], []))

    @property
    def pinned_params(self) -> int:
        """Parameters of `pinned_in`."""
        return sum(gate.n_params for gate in self.pinned_in)

    def _pinned(self) -> Mapping[str, Any]:
        found = self.info.get("pinned", {})
        if not isinstance(found, dict):
            raise RunError(f"{self.path / layout.RUN_JSON}: field 'pinned': expected an object, found {short(found)}")
        return found

    def _listed(self, field: str, found: Any) -> tuple[Gate, ...]:
        where = f"{self.path / layout.RUN_JSON}: field {field!r}"
        if not isinstance(found, list) or len(found) > MOST_GATES:
            raise RunError(f"{where}: expected a list of gates, found {short(found)}")
        try:
            return tuple(gate_from_dict(gate, f"{where}, entry {i}") for i, gate in enumerate(found))
        except StructureError as error:
            raise RunError(str(error)) from None
