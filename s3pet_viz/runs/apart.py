"""Gates of a run's search space that were not searched: those that cannot help, and those that its user pinned."""

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
