"""Do searches agree? Structures of other seeds, tasks, budgets and modes against random ones of the same budgets.

The chance level is by Monte Carlo: each structure is replaced by a random one of its own budget and search space (the
gates in a random order, by the selection's own rule), and the mean overlap over the same pairs is taken again.
A structure is drawn once per replicate and enters all its pairs, so pairs that share it hang together as they do in the
study.

Units of one position are exchangeable: overlaps compare how many a structure has there, of random structures too.

Random structures know nothing: agreement above chance can also mean that searches merely prefer a PET type or small
gates everywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from s3pet_viz.analysis.measures import need_sizes, random_structures
from s3pet_viz.errors import BudgetError, ConfigError, StructureError
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import RUN, RunLike, open_source
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.units import by_rank, rank_keys

#: Elements of one block of drawn structures; a block of float64 is at most 64 MB.
_BLOCK = 8_000_000
#: Rounding of an overlap, so that an equal one counts as equal.
_ROUNDING = 1e-12


class Found(NamedTuple):
    """What one search found, and where it looked.

    Attributes:
        task, budget, mode, seed: what was asked; `task` without its folder, `budget` as given.
        structure: what it chose.
        gates: the whole search space, shape (n_gates,).
        params: the budget in parameters.
        pinned: gates of the structure that nobody chose: random ones have them too, within the same budget.
    """

    task: str
    budget: str
    mode: str
    seed: int
    structure: Structure
    gates: tuple[Gate, ...]
    params: int
    pinned: tuple[Gate, ...] = ()

    @property
    def every(self) -> tuple[Gate, ...]:
        """The search space and what was pinned in."""
        return (*self.gates, *self.pinned)

    @classmethod
    def of(cls, run: Run, *, budget: Budget | None = None) -> Found:
        """A run's structure, at its own budget or solved again at another. Raises RunError: no steps recorded yet, or
        the run is damaged. BudgetError: the budget cannot be parsed, or is below the smallest module.
        """
        try:
            structure, config = run.structure(budget, pinned=False), run.config  # nobody found what was pinned in
        except BudgetError as error:
            raise BudgetError(f"{run.name}: {error}") from None
        task = str(config.get("task") or run.name).rstrip("/").rpartition("/")[2]
        return cls(
            task,
            str(budget if budget is not None else config.get("budget", "")),
            str(config.get("mode", "")),
            int(config.get("seed", 0)),
            structure,
            run.gates_list,
            structure.budget or structure.n_params,
        )


#: Which pairs a relation holds; budgets are the same when they are the same number of parameters.
RELATIONS: dict[str, Callable[[Found, Found], bool]] = {
    "other seed": lambda a, b: (a.task, a.params, a.mode) == (b.task, b.params, b.mode) and a.seed != b.seed,
    "other task": lambda a, b: (a.params, a.mode) == (b.params, b.mode) and a.task != b.task,
    "other budget": lambda a, b: (a.task, a.mode) == (b.task, b.mode) and a.params != b.params,
    "other mode": lambda a, b: (a.task, a.params, a.seed) == (b.task, b.params, b.seed) and a.mode != b.mode,
}


def relations(found: Iterable[Found | RunLike], *, draws: int = 999, seed: int = 0) -> pd.DataFrame:
    """How far structures agree, by what differs between them; two rows per relation that has pairs.

    Relations: "other seed" (same task, budget and mode), "other task" (same budget and mode, any seeds),
    "other budget" (same task and mode, any seeds), "other mode" (same task, budget and seed).

    Columns: relation; by ("gates", or "params": each gate counted by its parameters); overlap (mean Jaccard over all
    pairs); chance (mean over the draws of that mean, for random structures of the same budgets), low, high (the band
    that holds 95 % of the draws), above (whether overlap > high); p (one-sided: the share of draws that reach the
    overlap, the study itself counted as one, (1 + count) / (1 + draws), Phipson and Smyth 2010); pairs, structures (in
    those pairs). The order of `found` does not matter.

    Args:
        found: two or more; a run, or what names one, stands for `Found.of(run)`.
        draws: random replicates of the whole study.
        seed: of the random structures.

    Raises:
        ConfigError: fewer than two, the same question (task, budget, mode, seed) twice, no pair in any relation, or
            a wrong number of draws.
        StructureError: different backbones, search spaces that share no gate, a gate chosen that is not in the
            space, or sizes that are not known or differ.
        RunError: as `Found.of`.
    """
    records = sorted((f if isinstance(f, Found) else Found.of(open_source(f, allow=RUN)) for f in found), key=_question)
    for a, b in itertools.pairwise(records):
        if _question(a) == _question(b):
            raise ConfigError(
                f"relations: expected each task, budget, mode and seed once, found {a.task}, {a.budget}, "
                f"{a.mode or 'no mode'}, seed {a.seed} twice"
            )
    groups = {}
    for name, holds in RELATIONS.items():
        pairs = [(i, j) for i, j in itertools.combinations(range(len(records)), 2) if holds(records[i], records[j])]
        if pairs:
            groups[name] = pairs
    made = against_chance(records, groups, draws=draws, seed=seed)
    return made.rename(columns={"group": "relation"})


def against_chance(
    records: Sequence[Found],
    groups: Mapping[Any, Sequence[tuple[int, int]]],
    *,
    by: Sequence[str] = ("gates", "params"),
    ranked: bool = True,
    draws: int = 999,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean overlap of the pairs of each group, against what random structures of the same budgets give.

    Args:
        records: two or more.
        groups: which pairs of them, by a name.
        by: ``gates``, ``params``.
        ranked: of units, compare how many a position has. Else only whether it has any; sizes may differ then.
        draws, seed: as of `relations`.

    Returns:
        A row per group and `by`; the columns are those of `relations`, with group in place of relation.

    Raises:
        ConfigError, StructureError: as `relations`.
    """
    if draws < 1:
        raise ConfigError(f"draws: expected 1 or more, found {draws}")
    chosen, places, size = _checked(records, ranked)
    if not groups:
        raise ConfigError(
            "relations: expected two structures that differ in one of task, budget, mode or seed, found none"
        )
    paired = {name: np.array(pairs, dtype=np.int64) for name, pairs in groups.items()}
    drawn = _random(records, places, len(size), draws, seed, ranked)
    rows = []
    sizes = {name: weights for name, weights in (("gates", np.ones(len(size))), ("params", size)) if name in by}
    observed = {name: _means(chosen[None], weights, paired) for name, weights in sizes.items()}
    block = max(1, _BLOCK // chosen.size)
    by_chance = {
        name: np.concatenate([_means(drawn[at : at + block], weights, paired) for at in range(0, draws, block)])
        for name, weights in sizes.items()
    }
    for i, (group, of) in enumerate(paired.items()):
        for name in sizes:
            overlap, chance = float(observed[name][0, i]), by_chance[name][:, i]
            low, high = np.quantile(chance, [0.025, 0.975]).tolist()
            reached = int((chance >= overlap - _ROUNDING).sum())
            rows.append(
                {
                    **{"group": group, "by": name, "overlap": overlap},
                    **{"chance": float(chance.mean()), "low": low, "high": high, "above": bool(overlap > high)},
                    **{"p": (1 + reached) / (1 + draws), "pairs": len(of), "structures": len(np.unique(of))},
                }
            )
    return pd.DataFrame(rows)


def _question(one: Found) -> tuple[str, int, str, int]:
    return one.task, one.params, one.mode, one.seed


def _checked(
    records: Sequence[Found], ranked: bool
) -> tuple[NDArray[np.bool_], list[NDArray[np.int64]], NDArray[np.float64]]:
    """Chosen gates, shape (n_structures, n_gates) over the union of the spaces; each space's places in it; sizes."""
    if len(records) < 2:
        raise ConfigError(f"relations: expected at least two structures, found {len(records)}")
    backbones = sorted({r.structure.backbone for r in records if r.structure.backbone})
    if len(backbones) > 1:
        raise StructureError(f"relations: expected structures of one backbone, found {', '.join(backbones)}")
    union: dict[tuple[str, str], Gate] = {}
    places = []
    for one in records:
        need_sizes(one.every, "relations")
        keys = dict(zip(_keys(one.every, ranked), one.every, strict=True))
        if union and not keys.keys() & union.keys():
            raise StructureError(f"relations: the search space of {one.task} shares no gate with the others")
        if strange := sorted(one.structure.keys - {gate.key for gate in one.every}):
            raise StructureError(f"relations: gate {' '.join(strange[0])} of {one.task} is not in its search space")
        for key, gate in keys.items():
            other = union.setdefault(key, gate)
            if ranked and other.n_params != gate.n_params:
                raise StructureError(
                    f"relations: gate {gate.position} {gate.pet_type} has {gate.n_params:,} parameters in {one.task} "
                    f"and {other.n_params:,} elsewhere"
                )
    index = {key: i for i, key in enumerate(union)}
    chosen = np.zeros((len(records), len(index)), dtype=bool)
    for row, one in zip(chosen, records, strict=True):
        places.append(np.array([index[key] for key in _keys(one.every, ranked)], dtype=np.int64))
        row[[index[key] for key in _keys(one.structure.gates, ranked)]] = True
    return chosen, places, np.array([gate.n_params for gate in union.values()], dtype=np.float64)


def _keys(gates: Iterable[Gate], ranked: bool) -> list[tuple[str, str]]:
    return rank_keys(gates) if ranked else [gate.place for gate in gates]


def _random(
    records: Sequence[Found], places: Sequence[NDArray[np.int64]], n_gates: int, draws: int, seed: int, ranked: bool
) -> NDArray[np.bool_]:
    """Random replicates of the study, shape (draws, n_structures, n_gates); every structure drawn on its own."""
    alike: dict[tuple[bytes, tuple[int, ...], int, int], list[int]] = {}
    for i, (one, place) in enumerate(zip(records, places, strict=True)):
        sizes = tuple(gate.n_params for gate in one.every)
        alike.setdefault((place.tobytes(), sizes, len(one.pinned), one.params), []).append(i)
    seeds = np.random.default_rng(seed).integers(2**63, size=len(alike))
    drawn = np.zeros((draws, len(records), n_gates), dtype=bool)
    for (members, own), one_seed in zip(((m, records[m[0]]) for m in alike.values()), seeds, strict=True):
        counts = [gate.n_params for gate in own.gates]
        left = own.params - sum(gate.n_params for gate in own.pinned)
        made = random_structures(counts, left, draws=draws * len(members), seed=int(one_seed))
        made = np.pad(made, [(0, 0), (0, len(own.pinned))], constant_values=True)
        made = by_rank(made, own.every).reshape(draws, len(members), len(own.every))
        # The first unit of a place is there if any is: not ranked, it stands for all of them.
        first = slice(None) if ranked else np.unique(places[members[0]], return_index=True)[1]
        for k, i in enumerate(members):
            drawn[:, i, places[i][first]] = made[:, k][:, first]
    return drawn


def _means(
    chosen: NDArray[np.bool_], weights: NDArray[np.float64], groups: dict[str, NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Mean Jaccard over each group's pairs, shape (draws, n_groups).

    Args:
        chosen: shape (draws, n_structures, n_gates).
        weights: shape (n_gates,).
        groups: pairs of structures, each shape (n_pairs, 2).
    """
    x = chosen.astype(np.float64)
    both = (x * weights) @ x.transpose(0, 2, 1)  # (draws, n_structures, n_structures)
    size = x @ weights
    union = size[:, :, None] + size[:, None, :] - both
    overlap = np.where(union > 0, both / np.where(union > 0, union, 1), 1.0)
    return np.stack([overlap[:, pairs[:, 0], pairs[:, 1]].mean(axis=1) for pairs in groups.values()], axis=1)
