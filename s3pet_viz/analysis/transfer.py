"""The matrix of a transfer study: structures of source tasks, trained on target tasks."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import pandas as pd

from s3pet_viz.analysis.intervals import Interval, interval
from s3pet_viz.analysis.measures import jaccard, spearman
from s3pet_viz.analysis.one_pass import TaskScores
from s3pet_viz.analysis.study import Study, open_study
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError, StudyError
from s3pet_viz.structure import Gate, Structure

Value = Literal["score", "loss"]
Relative = Literal["own", "random", "full"]
By = Literal["gates", "params"]

#: Methods whose structure has a source.
FROM_SOURCE = ("searched", "consensus", "given")


class Transfer:
    """What structures of source tasks score on target tasks, at one budget.

    Attributes:
        study: the study that it reads.
        budget: the label of the budget. mode: of the searches.
        targets: tasks that structures were trained on (columns).
        sources: where structures come from (rows): tasks that were searched, ``consensus``, names of given structures.
        references: further rows that have no source: ``random``, ``full``, ``head``, ... where they were trained.

    Args:
        study: a study, its folder, or the name of a recorded one.
        budget, mode: which, where the study has several.

    Raises:
        StudyError: not a study; or one without a structure trained on another task than its source.
        ConfigError: a budget or mode that it does not have.
    """

    def __init__(
        self, study: Study | str | os.PathLike[str], *, budget: str | None = None, mode: str | None = None
    ) -> None:
        self.study = open_study(study)
        rows = self.study.table()
        found = rows[rows["method"].isin(FROM_SOURCE)]
        moved = found[found["source"] != found["task"]]
        if moved.empty:
            raise StudyError(f"{self.study.path}: expected structures trained on tasks not their own, found none yet")
        self.budget = _pick("budget", budget, moved)
        self.mode = _pick("mode", mode, moved[(moved["budget"] == self.budget) & (moved["method"] == "searched")])
        at_budget = rows[(rows["budget"] == self.budget) & rows["mode"].isin(["", self.mode])]
        targets = set(moved.loc[moved["budget"] == self.budget, "task"])
        self.targets: list[str] = [t for t in dict.fromkeys(rows["task"]) if t in targets]
        made = at_budget[at_budget["method"].isin(FROM_SOURCE) & at_budget["task"].isin(targets)]
        order = [t for t in self.targets if (made["source"] == t).any()]
        self.sources: list[str] = list(dict.fromkeys([*order, *made["source"]]))
        free = rows[(rows["budget"].isin(["", self.budget])) & rows["task"].isin(targets) & (rows["source"] == "")]
        names = list(dict.fromkeys(free["method"]))
        first = [n for n in ("random", "full", "head") if n in names]
        self.references: list[str] = [*first, *(n for n in names if n not in first)]
        self._rows = pd.concat([made, free], ignore_index=True)
        every = self.study.structures()
        self._structures = {key: every[key] for key in self._rows["key"] if key in every}
        at_home = made[(made["method"] == "searched") & (made["source"] == made["task"])]
        self._own_keys = {(str(r.task), int(r.seed)): str(r.key) for r in at_home.itertuples()}  # type: ignore[arg-type]

    # -- numbers ---------------------------------------------------------------------------------------

    def table(self) -> pd.DataFrame:
        """One row per training.

        Columns: source (a reference's name for those), target, seed, draw, score, metric, loss, kind (``source`` or the
        reference's name), overlap and overlap_params (Jaccard of its structure with the target's own of that seed, by
        gates and by parameters; NaN where either is missing), pet_params, key.
        """
        rows = self._rows
        is_source = rows["method"].isin(FROM_SOURCE)
        overlaps = [self._overlaps(key, task, seed) for key, task, seed in rows[["key", "task", "seed"]].to_numpy()]
        made = rows.assign(
            source=rows["source"].where(is_source, rows["method"]),
            target=rows["task"],
            kind=rows["method"].mask(is_source, "source"),
            overlap=[by_gates for by_gates, _ in overlaps],
            overlap_params=[by_params for _, by_params in overlaps],
        )
        numbers = ["score", "metric", "loss", "kind", "overlap", "overlap_params", "pet_params", "key"]
        return made[["source", "target", "seed", "draw", *numbers]]

    def _overlaps(self, key: str, target: str, seed: int) -> tuple[float, float]:
        """Of a training's structure with the target's own, by gates and by parameters."""
        mine, own = self._structures.get(key), self._own(target, seed)
        if mine is None or own is None:
            return np.nan, np.nan
        return jaccard(mine, own), mine.overlap(own, weighted=True)

    def matrix(self, *, value: Value = "score", relative: Relative | None = None) -> pd.DataFrame:
        """Means over seeds; index sources (and references where `relative` is None), columns targets.

        Args:
            value: ``score`` or ``loss``.
            relative: None, the value itself; ``own``, minus the target's own structure (seed by seed); ``random``,
                minus the mean of the random structures; ``full``, the share of full fine-tuning (value / full's mean).

        Raises:
            ConfigError: another word, or there is nothing to be relative to.
        """
        among("value", value, get_args(Value))
        rows = self.table()
        if relative is None:
            return self._pivot(rows, value, [*self.sources, *self.references], "mean")
        among("relative", relative, get_args(Relative))
        sources = rows[rows["kind"] == "source"]
        if relative == "own" and not (sources["source"] == sources["target"]).any():
            raise ConfigError("relative: expected the targets' own structures in the study, found none")
        if relative != "own" and not (rows["kind"] == relative).any():
            raise ConfigError(f"relative: expected {relative} among the trainings, found {', '.join(self.references)}")
        rows = rows.assign(compared=against(rows, value, relative))
        return self._pivot(rows[rows["kind"] == "source"], "compared", self.sources, "mean")

    def spread(self, *, value: Value = "score") -> pd.DataFrame:
        """Standard deviation over trainings (ddof 1; NaN for one); as `matrix`."""
        among("value", value, get_args(Value))
        return self._pivot(self.table(), value, [*self.sources, *self.references], "std")

    def counts(self) -> pd.DataFrame:
        """Trainings behind each number of `matrix`."""
        return self._pivot(self.table(), "score", [*self.sources, *self.references], "count").fillna(0).astype(int)

    def overlap(self, *, by: By = "gates") -> pd.DataFrame:
        """Mean Jaccard of each source's structure with the target's own; sources x targets."""
        among("by", by, get_args(By))
        rows = self.table()
        column = "overlap" if by == "gates" else "overlap_params"
        return self._pivot(rows[rows["kind"] == "source"], column, self.sources, "mean")

    def correlation(self, *, value: Value = "score") -> float:
        """Spearman's correlation between a source's overlap with the target's own structure and what it scores there,
        off the diagonal, each target's own mean taken out. NaN below three pairs or without spread.
        """
        rows = self.table()
        rows = rows[(rows["kind"] == "source") & (rows["source"] != rows["target"])].dropna(subset=["overlap"])
        cells = rows.groupby(["source", "target"])[[value, "overlap"]].mean()
        if len(cells) < 3:
            return float("nan")
        centred = cells - cells.groupby("target").transform("mean")
        return spearman(centred["overlap"], centred[value])

    def foretold_by(self, agreement: pd.DataFrame, *, value: Value = "score") -> Interval:
        """How well a matrix of agreement between tasks, such as ``s3.score(tasks=[...]).correlation()``, foretells
        where structures transfer: for each target Spearman's correlation, over the tasks that structures come from but
        itself, of the source's agreement with what its structures score there (or, of ``loss``, with less loss).

        Args:
            agreement: tasks x tasks.

        Returns:
            The mean over the targets that have three sources and a spread; its interval as of `analysis.intervals`.

        Raises:
            ConfigError: fewer than two such targets.
        """
        found, sign = self.matrix(value=value), -1 if value == "loss" else 1
        tasks, values = set(agreement.index) & set(agreement.columns), []
        for target in self.targets:
            sources = [s for s in self.sources if s in tasks and s != target and target in tasks]
            if len(sources) > 2:
                values.append(spearman(agreement.loc[sources, target], sign * found.loc[sources, target]))
        known = [v for v in values if np.isfinite(v)]
        if len(known) < 2:
            names = ", ".join(self.targets)
            raise ConfigError(f"agreement: expected it for at least two targets of {names}, found {len(known)}")
        return interval(known)

    def foretold(self, scores: Mapping[str, TaskScores | pd.DataFrame] | TaskScores) -> pd.DataFrame:
        """How well cheap scores foretell where structures transfer, beside what the overlap of the searched structures
        foretells; two rows for each: of the score, and of less loss.

        Columns: by (``overlap``, or the scores' name); value; between_low, between_high (the least and the largest
        agreement between two tasks); correlation, low, high (`foretold_by`: the mean over targets of Spearman's
        correlation, and its 95 % interval, which is widened for few targets and may leave -1 to 1); targets (that it is
        a mean of); pairs (of source and target behind it); settled (whether the interval leaves 0 out); says (in
        words).

        Args:
            scores: ``s3.score(tasks=[...])``; or a mapping of names to such, or to matrices of agreement, tasks x
                tasks.

        Raises:
            ConfigError: not of these; fewer than two targets with three sources that have scores.
        """
        named: dict[str, pd.DataFrame] = {"overlap": self.overlap()}
        if isinstance(scores, TaskScores):
            scores = {next(iter(scores.values())).method: scores}
        if not isinstance(scores, Mapping):
            raise ConfigError(f"scores: expected s3.score(tasks=[...]), or a mapping to such, found {short(scores)}")
        for name, one in scores.items():
            if not isinstance(one, (TaskScores, pd.DataFrame)):
                raise ConfigError(f"scores: {name}: expected s3.score(tasks=[...]) or a DataFrame, found {short(one)}")
            named[str(name)] = one.correlation() if isinstance(one, TaskScores) else one
        rows = []
        for name, agreement in named.items():
            tasks = [t for t in self.targets if t in agreement.index and t in agreement.columns]
            between = agreement.loc[tasks, tasks].to_numpy(dtype=float)[~np.eye(len(tasks), dtype=bool)]
            sources = [s for s in self.sources if s in agreement.index and s in agreement.columns]
            for value in get_args(Value):
                found = self.foretold_by(agreement, value=value)
                settled = bool(found.low > 0 or found.high < 0)
                pairs = sum(len(set(sources) - {target}) for target in tasks)
                what = "a better score" if value == "score" else "less loss"
                said = f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f}) over {found.n} targets: "
                if settled:
                    said += f"more agreement goes with {what if found.mean > 0 else f'no {what}, rather the reverse'}"
                else:
                    said += (
                        f"not shown to foretell {what}; {found.n} targets are few, only a strong relation would show"
                    )
                ends = (np.nanmin(between), np.nanmax(between))
                rows.append((name, value, *ends, found.mean, found.low, found.high, found.n, pairs, settled, said))
        names = "by value between_low between_high correlation low high targets pairs settled says".split()
        return pd.DataFrame(rows, columns=names)

    # -- structures ------------------------------------------------------------------------------------

    def structure(self, source: str, *, seed: int | None = None, target: str | None = None) -> Structure:
        """A source's structure.

        Args:
            seed: None: the first that there is.
            target: needed only for a source whose structure depends on the target (consensus of the others).

        Raises:
            ConfigError: no such source, seed or target.
        """
        rows = self._rows[self._rows["method"].isin(FROM_SOURCE)]
        for name, wanted in (("source", source), ("task", target), ("seed", seed)):
            if wanted is None:
                continue
            found = list(dict.fromkeys(rows[name]))
            rows = rows[rows[name] == wanted]
            if rows.empty:
                word = {"task": "target"}.get(name, name)
                raise ConfigError(f"{word}: expected one of {', '.join(map(str, found))}, found {wanted!r}")
        return self._structures[str(rows["key"].iloc[0])]

    def gates(self) -> list[Gate] | None:
        """Every gate of the search space, where a search of the study is at hand; else None."""
        for run in self.study.runs():
            return list(run.gates_list)
        return None

    def _own(self, target: str, seed: int) -> Structure | None:
        key = self._own_keys.get((target, seed))
        return None if key is None else self._structures[key]

    def _pivot(self, rows: pd.DataFrame, value: str, index: list[str], how: str) -> pd.DataFrame:
        made = rows.groupby(["source", "target"])[value].agg(how).unstack("target")
        made = made.reindex(index=index, columns=self.targets)
        made.index.name, made.columns.name = "source", "target"
        return made

    # -- as text ---------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        n = int(self.counts().loc[self.sources].to_numpy().sum())
        return f"Transfer({len(self.sources)} sources, {len(self.targets)} targets, {self.budget}, {n} trainings)"

    def _repr_html_(self) -> str:
        number, spread, counts = self.matrix(), self.spread(), self.counts()
        head = "".join(f"<th>{html.escape(t)}</th>" for t in self.targets)
        body = ""
        for name in number.index:
            cells = ""
            for target in self.targets:
                mean, std, n = number.loc[name, target], spread.loc[name, target], counts.loc[name, target]
                text = "–" if not np.isfinite(mean) else f"{mean:.3f}" + (f" ± {std:.3f}" if n > 1 else "")
                bold = "font-weight:bold;" if name == target else ""
                cells += f"<td style='{bold}text-align:right' title='n = {n}'>{text}</td>"
            body += f"<tr><th style='text-align:left'>{html.escape(str(name))}</th>{cells}</tr>"
        return (
            f"<p>{html.escape(repr(self))}: mean score on held-out rows; rows: where the structure comes from</p>"
            f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def against(rows: pd.DataFrame, value: str, relative: Relative | None) -> np.ndarray:
    """The value of each training of `Transfer.table`, as `relative` of `Transfer.matrix` says; shape (n_rows,)."""
    values = rows[value].to_numpy(dtype=float)
    if relative is None:
        return values
    own = (rows["kind"] == "source") & (rows["source"] == rows["target"])
    keys, yard = (["target", "seed"], own) if relative == "own" else (["target"], rows["kind"] == relative)
    base = rows[yard].groupby(keys)[value].mean()
    found = rows[keys].join(base, on=keys)[value].to_numpy(dtype=float)
    return values / found if relative == "full" else values - found


def _pick(name: str, wanted: str | None, rows: pd.DataFrame) -> str:
    found = list(dict.fromkeys(rows[name]))
    if wanted is None:
        return str(rows[name].value_counts().index[0]) if found else ""
    if str(wanted) not in found:
        raise ConfigError(f"{name}: expected one of {', '.join(found)}, found {wanted!r}")
    return str(wanted)
