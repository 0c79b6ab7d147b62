"""The gates that a search or a score chooses from: those of a space, without the ones that cannot help."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.errors import SpaceError
from s3pet_viz.pet import Space, candidate_gates
from s3pet_viz.pet.inert import inert_gates
from s3pet_viz.pet.redundant import Pair, redundant_pairs
from s3pet_viz.structure import Gate
from s3pet_viz.training.batches import Features
from s3pet_viz.training.device import Device
from s3pet_viz.training.model_state import at_work
from s3pet_viz.training.own_batches import OwnBatches


@dataclass(frozen=True)
class Candidates:
    """Gates of a space on a backbone.

    Attributes:
        gates: what can be chosen, gate i with index i. inert: what cannot help (`pet.inert`), with its index in the
            space. missing: what the space names but the backbone lacks.
    """

    gates: list[Gate]
    inert: tuple[Gate, ...]
    missing: list[str]

    @classmethod
    def of(cls, backbone: Backbone, space: Space, rows: Features | OwnBatches, device: Device) -> Candidates:
        """The candidates, measured on some rows of a task.

        Raises:
            SpaceError: as `candidate_gates`; no gate can help. BackboneError: as `inert_gates`.
        """
        gates, missing = candidate_gates(backbone.positions(), space)
        output = backbone.loss_of if backbone.form == "own" else None
        inert: tuple[Gate, ...] = tuple(gates)
        with at_work(backbone, device):
            for batch in rows.few(device.torch):  # what one batch does not reach, another may
                with seeded(0):
                    found = inert_gates(backbone.model, gates, batch, device.autocast, output)
                inert = tuple(gate for gate in inert if gate in found)
                if not inert:
                    break
        if len(inert) == len(gates):
            raise SpaceError(
                f"space {space.name}: expected a gate that can help, found none: the output of {backbone.name} is the "
                f"same whatever the weights of its {len(gates):,} gates are ({gates[0].label}, ...)"
            )
        return cls.without(gates, missing, inert)

    @classmethod
    def without(cls, gates: list[Gate], missing: list[str], inert: tuple[Gate, ...]) -> Candidates:
        """These gates but the inert ones, numbered anew."""
        left_out = {gate.key for gate in inert}
        kept = [gate for gate in gates if gate.key not in left_out]
        return cls([replace(gate, index=i) for i, gate in enumerate(kept)], inert, missing)

    def redundant(self, backbone: Backbone, rows: Features | OwnBatches, device: Device) -> tuple[Pair, ...]:
        """Pairs of gates of which the first adds nothing beside the second (`pet.redundant`); none are looked for where
        batches are the user's own. A model that it cannot be measured on is searched all the same, with a warning.
        """
        if isinstance(rows, OwnBatches):
            return ()
        (batch,) = rows.few(device.torch)
        exact = replace(device, precision="fp32").suited(backbone.model)  # half precision hides pairs
        with at_work(backbone, device), seeded(0):
            try:
                return redundant_pairs(backbone.model, self.gates, batch, exact.autocast)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what a search needs works without it
                said = str(error).strip().partition("\n")[0]
                warnings.warn(f"which biases are redundant was not measured: {said}", stacklevel=2)
                return ()
