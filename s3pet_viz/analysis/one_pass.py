"""One-pass scores: what each gate of a search space scores, and the structure that the scores select."""

from __future__ import annotations

import html
import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from s3pet_viz.analysis._table import html_table
from s3pet_viz.analysis.measures import spearman
from s3pet_viz.analysis.placement import gora_ranks, plop_order
from s3pet_viz.config.names import FORWARD_SCORES, LAYER_SCORES
from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.structure import FinalAlphas, Gate, Structure, parse_budget, probabilities, ranks, select, solve_shift
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.structure.gate import MOST_UNITS
from s3pet_viz.structure.pins import left_for, pins_said
from s3pet_viz.structure.structure import gates_by_index
from s3pet_viz.structure.units import at_rank, nth_units

Per: TypeAlias = Literal["gate", "param"]

#: alpha is the log of a score, but not of less than this: a score may be 0.
_LEAST = 1e-30
_SHOWN = 20  # gates in the table of a notebook


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class OnePassScores(FinalAlphas):
    """What one pass of scores says of every gate of a search space.

    Figures, `s3.tune` and whatever else takes final alphas take it too: alpha is the log of the score (at least 1e-30;
    of ``gora``, unit by unit, and ``plop`` the order in which they choose), p the probability that alpha has under the
    budget.

    Attributes:
        kind: one of `config.names.ONE_PASS`.
        gates: of the space, in index order.
        score: shape (n_gates,), float64, at least 0; higher is taken first. Of ``plop``: 1 / NFN.
        rows: training rows that the score is a mean over. warm_steps: training steps before it.
        steps: passes in all: the warm steps and one for each batch of scored rows; forward and backward, of ``plop``
            and ``eva`` forward alone.
        seconds: wall time of all of it.
        seed, task, backbone, backbone_params: what it was measured with and on.
        budget: in parameters, of `structure` where it is given none; 0: it has to be given one.
        per: of `structure`, where it is given none.
        inert: gates of the space that cannot help and were left out (`pet.inert`).
        pin: what was in or out beforehand, as a search's `pin` keeps it. pinned_in, pinned_out: its gates, which are
            not among `gates`. Those in are in every structure, and were open while the others were scored.
    """

    name: str = field(init=False)
    alpha: NDArray[np.float64] = field(init=False)
    p: NDArray[np.float64] = field(init=False)
    kind: str
    score: NDArray[np.float64]
    rows: int
    warm_steps: int
    steps: int
    seconds: float
    seed: int
    task: str
    per: Per = "gate"
    inert: tuple[Gate, ...] = ()
    pin: Mapping[str, Sequence[str]] | None = None
    pinned_in: tuple[Gate, ...] = ()
    pinned_out: tuple[Gate, ...] = ()

    # Arrays have no single truth: two results are equal only where they are one.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __post_init__(self) -> None:
        alpha = self._alpha()
        p = np.full(len(alpha), np.nan)
        if self.budget:
            p = probabilities(alpha, solve_shift(alpha, self.counts, self.searched_budget()))
        for name, value in (("name", f"{self.method} on {self.task}"), ("alpha", alpha), ("p", p)):
            object.__setattr__(self, name, value)

    @property
    def method(self) -> str:
        """``gradient`` or ``gradient/param``, as a baseline is called."""
        return self.kind if self.per == "gate" else f"{self.kind}/param"

    @property
    def per_param(self) -> NDArray[np.float64]:
        """`score` over the parameters of the gate, shape (n_gates,)."""
        return self.score / self.counts

    def at(self, budget: str | int | float, per: Per = "gate") -> OnePassScores:
        """The same scores, for another budget.

        Raises:
            BudgetError, ConfigError: as `structure`.
        """
        return replace(self, budget=self._checked(budget, per), per=per)

    def table(self) -> pd.DataFrame:
        """One row per gate: gate (index), position, stack, layer, module, pet_type, n_params, score, per_param, rank,
        rank_per_param (1 = highest; ties: lower index first), and, where there is a budget, chosen.
        """
        columns = ("position", "stack", "layer", "module", "pet_type", "n_params")
        made = pd.DataFrame({"gate": [g.index for g in self.gates]})
        made = made.assign(**{c: [getattr(g, c) for g in self.gates] for c in columns})
        order = self.alpha if self.kind in LAYER_SCORES else self.score
        made = made.assign(
            score=self.score, per_param=self.per_param, rank=ranks(order), rank_per_param=ranks(self.per_param)
        )
        if not self.budget:
            return made
        chosen = np.zeros(len(self.gates), dtype=bool)
        chosen[self._chosen(self.searched_budget(), self.per)] = True
        return made.assign(chosen=chosen)

    def parameters(self, budget: str | int | float | None = None) -> int:
        """A budget in parameters; its own for None.

        Raises:
            BudgetError: not a budget. ConfigError: None, and it has none of its own.
        """
        if budget is not None:
            return parse_budget(budget, self.backbone_params)
        if not self.budget:
            raise ConfigError("budget: expected one, found none; the scores were taken without")
        return self.budget

    def searched_budget(self, budget: str | int | float | None = None) -> int:
        """What the gates pinned in leave of a budget, in parameters; of its own for None.

        Raises:
            BudgetError, ConfigError: as `parameters`; BudgetError: they leave nothing.
        """
        return left_for(self.parameters(budget), self.pinned_in)

    def structure(self, budget: str | int | float | None = None, per: Per | None = None) -> Structure:
        """The gates of the highest scores that fit a budget, by the rule that makes a structure of a search's alpha.

        ``gora`` allots ranks where the space offers rank-one units (see `placement.gora_ranks`), else it takes whole
        gates by score; ``plop`` takes whole types of modules in their order (see `placement.plop_order`); ``domlora``
        one position alone, that of the highest score, at the highest rank that fits, whatever the space offers there: a
        gate of that rank, or up to 64 units.

        Args:
            budget: a fraction of the backbone or a number of parameters, see `structure.parse_budget`. None: its own.
            per: ``gate`` takes gates in the order of their score, as a search does in the order of p, which favours
                large modules; ``param`` in the order of score per parameter, the greedy rule for the largest sum of
                scores under a budget. None: its own.

        Raises:
            BudgetError: not a budget, or below the smallest module; of ``domlora`` below rank 1 at its module.
            ConfigError: `per` is neither, or ``param`` of a method that has its own rule.
        """
        per = self.per if per is None else per
        parameters = self._checked(budget, per)
        gates = gates_by_index(self.gates, self._chosen(self.searched_budget(budget), per))
        if self.kind == "domlora":
            gates = _at_full_rank(gates, parameters, len(self.gates))
        source = {
            "baseline": self.kind if per == "gate" else f"{self.kind}/param",
            "seed": self.seed,
            "task": self.task,
            "rows": self.rows,
            "warm_steps": self.warm_steps,
            "steps": self.steps,
            "seconds": round(self.seconds, 3),
            **pins_said(self.pinned_in, self.pin),
        }
        return Structure((*gates, *self.pinned_in), self.backbone, self.backbone_params, parameters, source)

    def heatmap(self, *, scale: Any = "own", **options: Any) -> Any:
        """`s3pet_viz.figures.heatmap` of the scores, the chosen gates outlined; its options, and its Figure."""
        return _figures().heatmap(self, scale=scale, **options)

    # -- inside ----------------------------------------------------------------------------------------

    def _alpha(self) -> NDArray[np.float64]:
        if self.kind == "plop":
            return plop_order(1 / self.score, [g.module for g in self.gates])
        key = self.score if self.per == "gate" else self.per_param
        if self.kind == "gora" and self._units() is not None:  # r0 at which the formula gives a layer its k-th unit
            pinned = len(self.pinned_in)
            nth = 1 + np.array(nth_units((*self.pinned_in, *self.gates))[pinned:])
            key = key / (nth * np.sqrt(self.counts))
        return np.log(np.maximum(key, _LEAST))

    def _checked(self, budget: str | int | float | None, per: Per) -> int:
        if per not in ("gate", "param"):
            raise ConfigError(f"per: expected 'gate' or 'param', found {per!r}")
        if per == "param" and self.kind in LAYER_SCORES:
            raise ConfigError(f"per: expected 'gate' for {self.kind!r}, which has a rule of its own, found 'param'")
        parameters = self.parameters(budget)
        check_size(self.kind, self.gates, left_for(parameters, self.pinned_in))
        return parameters

    def _chosen(self, budget: int, per: Per) -> NDArray[np.int64]:
        if self.kind == "plop":
            return select(self.alpha, self.counts, budget)
        if self.kind == "domlora":
            where = max(self._by_position().values(), key=lambda gates: float(self.score[gates].mean()))
            gate = self.gates[where[0]]
            if (size := _per_rank(gate)) > budget:
                raise BudgetError(
                    f"budget: {budget:,} parameters is below rank 1 at {gate.position} ({size:,} parameters), the "
                    "module of the highest gradient energy"
                )
            return np.sort(where[: budget // size])
        if self.kind == "gora" and self._units() is not None:
            layers = list(self._by_position().values())
            first = [gates[0] for gates in layers]
            pinned = Counter(gate.position for gate in self.pinned_in)
            held = np.array([pinned[self.gates[i].position] for i in first])
            sizes, most = self.counts[first], held + [len(gates) for gates in layers]
            made = gora_ranks(
                self.score[first], sizes, np.zeros(len(first)), budget + int(held @ sizes), least=held, most=most
            )
            chosen = [gates[:r] for gates, r in zip(layers, made.ranks - held, strict=True)]
            return np.sort(np.concatenate(chosen).astype(np.int64))
        return select(self.score if per == "gate" else self.per_param, self.counts, budget)

    def _units(self) -> list[int] | None:
        """Which rank of its position each gate is, where the space offers ranks."""
        units = [getattr(gate, "unit", None) for gate in self.gates]
        return None if None in units else [int(unit) for unit in units if unit is not None]

    def _by_position(self) -> dict[str, NDArray[np.int64]]:
        """Places of the gates of each position, in the order of their units."""
        units = self._units() or [0] * len(self.gates)
        found: dict[str, list[tuple[int, int]]] = {}
        for place, (gate, unit) in enumerate(zip(self.gates, units, strict=True)):
            found.setdefault(gate.position, []).append((unit, place))
        return {name: np.array([place for _, place in sorted(pairs)]) for name, pairs in found.items()}

    # -- as text ---------------------------------------------------------------------------------------

    def cost(self) -> str:
        """``64 passes forward and backward over 2,048 rows, 3.1 s``."""
        way = "forward" if self.kind in FORWARD_SCORES else "forward and backward"
        rows = f"{self.rows:,} row{'s' if self.rows != 1 else ''}"
        return f"{self.steps:,} pass{'es' if self.steps != 1 else ''} {way} over {rows}, {self.seconds:.1f} s"

    def __repr__(self) -> str:
        return f"OnePassScores({self.name}: {len(self.gates):,} gates, {self.cost()})"

    def _repr_html_(self) -> str:
        table = self.table().sort_values("rank")[:_SHOWN]
        chosen = self.structure() if self.budget else None
        cells = [
            (self.gates[i].column, row.module, row.pet_type, f"{row.n_params:,}", f"{row.score:.3g}", str(row.rank))
            + (("chosen" if row.chosen else "",) if chosen is not None else ())
            for i, row in zip(table.index, table.itertuples(), strict=True)
        ]
        names = ["layer", "module", "PET type", "parameters", "score", "rank", *([""] if chosen is not None else [])]
        more = f" The first {len(table)}:" if len(self.gates) > len(table) else ""
        says = f"{self!r}. " + (f"Chosen: {chosen!r}." if chosen is not None else "") + more
        return f"<p>{html.escape(says)}</p>{html_table(names, cells)}"


def check_size(kind: str, gates: Sequence[Gate], budget: int) -> None:
    """`check_budget`; a budget that holds the whole space is none for ``domlora``, which goes beyond its ranks.

    Raises:
        BudgetError: below the smallest module.
    """
    counts = [gate.n_params for gate in gates]
    check_budget(counts, min(budget, sum(counts)) if kind == "domlora" else budget)


def _per_rank(gate: Gate) -> int:
    return gate.n_params // int(gate.options.get("r", 1))


def _at_full_rank(gates: tuple[Gate, ...], budget: int, free: int) -> tuple[Gate, ...]:
    """All that a budget allows at the one position of these gates: units beyond those that the space offers too, or
    one gate where that is more than a position may have as units.

    Args:
        free: the first index that no gate of the space has.
    """
    gate, rank = gates[0], budget // _per_rank(gates[0])
    if gate.unit is None or rank > MOST_UNITS:
        return (at_rank(replace(gate, unit=None), rank),)
    beyond = range(len(gates), rank)
    return (*gates, *(replace(gate, index=free + unit, unit=unit) for unit in beyond))


class TaskScores(dict[str, OnePassScores]):
    """One-pass scores of one search space on several tasks, by the tasks' names."""

    def correlation(self) -> pd.DataFrame:
        """Spearman's rank correlation of the scores between tasks; tasks x tasks. NaN where all scores are equal."""
        names = list(self)
        values = [[spearman(self[a].score, self[b].score) for b in names] for a in names]
        return pd.DataFrame(values, index=pd.Index(names, name="task"), columns=pd.Index(names, name="task"))

    def heatmap(self, *, title: str | None = None, **options: Any) -> Any:
        """`s3pet_viz.figures.overlap` of the scores, their rank correlation; its options, and its Figure."""
        kind = next(iter(self.values())).kind
        words = f"Rank correlation of {kind} scores between tasks (Spearman)"
        return _figures().overlap(list(self.values()), by="spearman", title=title or words, **options)

    def __repr__(self) -> str:
        one = next(iter(self.values()))
        seconds = sum(scores.seconds for scores in self.values())
        return f"TaskScores({one.method} on {', '.join(self)}: {len(one.gates):,} gates, {seconds:.1f} s)"

    def _repr_html_(self) -> str:
        made = self.correlation()
        cells = [(name, *(f"{v:.2f}" for v in row)) for name, row in zip(made.index, made.to_numpy(), strict=True)]
        words = f"{self!r}. Rank correlation (Spearman) of the scores:"
        return f"<p>{html.escape(words)}</p>{html_table(['', *made.columns], cells)}"


def _figures() -> Any:
    # By name, when a figure is asked for: numbers are made where there is no plotly.
    return importlib.import_module("s3pet_viz.figures")
