"""The table of final alphas that the published implementation (thunlp/S3Delta) writes after a search.

See docs/export.md; positions are T5's.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from s3pet_viz.errors import StructureError, short
from s3pet_viz.files import read_text
from s3pet_viz.structure.budget import Budget, check_budget, probabilities, select, solve_shift
from s3pet_viz.structure.gate import MOST_GATES, Gate, check_grid
from s3pet_viz.structure.published import Backbone, backbone_facts, check_kind, depths, pet_type_of, shape_for
from s3pet_viz.structure.sizes import FORMS
from s3pet_viz.structure.structure import Structure
from s3pet_viz.structure.t5 import Place, T5Shape, parse_position

_MI = 1024**2


@dataclass(frozen=True)
class FinalAlphas:
    """What ``final_alphas.txt`` holds: every gate of a search with its last alpha and p.

    Attributes:
        name: the folder and file it came from.
        gates: the search space, in file order.
        alpha, p: float64, shape (n_gates,); the file has five decimals of each.
        backbone, backbone_params: where `read_final_alphas` was told; else "" and 0.
        budget: in parameters: as told, or estimated by ``sum_i p_i n_i``, which the search holds at its budget.
    """

    name: str
    gates: tuple[Gate, ...]
    alpha: np.ndarray
    p: np.ndarray
    backbone: str = ""
    backbone_params: int = 0
    budget: int = 0

    @property
    def counts(self) -> np.ndarray:
        """Parameters of each gate, int64, shape (n_gates,)."""
        return np.array([g.n_params for g in self.gates], dtype=np.int64)

    def parameters(self, budget: str | int | float | None = None) -> int:
        """A budget in parameters; the search's own for None.

        Raises:
            BudgetError: cannot be parsed.
            StructureError: a fraction, and the backbone's size is not known.
        """
        if budget is None:
            return self.budget
        parsed = Budget.parse(budget)
        if parsed.fraction is not None and not self.backbone_params:
            raise StructureError(
                f"{self.name}: the size of the backbone is not known: give the budget as a whole number of "
                f"parameters (found {budget!r}), or read the file with backbone='t5-large'"
            )
        return parsed.parameters(self.backbone_params or None)

    def searched_budget(self, budget: str | int | float | None = None) -> int:
        """What these gates are chosen under, in parameters: all of a budget, for nothing is pinned beside them."""
        return self.parameters(budget)

    def p_at(self, budget: str | int | float | None = None) -> np.ndarray:
        """p as recorded, or with the shift solved again for another budget; float64, shape (n_gates,)."""
        if budget is None:
            return self.p
        return probabilities(self.alpha, solve_shift(self.alpha, self.counts, self.searched_budget(budget)))

    def structure(self, budget: str | int | float | None = None) -> Structure:
        """The structure that these alphas select.

        Raises:
            BudgetError, StructureError: as `parameters`; a budget below the smallest module.
        """
        params = self.parameters(budget)
        if params < self.counts.min():
            check_budget(self.counts, params)  # raises, naming the smallest module
        chosen = tuple(self.gates[i] for i in select(self.alpha, self.counts, params))
        source = {"format": "S3Delta final_alphas", "file": self.name}
        return Structure(chosen, self.backbone, self.backbone_params, params, source)


def read_final_alphas(
    path: str | os.PathLike[str], backbone: Backbone | None = None, budget: str | int | float | None = None
) -> FinalAlphas:
    """Read ``final_alphas.txt``: a rule of ``=``, a line of six cells per gate, a rule of ``=``.

    Args:
        backbone: the name of a T5 or a `T5Shape`; tells the depth, the rank of each LoRA and fractions of the budget.
        budget: the search's own, where known; else it is estimated from p.

    Raises:
        StructureError: no such file, or a line is damaged; names the file, the line and the cell.
    """
    where = str(path)
    text = read_text(path, StructureError)
    if text.count("\n") > 2 * MOST_GATES:
        raise StructureError(f"{where}: expected at most {2 * MOST_GATES:,} lines, found {text.count(chr(10)):,}")
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) < 3 or not _rule(lines[0][1]):
        raise StructureError(f"{where}: line 1: expected a rule of '=', then a line per gate, then a rule of '='")
    if not _rule(lines[-1][1]):
        raise StructureError(f"{where}: line {lines[-1][0]}: expected a rule of '=' at the end; the file is cut off")
    shape = shape_for(backbone, where)
    rows = [_row(line, f"{where}: line {number}") for number, line in lines[1:-1]]
    depth = depths((place for _, place, *_ in rows), shape)
    gates: list[Gate] = []
    seen: set[tuple[str, str]] = set()
    for (number, _), (position, place, pet_type, n_params, _, _) in zip(lines[1:-1], rows, strict=True):
        if (position, pet_type) in seen:
            raise StructureError(f"{where}: line {number}: gate {position} {pet_type} appears twice")
        seen.add((position, pet_type))
        if shape is not None and place.layer is not None and place.layer >= shape.depth(place.stack):
            raise StructureError(f"{where}: line {number}: {position}: {backbone!r} has no such block")
        options = _options_of_size(pet_type, place, n_params, shape)
        gates.append(place.gate(len(gates), position, depth, pet_type, n_params, options))
    check_grid(gates, where)
    alpha = np.array([row[4] for row in rows])
    p = np.array([row[5] for row in rows])
    name, params = backbone_facts(backbone, shape)
    own = max(1, round(float(p @ np.array([g.n_params for g in gates]))))
    table = FinalAlphas("/".join(Path(path).parts[-2:]), tuple(gates), alpha, p, name, params, own)
    return table if budget is None else replace(table, budget=table.parameters(budget))


# -- inside ------------------------------------------------------------------------------------------------


def _rule(line: str) -> bool:
    return re.fullmatch(r"=+(\s*alphas\s*=+)?", line) is not None


def _row(line: str, where: str) -> tuple[str, Place, str, int, float, float]:
    cells = [cell.strip() for cell in line.split("|")]
    if cells and not cells[-1] and len(cells) == 8:  # a closing bar
        cells.pop()
    if len(cells) != 7 or cells[0]:
        raise StructureError(
            f"{where}: expected '|position |method |type |parameters / 1024^2 |alpha |p', found {short(line)}"
        )
    position, method, name = cells[1:4]
    place = parse_position(position)
    if place is None:
        raise StructureError(f"{where}: position: expected a T5 module, found {short(position)}")
    pet_type = pet_type_of(name, method, where)
    check_kind(pet_type, place, position, where)
    size = _number(cells[4], "parameters / 1024^2", where) * _MI
    # Seven decimals of a Mi are a tenth of a parameter.
    if not 0.5 < size < 1e12 or abs(size - round(size)) > 0.06:
        raise StructureError(
            f"{where}: parameters / 1024^2: expected a whole number of parameters over 1024^2, found {short(cells[4])}"
        )
    alpha, p = _number(cells[5], "alpha", where), _number(cells[6], "p", where)
    if not 0 <= p <= 1:
        raise StructureError(f"{where}: p: expected 0 to 1, found {short(cells[6])}")
    return position, place, pet_type, round(size), alpha, p


def _number(text: str, field: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e15:
        raise StructureError(f"{where}: {field}: expected a number, found {short(text)}")
    return value


def _options_of_size(pet_type: str, place: Place, n_params: int, shape: T5Shape | None) -> dict[str, Any]:
    """The table has no options; a LoRA's rank follows from its size where the widths are known."""
    options = dict(FORMS[pet_type].defaults)
    if pet_type == "LoRA" and shape is not None:
        options["r"] = max(1, round(n_params / sum(shape.widths(place))))
    return options
