"""Many runs together: a table that sorts and filters, and what people write on runs."""

from __future__ import annotations

import base64
import html
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from s3pet_viz.analysis.run_row import Row, Spaces, read_row, stamp_of
from s3pet_viz.config.checks import among, short
from s3pet_viz.errors import ConfigError, S3PETError
from s3pet_viz.files import is_there, located
from s3pet_viz.runs import Run, layout, open_run
from s3pet_viz.runs.listing import Runs, find_runs
from s3pet_viz.runs.marks import Marks, delete_run, write_marks
from s3pet_viz.structure.units import by_rank

#: Columns of `RunTable.table`.
COLUMNS = (
    "run",
    "name",
    "task",
    "backbone",
    "budget",
    "mode",
    "seed",
    "status",
    "steps",
    "score",
    "metric",
    "gates",
    "parameters",
    "agreement",
    "tags",
    "note",
    "archived",
    "path",
)
_SHOWN = ("name", "task", "backbone", "budget", "mode", "seed", "status", "steps", "score", "agreement", "tags")
_ROWS = 40


def open_runs(runs: Runs, *, archived: bool = False) -> RunTable:
    """Open many runs as a table: those of a folder, three levels deep, or named ones. Arguments, errors: `RunTable`."""
    return RunTable(runs, archived=archived)


