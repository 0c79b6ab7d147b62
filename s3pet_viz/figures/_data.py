"""What the figures share: one view of whatever they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s3pet_viz.errors import ConfigError, StructureError
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Opened, structure_of
from s3pet_viz.structure import FinalAlphas, Gate, Structure, ranks, select_with_fill
from s3pet_viz.structure.pins import by_hand
from s3pet_viz.structure.units import keys_by


@dataclass(frozen=True)
class View:
    """What a figure needs to know of one source, at one budget and step.

    Attributes:
        name: of the run, or of the file's backbone; text from outside.
        gates: the search space; of a structure only its chosen gates.
        p, alpha: float64, shape (n_gates,), NaN where not known.
        rank: shape (n_gates,), 1 = highest alpha; NaN where not known.
        selected: bool, shape (n_gates,).
        fill: bool, shape (n_gates,): chosen only because a likelier gate did not fit; see `structure.select_with_fill`.
        cut: alpha of the first gate that did not fit; NaN where all fit, or where alpha is not known.
        whole: whether `gates` is the whole search space, not only what was chosen.
        step: of a run, the recorded step; None else.
    """

    name: str
    gates: tuple[Gate, ...]
    p: np.ndarray
    alpha: np.ndarray
    rank: np.ndarray
    selected: np.ndarray
    fill: np.ndarray
    cut: float
    whole: bool
    step: int | None = None

    @property
    def keys(self) -> list[tuple[str, str]]:
        """What its gates are matched with those of other views by."""
        order = np.where(self.selected, 2.0, 0.0) - np.nan_to_num(self.rank) / (len(self.gates) + 1)
        return keys_by(self.gates, order)

    @property
    def counts(self) -> np.ndarray:
        """Parameters of each gate, int64, shape (n_gates,); 0 where not known."""
        return np.array([g.n_params for g in self.gates], dtype=np.int64)


def view(source: Opened, *, budget: Budget | None = None, step: int = -1) -> View:
    """Look at a source.

    Args:
        budget: p with the shift solved again, and the selection, at another budget.
        step: a recorded step of a run; -1 = the last. A run without steps yet has no p and chose nothing.

    Raises:
        RunError: no such step.
        BudgetError: the budget cannot be parsed, or is below the smallest module.
        ConfigError: another budget of a structure, which has no alpha.
    """
    if isinstance(source, Structure):
        structure_of(source, budget)
        name = source.backbone or str(source.source.get("file") or "structure")
        return _unknown(name, source.gates, chosen=True)
    if isinstance(source, FinalAlphas):
        p, alpha, gates, number = source.p_at(budget), source.alpha, source.gates, None
        structure = source.structure(budget)
    else:
        gates = source.gates_list
        if step == -1 and not source.n_steps:
            return _unknown(source.name, gates, chosen=False)
        p, alpha = source.p(step, budget=budget), source.alpha(step)
        structure = source.structure(budget=budget, step=step)
        number = int(source.steps(last=1)["step"].iloc[0]) if step == -1 else step
    keys = structure.keys
    selected = np.array([g.key in keys for g in gates], dtype=bool)
    fill, cut = filled(gates, alpha, source.searched_budget(budget), selected)
    p, alpha = (np.asarray(values, dtype=np.float64) for values in (p, alpha))
    rank = ranks(alpha).astype(np.float64)
    return View(source.name, gates, p, alpha, rank, selected, fill, cut, whole=True, step=number)


def _unknown(name: str, gates: tuple[Gate, ...], *, chosen: bool) -> View:
    """Of a structure, which has only chosen gates, or of a run without steps, which has chosen none."""
    missing, none = np.full(len(gates), np.nan), np.zeros(len(gates), dtype=bool)
    return View(name, gates, missing, missing, missing, none | chosen, none, float("nan"), whole=not chosen)


def filled(
    gates: Sequence[Gate], alpha: np.ndarray, budget: int | None, selected: np.ndarray
) -> tuple[np.ndarray, float]:
    """Which of the selected gates only fill what is left of the budget, bool, shape (n_gates,), and the cut."""
    fill = np.zeros(len(gates), dtype=bool)
    counts = [g.n_params for g in gates]
    if not budget or min(counts, default=0) < 1:  # a published file without its backbone knows no sizes
        return fill, float("nan")
    found = select_with_fill(alpha, counts, budget)
    fill[found.fill] = True
    return fill & selected, found.cut


def gate_names(gates: Sequence[Gate], rows: Sequence[str]) -> list[str]:
    """``E.3 SelfAttn.Q · LoRA`` of each gate, given its row label; of a unit with its number."""
    return [f"{g.column} {row}{g.of_unit}" for g, row in zip(gates, rows, strict=True)]


def expected_ranks(one: View) -> dict[tuple[str, str], float]:
    """The sum of p over the units of each (position, PET type); of another gate its p."""
    made: dict[tuple[str, str], float] = {}
    for gate, p in zip(one.gates, one.p, strict=True):
        made[gate.place] = made.get(gate.place, 0.0) + float(p)
    return made


def joint_gates(views: Sequence[View]) -> tuple[tuple[Gate, ...], list[np.ndarray]]:
    """Every gate of several views, matched by key, and for each view where its gates are among them. Units are matched
    by their order at a position, the chosen ones first, then by alpha: not unit by unit, but rank by rank.

    Raises:
        ConfigError: two of them share no gate.
    """
    gates: dict[tuple[str, str], Gate] = {}
    keys = [one.keys if len(views) > 1 else [g.key for g in one.gates] for one in views]
    for one, own in zip(views, keys, strict=True):
        for key, gate in zip(own, one.gates, strict=True):
            gates.setdefault(key, gate)
    filled = [one for one in views if one.gates]
    for other in filled[1:]:
        if not set(filled[0].keys) & set(other.keys) and (filled[0].whole or other.whole):
            raise ConfigError(
                f"{filled[0].name} and {other.name} share no gate: their search spaces or backbones differ "
                f"(e.g. {filled[0].gates[0].name} and {other.gates[0].name})"
            )
    at = {key: i for i, key in enumerate(gates)}
    return tuple(gates.values()), [np.array([at[key] for key in own], dtype=np.int64) for own in keys]


def left_out(sources: Sequence[Any], gates: Sequence[Gate]) -> list[Gate]:
    """Gates that a source left out because they cannot help, and that none of them has."""
    have = {gate.key for gate in gates}
    found = {gate.key: gate for source in sources for gate in getattr(source, "inert", ())}
    return [gate for key, gate in found.items() if key not in have]


def pinned(sources: Sequence[Any]) -> tuple[list[Gate], list[Gate]]:
    """Gates that were pinned in and out by hand, in any of the sources. Of a structure, what was put in by hand."""
    sides = ("pinned_in", "pinned_out")
    inside, outside = ({g.key: g for s in sources for g in getattr(s, side, ())} for side in sides)
    inside |= {g.key: g for s in sources if isinstance(s, Structure) for g in by_hand(s)}
    return list(inside.values()), list(outside.values())


def spread(views: Sequence[View], places: Sequence[np.ndarray], n_gates: int, name: str, missing: Any) -> np.ndarray:
    """An attribute of each view over the gates of all (`joint_gates`), shape (n_views, n_gates)."""
    made = np.full((len(views), n_gates), missing)
    for row, one, at in zip(made, views, places, strict=True):
        row[at] = getattr(one, name)
    return made


def facts(source: Opened) -> dict[str, str]:
    """Task, backbone, budget, mode and seed of a source, as text, where known."""
    config: Any = source.source if isinstance(source, Structure) else {}
    if isinstance(source, Run):
        config, info = source.config, source.info
        params, total, backbone = info["budget"], info["backbone_params"], info["backbone"]
    else:
        params, total, backbone = source.budget, source.backbone_params, source.backbone
    found = {key: config.get(key) for key in ("task", "mode", "seed")}
    if isinstance(found["task"], str):
        found["task"] = found["task"].rstrip("/").rpartition("/")[2]
    if params:
        found["budget"] = f"{100 * params / total:.3g}%" if total else f"{params:,} params"
    found["backbone"] = backbone or None
    if found["seed"] is not None:
        found["seed"] = f"seed {found['seed']}"
    return {key: str(value) for key, value in found.items() if value is not None}


def labels(sources: Sequence[Opened], most: int = 32) -> list[str]:
    """A short label for each: what tells them apart among task, budget, seed, mode and backbone; all different."""
    known = [facts(source) for source in sources]
    telling = [
        key
        for key in ("task", "budget", "seed", "mode", "backbone")
        if len({fact.get(key) for fact in known}) > 1 or (key == "task" and len(sources) == 1)
    ]
    made: list[str] = []
    for source, fact in zip(sources, known, strict=True):
        words = [fact[key] for key in telling if key in fact]
        name = source.name if not isinstance(source, Structure) else (source.backbone or "structure")
        made.append(shorten(" · ".join(words) or name, most))
    return [label if made.count(label) == 1 else f"{shorten(label, most - 5)} ({i})" for i, label in enumerate(made, 1)]


def shorten(text: str, most: int) -> str:
    """The text, cut in the middle where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"


def need_space(one: View, what: str) -> None:
    """Refuse a structure where the whole search space is needed.

    Raises:
        StructureError: it is one.
    """
    if not one.whole:
        raise StructureError(f"{what}: a structure has only its chosen gates; expected a run or final alphas")
