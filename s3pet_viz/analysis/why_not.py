"""Why a gate was not chosen: too dear, or unimportant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from s3pet_viz.analysis.first_order import first_order
from s3pet_viz.errors import ConfigError, RunError, short
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, RunLike, open_source
from s3pet_viz.structure import Gate, ranks
from s3pet_viz.structure.pins import matching

#: Of the gains of the chosen gates: one below this share of them is less than they give.
_LOW = 0.25
COLUMNS = "gate name reason rank p alpha n_params left enters gain why".split()


def why_not(run: RunLike, gates: Any = None, *, scores: Any = None) -> pd.DataFrame:
    """Why gates of a search were not chosen, one row each, the highest rank first.

    Columns: gate (index; -1 of one that was not searched), name, reason, rank, p, alpha, n_params; left (parameters of
    the budget that were left at its turn: gates come by rank, each that fits is taken), enters (a budget, in
    parameters, at which it is chosen for certain at these alpha: the sizes of all that rank no lower), gain (first
    order, see below), why (in words).

    Reasons: ``chosen``; ``too large`` (it ranked above a gate that was chosen, and did not fit); ``too dear`` (it would
    give as much as chosen gates do, and has more parameters than their median); ``unimportant`` (it would give less
    than three quarters of the chosen gates do, whatever it costs); ``close`` (as much, for no more parameters: by first
    order it could as well be in; measure it with `s3.what_if`); ``ranked too low`` (that is all that is known);
    ``pinned in``, ``pinned out``, ``cannot help``.

    Args:
        run: a run, or its path.
        gates: a gate, a name or a pattern of names (as in ``search(pin=)``), or several. None: all that were not
            chosen.
        scores: `s3.score` of the same space, where the run has recorded no gradients of its own.

    Returns:
        The table; ``table.attrs["gain"]`` says what gain is and where it comes from.

    Raises:
        RunError: no such run, no steps yet, or a damaged checkpoint. ConfigError: a name that no gate has, or scores of
            another space.
    """
    source: Run = open_source(run, allow=RUN, what="run")
    if not source.n_steps:
        raise RunError(f"{source.path}: no steps recorded yet, so nothing was chosen")
    every = (*source.candidates, *source.inert)
    own = source.structure()
    wanted = [gate for gate in every if gate.key not in own.keys] if gates is None else _asked(gates, every)
    found = first_order(source, scores)
    alpha, p, rank, counts = source.alpha(), source.p(), ranks(source.alpha()), source.counts
    left = _left(alpha, counts, source.searched_budget())
    chosen = np.array([gate.key in own.keys for gate in source.gates_list])
    last = int(rank[chosen].max(initial=0))
    index = {gate.key: gate.index for gate in source.gates_list}
    order = np.argsort(rank)
    enters = np.empty(len(alpha), dtype=np.int64)
    enters[order] = np.cumsum(counts[order]) + source.pinned_params
    known = np.isfinite(found.gain) & chosen
    low = float(np.quantile(found.gain[known], _LOW)) if known.any() else np.nan
    usual = float(np.median(counts[chosen])) if chosen.any() else np.nan
    rows = []
    for gate in wanted:
        i = index.get(gate.key)
        if i is None:
            rows.append(_apart(source, gate))
            continue
        gain = float(found.gain[i])
        reason = "chosen" if chosen[i] else _reason(int(rank[i]) < last, gain, low, gate.n_params > usual)
        facts = (int(rank[i]), float(p[i]), float(alpha[i]), gate.n_params, int(left[i]), int(enters[i]), gain)
        why = _words(reason, gate, int(rank[i]), int(left[i]), int(enters[i]))
        rows.append((i, gate.label, reason, *facts, why))
    table = pd.DataFrame(rows, columns=COLUMNS).sort_values("rank", kind="stable", ignore_index=True)
    table.attrs["gain"] = found.words
    return table


def _asked(gates: Any, every: Sequence[Gate]) -> list[Gate]:
    several = [gates] if isinstance(gates, (str, Gate)) else gates
    if not (isinstance(several, (list, tuple)) and several and all(isinstance(one, (str, Gate)) for one in several)):
        raise ConfigError(f"gates: expected gates or patterns of their names, found {short(gates)}")
    keys = {gate.key for gate in every}
    found: dict[tuple[str, str], Gate] = {}
    for one in several:
        if isinstance(one, Gate) and one.key not in keys:
            raise ConfigError(f"gates: the search has no gate {one.name}")
        found |= {g.key: g for g in ([one] if isinstance(one, Gate) else matching(every, one, "gates"))}
    return list(found.values())


def _left(alpha: np.ndarray, counts: np.ndarray, budget: int) -> np.ndarray:
    """What is left of the budget when each gate has its turn, by the rule of `structure.select`."""
    left, made = budget, np.empty(len(alpha), dtype=np.int64)
    for i in np.argsort(-alpha.astype(np.float64), kind="stable"):
        made[i] = left
        left -= int(counts[i]) if counts[i] <= left else 0
    return made


def _reason(above: bool, gain: float, low: float, large: bool) -> str:
    if above:
        return "too large"
    if np.isnan(gain) or np.isnan(low):
        return "ranked too low"
    if gain < low:
        return "unimportant"
    return "too dear" if large else "close"


def _words(reason: str, gate: Gate, rank: int, left: int, enters: int) -> str:
    room = f"at its turn (rank {rank:,}) {left:,} parameters were left, and it has {gate.n_params:,}"
    certain = f"; it is in for certain at a budget of {enters:,}"
    return {
        "chosen": f"it was chosen, at rank {rank:,}",
        "too large": f"it ranked above a gate that was chosen, but {room}{certain}",
        "too dear": f"opening it would give as much as chosen gates do, but it is larger than most of them: {room}",
        "unimportant": f"opening it would give less than three quarters of the chosen gates do; {room}",
        "close": f"by first order it would give as much as chosen gates, for no more parameters; {room}: measure it",
        "ranked too low": f"{room}{certain}; what it would give is not known",
    }[reason]


def _apart(run: Run, gate: Gate) -> tuple[Any, ...]:
    reason, why = "cannot help", "whatever its weights are, the output is the same: it was left out of the search"
    if gate.key in {one.key for one in run.pinned_in}:
        reason, why = "pinned in", "it was put in by hand before the search"
    elif gate.key in {one.key for one in run.pinned_out}:
        reason, why = "pinned out", "it was kept out by hand before the search; nothing was searched there"
    unknown = [np.nan] * 3
    return (-1, gate.label, reason, *unknown, gate.n_params, np.nan, np.nan, np.nan, why)