class RunTable:
    """Runs of a folder, or named ones: as a table, filtered, and with what people write on them.

    ``table[name]`` and iteration give the runs, opened; figures and `trust` take a table where they take runs.

    Args:
        runs: a folder that holds run directories, or runs, their folders or names.
        archived: with those that are put away.

    Attributes:
        problems: why others were left out, as text.

    Raises:
        ConfigError: no run at all. RunError: a named run (not found in a folder) cannot be opened.
    """

    def __init__(self, runs: Runs, *, archived: bool = False) -> None:
        self.problems: list[str] = []
        self._root: Path | None = None
        self._named: list[Path] = []
        self._rows: dict[str, Row] = {}
        self._archived = archived
        self._spaces: Spaces = {}
        self._seen: dict[Path, tuple[Any, Row]] = {}
        if isinstance(runs, (str, os.PathLike)) and is_there(runs) and not is_there(located(runs) / layout.RUN_JSON):
            self._root = located(runs)
        else:
            named = [runs] if isinstance(runs, (str, os.PathLike, Run)) else runs
            self._named = [open_run(run).path for run in named]
        self.refresh()
        if not self._seen:
            found = f" ({'; '.join(self.problems[:3])})" if self.problems else ""
            raise ConfigError(f"runs: expected at least one run, found none in {self._root or 'what was given'}{found}")

    def refresh(self) -> bool:
        """Look at the runs again: new ones, others' steps, scores and marks; what has not changed is not read again.
        Whether anything is new. Of a table that was filtered or sorted only its own runs.

        Raises:
            RunError: a run that was named, not found in a folder, cannot be read any more.
        """
        self.problems = []
        paths = self._named or (sorted(find_runs(self._root, self.problems)) if self._root else [])
        before, rows = self._rows, dict[str, Row]()
        seen: dict[Path, tuple[Any, Row]] = {}
        for path in paths:
            try:
                stamp = stamp_of(path)
                known = self._seen.get(path)
                label = known[1].run if known else self._label(path, rows)
                row = known[1] if known and known[0] == stamp else read_row(path, label, self._spaces)
            except S3PETError as error:
                if self._root is None:
                    raise
                self.problems.append(str(error))
                continue
            seen[path] = stamp, row
            if self._archived or not row.marks.archived:
                rows[row.run] = row
        self._rows, self._seen = rows, seen
        self.__dict__.pop("_agreement", None)
        return before.keys() != rows.keys() or any(before[label] is not row for label, row in rows.items())

    # -- read ------------------------------------------------------------------------------------------

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Run]:
        return (open_run(row.path) for row in self._rows.values())

    def __getitem__(self, name: str | int) -> Run:
        """A run by its place, its ``run``, or its name where only one has it. Raises ConfigError: none, or several."""
        return open_run(self.row(name).path)

    def row(self, name: str | int) -> Row:
        """As ``table[name]``, not opened."""
        if isinstance(name, int) and not isinstance(name, bool) and -len(self) <= name < len(self):
            return self.rows[name]
        found = [row for row in self.rows if name == row.run] or [row for row in self.rows if name == row.name]
        if len(found) == 1:
            return found[0]
        known = "several" if found else "none"
        some = ", ".join(row.run for row in (found or self.rows)[:5])
        raise ConfigError(f"run: expected one of {len(self)} runs ({some}, ...), found {known} that is {short(name)}")

    def where(self, **values: Any) -> RunTable:
        """The runs whose columns have these values, or one of several; ``tag=`` asks for a tag.

        Raises:
            ConfigError: a column that is not there; no run is left.
        """
        for name in values:
            among("where", name, (*COLUMNS, "tag"))
        table = self.table().set_index("run", drop=False)

        def fits(row: Row) -> bool:
            for name, value in values.items():
                wanted = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
                have = row.marks.tags if name == "tag" else [table.at[row.run, name]]
                if not any(str(one) == str(two) for one in have for two in wanted):
                    return False
            return True

        kept = {key: row for key, row in self._rows.items() if fits(row)}
        if not kept:
            some = {name: sorted(map(str, table[name].unique()))[:6] for name in values if name in table}
            raise ConfigError(f"where: expected values that a run has, found {values}; there are {some}")
        return self._with(kept)

    def sort(self, column: str, ascending: bool | None = None) -> RunTable:
        """The runs in the order of a column. ascending: default: numbers fall, texts rise. Raises ConfigError: no such
        column.
        """
        table = self.table()
        values = table[among("sort", column, COLUMNS)]
        if ascending is None:
            ascending = not pd.api.types.is_float_dtype(values)
        order = values.sort_values(ascending=ascending, kind="stable").index
        return self._with({row.run: row for row in (self.rows[int(i)] for i in order)})

    def table(self) -> pd.DataFrame:
        """One row a run. ``run`` names it in this table (its folder, from the root), ``name`` is the one people gave
        it, or the search's own; ``gates`` and ``parameters`` are of what is chosen; ``agreement`` is the mean overlap
        (Jaccard) of the chosen gates with those of the others here of the same space and budget, NaN where there are
        none.
        """
        made = pd.DataFrame([row.values() for row in self.rows], columns=list(COLUMNS))
        made["seed"] = made["seed"].astype("Int64")
        made["agreement"] = self._agreement
        return made

    # -- write -----------------------------------------------------------------------------------------

    def mark(self, run: str | int, **changes: Any) -> None:
        """Write on a run: ``name=``, ``note=``, ``tags=`` (all of them), ``archived=``. What the search wrote stays.

        Raises:
            ConfigError: no such run, or a value that is none. RunError: it cannot be written.
        """
        row = self.row(run)
        for name in changes:
            among("mark", name, tuple(Marks.__dataclass_fields__))
        marks = write_marks(row.path, **changes)
        if marks.archived and not self._archived:
            self._forget(row)
        else:
            self._rows[row.run] = replace(row, marks=marks)

    def delete(self, *runs: str | int, sure: bool = False) -> None:
        """Delete runs from the disk, for good. Asked twice: without ``sure=True`` it only says what would go.

        Raises:
            ConfigError: not sure, or no such run. RunError: a process holds one, or it cannot be deleted; those
                before it are gone.
        """
        rows = list({row.run: row for row in map(self.row, runs)}.values())
        if not rows:
            raise ConfigError("delete: expected at least one run, found none")
        if not sure:
            named = ", ".join(row.run for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
            size = sum(f.stat().st_size for row in rows for f in row.path.rglob("*") if f.is_file())
            raise ConfigError(
                f"delete: this deletes {len(rows)} run(s), {size / 1e6:.1f} MB, for good: {named}. If that is meant, "
                "the same with sure=True; mark(run, archived=True) only puts a run away"
            )
        for row in rows:
            delete_run(row.path)
            self._forget(row)

    # -- shown -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"RunTable({len(self)} runs)"

    def _repr_html_(self) -> str:
        table = self.table()
        shown = [name for name in _SHOWN if any(said(value) for value in table[name])]
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("", *shown))
        body = []
        for row, values in zip(self.rows[:_ROWS], table.to_dict("records"), strict=False):
            cells = "".join(f"<td style='text-align:left'>{html.escape(said(values[name]))}</td>" for name in shown)
            body.append(f"<tr><td>{image(row)}</td>{cells}</tr>")
        more = f"<p>and {len(self) - _ROWS} more: .table()</p>" if len(self) > _ROWS else ""
        left = (
            f"<p>{len(self.problems)} left out: {html.escape('; '.join(self.problems[:3]))}</p>"
            if self.problems
            else ""
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{more}{left}"

    # -- inside ----------------------------------------------------------------------------------------

    def _forget(self, row: Row) -> None:
        del self._rows[row.run]
        self._seen.pop(row.path, None)
        self._named = [path for path in self._named if path != row.path]
        self.__dict__.pop("_agreement", None)

    def _label(self, path: Path, taken: Mapping[str, Row]) -> str:
        if self._root is not None:
            return path.relative_to(self._root).as_posix()
        label = stem = path.name
        number = 1
        while label in taken:
            number += 1
            label = f"{stem} ({number})"
        return label

    def _with(self, rows: dict[str, Row]) -> RunTable:
        made = RunTable.__new__(RunTable)
        made.__dict__ |= {name: value for name, value in self.__dict__.items() if name != "_agreement"}
        made._rows, made._root, made._named = rows, None, [row.path for row in rows.values()]
        return made

    @cached_property
    def _agreement(self) -> NDArray[np.float64]:
        """Mean Jaccard of each run with the others of its space and budget, shape (n_runs,)."""
        groups: dict[tuple[int, Any], list[int]] = defaultdict(list)
        for i, row in enumerate(self.rows):
            if row.chosen.any():
                groups[id(row.gates), row.info["budget"]].append(i)
        made = np.full(len(self), np.nan)
        for at in groups.values():
            if len(at) < 2:
                continue
            rows = [self.rows[i] for i in at]
            chosen = by_rank(np.stack([row.chosen for row in rows]), rows[0].gates).astype(np.float64)
            both, size = chosen @ chosen.T, chosen.sum(axis=1)
            overlap = both / (size[:, None] + size[None, :] - both)
            made[at] = (overlap.sum(axis=1) - 1) / (len(at) - 1)
        return made


def image_data(row: Row) -> str:
    """A thumbnail in base64."""
    return base64.b64encode(row.thumbnail()).decode()


def image(row: Row) -> str:
    """A thumbnail as an element of HTML."""
    look = "width:88px;height:44px;image-rendering:pixelated"
    return f'<img alt="heatmap" style="{look}" src="data:image/png;base64,{image_data(row)}">'


def said(value: Any) -> str:
    """A value of the table as text; nothing where it is not known."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
