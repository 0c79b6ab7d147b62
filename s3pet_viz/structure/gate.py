"""A gate: one PET type at one position of a backbone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from s3pet_viz.errors import StructureError

#: The PET types of the paper and its published code, in the order that views list them; others follow, by name.
#: Not a list of what may be trained: that is `pet.modules.PET_CLASSES`, which needs torch.
PET_TYPES = ("LoRA", "BitFit", "LNFit", "Adapter", "LowRankAdapter", "Compacter")

#: Characters that the name of a PET type may have.
LONGEST_PET_TYPE = 40

#: `Gate.layer` of a stack's embedding norm; its final norm has layer = number of layers.
EMBEDDING_LAYER = -1

#: What a file may say of a gate: (least, most). No model is as deep or has as large a module; views draw a column for
#: each layer up to the deepest, and sums over gates must fit 64 bits.
LIMITS = {"index": (0, 10**9), "layer": (EMBEDDING_LAYER, 10_000), "n_params": (1, 10**12)}
#: Characters of the texts of a gate in a file; options are JSON text.
LONGEST = {"position": 1000, "stack": 1000, "module": 1000, "pet_type": 1000, "options": 4000}
#: Gates in one file; the largest space of T5-11b, with a gate for each of 8 ranks, has 9,000.
MOST_GATES = 50_000
#: Units that a space may offer at one position: no rank is as high that is meant to be small.
MOST_UNITS = 64
#: Cells of the grid that gates are drawn on: modules and PET types times layers. 10,000 layers of 25 rows.
MOST_CELLS = 250_000


@dataclass(frozen=True)
class Gate:
    """One candidate: a PET type at a position.

    Attributes:
        index: place in the search space, 0-based; ties are broken by it.
        position: module name in the backbone, e.g. ``encoder.block.3.layer.0.SelfAttention.q``.
        stack: ``encoder`` or ``decoder``.
        layer: 0-based block number; -1 is the stack's embedding norm, and the final norm of a stack of
            n blocks has layer n.
        module: canonical module name, e.g. ``SelfAttn.Q``, ``FFN.W1``, ``Final.LN``.
        pet_type: e.g. ``LoRA``; its class is in `pet.modules`.
        n_params: trainable parameters that this gate costs.
        options: PET options, e.g. ``{"r": 1}``.
        unit: of several exchangeable gates at this place, whose number chosen is the rank, 0-based; None where the
            gate is the only one of its PET type there.
    """

    index: int
    position: str
    stack: str
    layer: int
    module: str
    pet_type: str
    n_params: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    unit: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a gate across runs: (position, PET type), of a unit (position, ``LoRA.3``)."""
        return (self.position, self.pet_type if self.unit is None else f"{self.pet_type}.{self.unit}")

    @property
    def place(self) -> tuple[str, str]:
        """(position, PET type), which units share."""
        return (self.position, self.pet_type)

    @property
    def name(self) -> str:
        """``position PET type``, and of a unit its number, e.g. ``... LoRA.3``."""
        return " ".join(self.key)

    @property
    def row(self) -> str:
        """Row label of a heatmap, e.g. ``SelfAttn.Q · LoRA``; units share it."""
        return f"{self.module} · {self.pet_type}"

    @property
    def column(self) -> str:
        """Column label of a heatmap, e.g. ``E.3``, ``D.final``."""
        return column_label(self.stack, self.layer, self.module)

    @property
    def label(self) -> str:
        """Its column and row, e.g. ``E.3 SelfAttn.Q · LoRA``, and of a unit its number."""
        return f"{self.column} {self.row}{self.of_unit}"

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it: position, ``position PET type``, column and row (with a dot or without), row,
        column, and of a unit its own names. All but the unit's own are shared by the units of a position.
        """
        row = f"{self.column} {self.row}"
        known = (self.position, " ".join(self.place), row, row.replace(" · ", " "), self.row, self.column)
        return known if self.unit is None else (*known, self.name, self.label)

    @property
    def of_unit(self) -> str:
        """What a unit's name ends with; empty for other gates."""
        return "" if self.unit is None else f" unit {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        made = asdict(self)
        if self.unit is None:  # files of spaces without units are as they were before there were units
            del made["unit"]
        return made


def pet_type_order(names: Iterable[str]) -> list[str]:
    """Distinct PET types in the order that views list them: those of `PET_TYPES`, then others by name."""
    return sorted(set(names), key=lambda name: (PET_TYPES.index(name) if name in PET_TYPES else len(PET_TYPES), name))


def column_label(stack: str, layer: int, module: str) -> str:
    """``E.3`` for encoder block 3; ``E.emb`` / ``E.final`` for norms outside the blocks."""
    letter = stack[:1].upper()
    if layer == EMBEDDING_LAYER:
        return f"{letter}.emb"
    if module.startswith("Final."):
        return f"{letter}.final"
    return f"{letter}.{layer}"


def check_grid(gates: Sequence[Gate], where: str) -> None:
    """Views draw a row for each module and PET type, and a column for each layer up to the deepest, whatever gates are
    there: a few kilobytes could ask for millions of cells.

    Raises:
        StructureError: more gates than `MOST_GATES`, or more cells than `MOST_CELLS`; begins with `where`.
    """
    if len(gates) > MOST_GATES:
        raise StructureError(f"{where}: expected at most {MOST_GATES:,} gates, found {len(gates):,}")
    deepest: dict[str, int] = {}
    places: dict[tuple[str, str, str, int], set[str]] = {}
    rows: dict[tuple[str, str], int] = {}
    for gate in gates:
        deepest[gate.stack] = max(gate.layer, deepest.get(gate.stack, 0))
        # Gates that would share a cell get rows of their own, but for units.
        cell = (gate.module, gate.pet_type, gate.stack, gate.layer)
        places.setdefault(cell, set()).add(gate.position)
        rows[cell[:2]] = max(rows.get(cell[:2], 0), len(places[cell]))
    cells = sum(rows.values()) * sum(layer + 2 for layer in deepest.values())
    if cells > MOST_CELLS:
        raise StructureError(
            f"{where}: expected gates on a grid of at most {MOST_CELLS:,} cells, found {sum(rows.values()):,} modules "
            f"and PET types on {sum(layer + 2 for layer in deepest.values()):,} layers"
        )
