"""Ways to place PET modules, beside each other: what each chose for one task and budget, and how they agree."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
import pandas as pd

from s3pet_viz.analysis.agreement import Found, against_chance
from s3pet_viz.analysis.intervals import Interval, interval
from s3pet_viz.analysis.keeping import is_correlation
from s3pet_viz.analysis.measures import jaccard
from s3pet_viz.analysis.study import Study, open_study
from s3pet_viz.analysis.transfer import Transfer
from s3pet_viz.analysis.ways_missing import SCORED, TRAINED, commands, scored
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError
from s3pet_viz.runs import Run
from s3pet_viz.runs.reader import Budget
from s3pet_viz.sources import Source, open_source
from s3pet_viz.structure import Gate, Structure, parse_budget
from s3pet_viz.structure.pins import searched_of

#: A study, its folder or a recorded study's name; a mapping of names to runs, structures, scores, what names one, what
#: was trained (`Scores`), or a list of these; a list of `Scores`, which have a name of their own.
WaysLike: TypeAlias = "Study | Transfer | str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]"

Key: TypeAlias = tuple[str, str]
F = TypeVar("F", bound=Callable[..., Any])


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


class Choice(TypedDict, total=False):
    """What of a source is compared.

    Attributes:
        task: of a study that has several.
        budget: of a study, as it is written there; None: that of most trainings of the task. Methods without a budget
            (LoRA, BitFit) are beside those of any. Of a mapping: runs and scores are solved at it; structures have
            theirs.
        seed: of a study, of the trainings; None: all.
        methods: which, in this order; None: all.
        space: a run or scores whose gates are the search space of structures that come without one: random structures,
            which say what chance gives, are drawn from it. None: of a study that of its searches; of a mapping that of
            a run or scores in it that holds all gates of the structure.
        compute: score ``gora`` and ``plop`` on the spot for a study that has none: of its task, backbone and budget,
            once for each seed (`s3.score`: seconds each; the task's rows are needed).
    """

    task: str | None
    budget: Budget | None
    seed: int | None
    methods: Sequence[str] | None
    space: Source | None
    compute: bool


def takes_choice(function: F) -> F:
    """Decorator: the signature names `Choice`, which the function takes as keywords."""
    own = inspect.signature(function)
    *named, rest = own.parameters.values()
    choice = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False if name == "compute" else None).replace(
            annotation=getattr(kind, "__forward_arg__", kind)
        )
        for name, kind in Choice.__annotations__.items()
    ]
    more = [] if rest.name == "choice" else [rest]  # there is more that it takes
    function.__signature__ = own.replace(parameters=[*named, *choice, *more])  # type: ignore[attr-defined]
    return function


@takes_choice
def ways_of(source: WaysLike, **choice: Unpack[Choice]) -> Ways:
    """Gather the ways to place that a study, or the caller, has for one task and budget.

    Args:
        source: see `WaysLike`. Of a study its finished trainings, at home: not those of other tasks' structures.
        task, budget, seed, methods, space, compute: see `Choice`.

    Raises:
        ConfigError: a task, budget, seed or method that there is none of; nothing to compare.
        StudyError, SourceError, RunError, StructureError, BudgetError: what is not to be opened, or solved again.
    """
    if unknown := choice.keys() - Choice.__annotations__.keys():
        raise TypeError(f"ways got an unexpected keyword argument {min(unknown)!r}")
    given: dict[str, Any] = {"compute": False, **choice}
    task, budget, seed, methods, space = (given.get(n) for n in ("task", "budget", "seed", "methods", "space"))
    compute = given["compute"]
    if not isinstance(compute, bool):
        raise ConfigError(f"compute: expected True or False, found {short(compute)}")
    if methods is not None and (isinstance(methods, str) or not isinstance(methods, Iterable)):
        raise ConfigError(f"methods: expected a list of names, found {short(methods)}")
    wanted = None if methods is None else list(dict.fromkeys(methods))
    gates = None if space is None else _space(space)
    if isinstance(source, (Study, Transfer, str, os.PathLike)):
        study = source.study if isinstance(source, Transfer) else open_study(source)
        made = _of_study(study, task, budget, seed, gates, compute, wanted)
    else:
        for name, value in (("task", task), ("seed", seed), ("compute", compute or None)):
            if value is not None:
                raise ConfigError(f"{name}: expected a study to choose from, found {short(value)} beside other sources")
        made = _of_mapping(_named(source), budget, gates)
    if wanted is not None:
        by_name = {way.name: way for way in made.ways}
        for name in wanted:
            if isinstance(name, str) and (how := made.missing.get(name)):
                raise ConfigError(f"methods: {name} is not there; it is made by: {how}")
        found = [by_name[among("methods", name, by_name)] for name in wanted]
        made = replace(made, ways=tuple(found), left_out={}, missing={})
    return _comparable(made)


def _space(source: Source) -> tuple[Gate, ...]:
    opened = open_source(source, what="space")
    if isinstance(opened, Structure):
        raise ConfigError("space: expected a run or scores, which know their whole search space, found a structure")
    return opened.gates_list if isinstance(opened, Run) else tuple(opened.gates)


def _of_study(
    study: Study,
    task: str | None,
    budget: Budget | None,
    seed: int | None,
    space: tuple[Gate, ...] | None,
    compute: bool,
    wanted: Sequence[str] | None,
) -> Ways:
    rows = study.at_home()
    tasks = list(dict.fromkeys(rows["task"]))
    if not tasks:
        raise ConfigError(f"ways: {study.name} has no finished training yet")
    task = tasks[0] if task is None and len(tasks) == 1 else among("task", task, tasks)
    rows = rows[rows["task"] == task]
    if seed is not None:
        known = sorted(set(rows["seed"].tolist()))
        if isinstance(seed, bool) or seed not in known:
            raise ConfigError(f"seed: expected one of {', '.join(map(str, known))}, found {short(seed)}")
        rows = rows[rows["seed"] == seed]
    labels = rows.loc[rows["budget"] != "", "budget"]
    if budget is not None:
        budget = among("budget", budget, list(dict.fromkeys(labels)))
    elif len(labels):
        counts = labels.value_counts(sort=False)
        budget = str(counts.index[int(np.argmax(counts.to_numpy()))])
    rows = rows[rows["budget"].isin(["", budget])]
    rows = pd.concat([rows[rows["budget"] != ""], rows[rows["budget"] == ""]])
    several = rows.loc[rows["mode"] != "", "mode"].nunique() > 1
    names = rows["method"] + (" " + rows["mode"] if several else "")
    if space is None:
        space = study.space()
    ways, left_out = [], {}
    for name, part in rows.groupby(names.str.strip(), sort=False):
        placed = [Placed(study.structure(key), space) for key in part.loc[part["n_gates"] > 0, "key"]]
        if placed:
            ways.append(Way(str(name), tuple(placed), tuple(part["score"].astype(float))))
        else:
            left_out[str(name)] = "has no structure"
    params = rows.loc[rows["budget"] != "", "budget_params"]
    metric = str(rows["metric"].iloc[0]) if rows["metric"].nunique() == 1 else ""
    lacking = [] if budget is None else [name for name in (*SCORED, *TRAINED) if name not in set(rows["method"])]
    if compute:
        if budget is None:
            raise ConfigError("compute: expected a study with a budget, found none")
        asked = [name for name in SCORED if name in lacking and (wanted is None or name in wanted)]
        found, out = scored(study, str(task), str(budget), sorted(set(rows["seed"].tolist())), asked)
        if why := next((out[name] for name in asked if name in out and wanted is not None), None):
            raise ConfigError(f"compute: {why}")
        left_out |= out
        ways += [
            Way(name, tuple(Placed(one.structure(), one.gates) for one in each), ()) for name, each in found.items()
        ]
        lacking = [name for name in lacking if name not in asked]
    missing = commands(study, study.at_home(), str(task), str(budget), lacking)
    size = int(params.max()) if len(params) else 0
    return Ways(str(task), str(budget or ""), size, metric, tuple(ways), left_out, missing)


def _named(source: Any) -> dict[str, list[Any]]:
    """Names and what stands for them; of a list of `Scores` by their methods."""
    if isinstance(source, Mapping):
        many = (list, tuple)
        named = {str(name): list(one) if isinstance(one, many) else [one] for name, one in source.items()}
    else:
        if not isinstance(source, Iterable) or isinstance(source, bytes):
            raise ConfigError(f"ways: expected a study, or a mapping of names to structures, found {short(source)}")
        named = {}
        for one in source:
            if not _is_scores(one):
                found = short(one)
                raise ConfigError(f"ways: expected a mapping of names to structures or a list of Scores, found {found}")
            named.setdefault(one.method, []).append(one)
        if len(tasks := {one.task for each in named.values() for one in each}) > 1:
            raise ConfigError(f"ways: expected Scores of one task, found {', '.join(sorted(tasks))}")
    for name, each in named.items():
        if not each:
            raise ConfigError(f"ways: expected at least one structure for {name!r}, found none")
    return named


def _is_scores(one: Any) -> bool:
    """Whether it is a trained structure (`training.Scores`, which what shows does not import)."""
    return isinstance(getattr(one, "metrics", None), Mapping) and hasattr(one, "method") and hasattr(one, "structure")


def _of_mapping(named: Mapping[str, Sequence[Any]], budget: Budget | None, space: tuple[Gate, ...] | None) -> Ways:
    opened: dict[str, list[Any]] = {
        name: [one if _is_scores(one) else open_source(one, what=name) for one in each] for name, each in named.items()
    }
    every = [one for each in opened.values() for one in each]
    spaces = {id(one): _space(one) for one in every if not _is_scores(one) and not isinstance(one, Structure)}
    if budget is not None and not spaces:
        raise ConfigError("budget: expected a run or scores, which can be solved again, found structures alone")

    def placed(one: Any) -> Placed:
        if id(one) in spaces:
            return Placed(one.structure(budget), spaces[id(one)])
        made: Structure = one.structure if _is_scores(one) else one
        keys = searched_of(made).keys
        around = [gates for gates in spaces.values() if keys <= {gate.key for gate in gates}]
        return Placed(made, space or next(iter(around), None))

    ways, left_out = [], {}
    for name, each in opened.items():
        scores = tuple(float(one.score) for one in each if _is_scores(one))
        found = tuple(placed(one) for one in each if not _is_scores(one) or one.structure is not None)
        if found:
            ways.append(Way(name, found, scores))
        else:
            left_out[name] = "has no structure"
    facts = {(one.structure.backbone_params, one.structure.budget) for way in ways for one in way.placed}
    budgets = {own for _, own in facts if own}
    params = budgets.pop() if len(budgets) == 1 else 0
    if budget is not None:
        params = parse_budget(budget, max(total for total, _ in facts)) if max(total for total, _ in facts) else 0
    tasks = {str(one.task) for one in every if _is_scores(one)}
    label = "" if budget is None else str(budget)
    return Ways(tasks.pop() if len(tasks) == 1 else "", label, params, "", tuple(ways), left_out)


def _comparable(made: Ways) -> Ways:
    """Without the ways of another backbone than the first, which share no place with it.

    Raises:
        ConfigError: none is left.
    """
    kept: list[Way] = []
    left_out = dict(made.left_out)
    backbone = ""
    positions: set[str] = set()
    for way in made.ways:
        own = {gate.position for one in way.placed for gate in (*one.structure.gates, *(one.gates or ()))}
        names = {one.structure.backbone for one in way.placed} - {""}
        if kept and ((backbone and names - {backbone}) or (not (backbone and names) and not own & positions)):
            other = f"is for {', '.join(sorted(names))}" if names - {backbone} else "shares no position with the others"
            left_out[way.name] = other
            continue
        backbone, positions = backbone or next(iter(sorted(names)), ""), positions | own
        kept.append(way)
    if not kept:
        why = "; ".join(f"{name} {word}" for name, word in left_out.items())
        raise ConfigError(f"ways: expected at least one structure, found none{f' ({why})' if why else ''}")
    return replace(made, ways=tuple(kept), left_out=left_out)
