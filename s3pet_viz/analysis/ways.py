"""Ways to place PET modules, beside each other: what each chose for one task and budget, and how they agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from s3pet_viz.analysis.agreement import Found, against_chance
from s3pet_viz.analysis.intervals import Interval, interval
from s3pet_viz.analysis.keeping import is_correlation
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.pins import searched_of

Key: TypeAlias = tuple[str, str]


class Placed(NamedTuple):
    """One structure that a way made. `gates`: the search space that it is from; None where that is not known."""

    structure: Structure
    gates: tuple[Gate, ...] | None


class Way(NamedTuple):
    """A way to place: its structures, one for each seed, and what they scored (where they were trained)."""

    name: str
    placed: tuple[Placed, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Ways:
    """Several ways to place, of one backbone.

    Attributes:
        task, budget: as the study names them; "" where each way has its own.
        params: the budget in parameters; 0 where the ways have different ones.
        metric: what the scores are; "" where not known.
        ways: in the order in which they are drawn.
        left_out: what could not be compared, by name, and why.
        missing: of a study, ways to place that it could have, and the call that would make each.
    """

    task: str
    budget: str
    params: int
    metric: str
    ways: tuple[Way, ...]
    left_out: Mapping[str, str]
    missing: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ranked(self) -> bool:
        """Whether the ranks of units are compared: not where others have whole gates at the same places."""
        kinds: dict[Key, set[bool]] = {}
        for gate in self._every():
            kinds.setdefault(gate.place, set()).add(gate.unit is None)
        return all(len(found) == 1 for found in kinds.values())

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """A gate for each place (position and PET type) that any of the ways chose, or could have chosen."""
        leads: dict[Key, Gate] = {}
        for gate in self._every():
            leads.setdefault(gate.place, gate)
        return tuple(leads.values())

    def _every(self) -> Iterable[Gate]:
        seen: set[int] = set()
        for one in itertools.chain.from_iterable(way.placed for way in self.ways):
            yield from one.structure.gates
            if one.gates is not None and id(one.gates) not in seen:
                seen.add(id(one.gates))
                yield from one.gates

    def cells(self) -> pd.DataFrame:
        """One row per way and place: method, row, column, position, pet_type, share (of the way's structures that have
        a gate there; NaN where none of them could have), units (mean number of them chosen), most (whether more than
        half of them have one), structures, place (its number among `gates`).
        """
        parts = []
        for way in self.ways:
            sets = [{gate.place for gate in one.structure.gates} for one in way.placed]
            share = np.array([np.mean([gate.place in found for found in sets]) for gate in self.gates])
            most = share > 0.5
            units: dict[Key, float] = {}
            for one in way.placed:
                for gate in one.structure.gates:
                    if gate.unit is not None:
                        units[gate.place] = units.get(gate.place, 0.0) + 1 / len(way.placed)
            if all(one.gates is not None for one in way.placed):
                able = {gate.place for one in way.placed for gate in one.gates or ()}
                outside = np.array([gate.place not in able for gate in self.gates], dtype=bool)
                share[outside & (share == 0)] = np.nan
            facts = [(g.row, g.column, *g.place, units.get(g.place, 0.0)) for g in self.gates]
            part = pd.DataFrame(facts, columns=["row", "column", "position", "pet_type", "units"])
            part.insert(0, "method", way.name)
            part.insert(5, "share", share)
            parts.append(part.assign(most=most, structures=len(sets), place=range(len(part))))
        return pd.concat(parts, ignore_index=True)

    def pairs(self, *, draws: int = 199) -> pd.DataFrame:
        """One row per pair of ways, of a way with itself too (between its structures): a, b, overlap (mean Jaccard over
        all pairs of their structures; NaN for a single one with itself), chance, low, high (the mean of random
        structures of the same budgets and search spaces, and the band of 95 % of the draws; NaN where a search space is
        not known), above (whether overlap > high), pairs.

        Where `ranked` is false, places are compared and not ranks.
        """
        n = len(self.ways)
        at = list(itertools.accumulate((len(way.placed) for way in self.ways), initial=0))
        groups = {
            (i, j): [
                (a, b) for a, b in itertools.product(range(at[i], at[i + 1]), range(at[j], at[j + 1])) if i < j or a < b
            ]
            for i, j in itertools.combinations_with_replacement(range(n), 2)
        }
        placed = [one for way in self.ways for one in way.placed]
        keys = [self._keys(one.structure) for one in placed]
        by_chance = self._chance(placed, groups, draws)
        rows = []
        for (i, j), of in groups.items():
            overlap = float(np.mean([jaccard(keys[a], keys[b]) for a, b in of])) if of else float("nan")
            chance, low, high = by_chance.get((i, j), (float("nan"),) * 3)
            names = (self.ways[i].name, self.ways[j].name)
            rows.append((*names, overlap, chance, low, high, overlap > high, len(of)))
        return pd.DataFrame(rows, columns=["a", "b", "overlap", "chance", "low", "high", "above", "pairs"])

    def table(self, *, draws: int = 199) -> pd.DataFrame:
        """One row per way: method, structures (how many), gates and params (means), of_budget (mean params over the
        budget; NaN where it has none), score, low, high (mean, and its interval, `analysis.intervals`; NaN where not
        known; of scores from 0 to 1 cut at 0 and 1, which no mean of them can pass), n (trainings), metric, overlap,
        chance, above (with the first, as in `pairs`).
        """
        rows = []
        for way, pair in zip(self.ways, self.pairs(draws=draws).iloc[: len(self.ways)].to_dict("records"), strict=True):
            sizes = [one.structure.n_params for one in way.placed]
            budgets = [self.params or one.structure.budget or 0 for one in way.placed]
            of = np.mean([n / b if b else np.nan for n, b in zip(sizes, budgets, strict=True)])
            score = _within_scores(interval(way.scores), way.scores, self.metric) if way.scores else None
            rows.append(
                {
                    **{"method": way.name, "structures": len(sizes)},
                    **{"gates": np.mean([len(one.structure) for one in way.placed]), "params": np.mean(sizes)},
                    "of_budget": of,
                    **dict(zip(("score", "low", "high"), score or (np.nan,) * 3, strict=False)),
                    **{"n": len(way.scores), "metric": self.metric if way.scores else ""},
                    **{name: pair[name] for name in ("overlap", "chance", "above")},
                }
            )
        return pd.DataFrame(rows)

    def _keys(self, structure: Structure) -> frozenset[Key]:
        return structure.rank_keys if self.ranked else frozenset(gate.place for gate in structure.gates)

    def _chance(
        self, placed: Sequence[Placed], groups: Mapping[Key, Sequence[tuple[int, int]]] | Mapping[Any, Any], draws: int
    ) -> dict[Any, tuple[float, float, float]]:
        """Mean and band of random structures, with the pinned gates of each, of the groups in known spaces."""
        records: dict[int, Found] = {}
        sizes: dict[Key, int] = {}
        for i, one in enumerate(placed):
            searched = searched_of(one.structure).keys
            if not one.gates or not searched <= {gate.key for gate in one.gates}:
                continue
            pinned = tuple(gate for gate in one.structure.gates if gate.key not in searched)
            known = {gate.key: gate.n_params for gate in (*one.gates, *pinned)}
            if min(known.values()) < 1 or (
                self.ranked and any(sizes.setdefault(key, n) != n for key, n in known.items())
            ):
                continue
            params = one.structure.budget or one.structure.n_params
            records[i] = Found("", "", "", i, one.structure, one.gates, params, pinned)
        place = {i: k for k, i in enumerate(records)}
        asked = {
            name: [(place[a], place[b]) for a, b in of]
            for name, of in groups.items()
            if of and all(a in place and b in place for a, b in of)
        }
        if not asked:
            return {}
        made = against_chance(list(records.values()), asked, by=("gates",), ranked=self.ranked, draws=draws)
        return {row["group"]: (row["chance"], row["low"], row["high"]) for row in made.to_dict("records")}


def _within_scores(found: Interval, scores: Sequence[float], metric: str) -> Interval:
    """The interval, of scores from 0 to 1 (of a correlation from -1) within them: widened for few values it may leave
    what their mean can be.
    """
    least = -1.0 if is_correlation(metric) else 0.0
    if not all(least <= score <= 1 for score in scores):
        return found
    return found._replace(low=np.maximum(found.low, least), high=np.minimum(found.high, 1.0))
