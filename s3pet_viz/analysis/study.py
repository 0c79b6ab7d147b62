"""A study folder, opened: which cells it plans, which are done, and their rows as one tidy table.

study.json        schema version, the calls that planned it (sweep, transfer) with their settings, the planned cells
cells/KEY.json    one finished or failed cell, written as a whole: processes write at once
cells.jsonl       of a study that was packed, those that it had then, one a line; cells/KEY.json goes before a line
cells/KEY.lock    held while a process works on the cell
runs/KEY/         the run directories of its searches; or the search's result names a recorded run (`recorded`)
journal.jsonl     a line per cell begun and ended
"""

from __future__ import annotations

import copy
import html
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from s3pet_viz.analysis import statistics
from s3pet_viz.errors import StudyError
from s3pet_viz.files import is_there, located, parse_json, read_json, read_text
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import Run, open_run
from s3pet_viz.structure import Gate, Structure
from s3pet_viz.structure.pins import searched_of

if TYPE_CHECKING:
    from s3pet_viz.analysis.agreement import Found

SCHEMA_VERSION = 1
KIND = "s3pet_viz.study"
#: The file that holds the cells of a packed study.
PACKED = "cells.jsonl"

#: What names a row, in the order of the table's first columns.
LABELS = ("task", "budget", "budget_params", "method", "mode", "source", "draw", "seed")
#: Of these the whole numbers; the others are text.
_WHOLE = ("budget_params", "draw", "seed")
#: Of a row, what is true or false.
_FLAGS = ("cap_reached", "learned", "task_learned", "meets_budget")
_MEASURED = tuple(
    "score metric loss validation pet_params percent head_params n_gates best_step seconds search_seconds".split()
)
COLUMNS = (*LABELS, *_MEASURED, "key")


class Study:
    """A study folder. Its files are read anew by each call, so a study that still runs can be looked at.

    Attributes:
        path: the folder. name: its name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = located(path)
        self.info: Mapping[str, Any] = _read_info(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def kind(self) -> str:
        """``sweep``, ``transfer``, or both."""
        return " + ".join(dict.fromkeys(str(c["study"]) for c in self.info["calls"]))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments of the last call."""
        return cast("Mapping[str, Any]", self.info["calls"][-1])

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The planned cells: key, kind (search | tune), labels, needs, and what to do."""
        return list(self.info["cells"])

    # -- what came of the cells ------------------------------------------------------------------------

    def result(self, key: str) -> dict[str, Any] | None:
        """What is written of a cell, or None.

        Raises:
            StudyError: the file is damaged.
        """
        return read_result(self.path, key)

    def results(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(cell, result) of every planned cell that has one, in the plan's order."""
        yield from copy.deepcopy(list(self._results()))

    def _results(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """As `results`, but only to be read."""
        for cell in self.info["cells"]:
            found = _read(self.path, cell["key"])
            if found is not None:
                yield cell, found

    def status(self) -> dict[str, int]:
        """Counts: planned, done, failed, missing."""
        states = [r["status"] for _, r in self._results()]
        done, failed = states.count("done"), states.count("failed")
        planned = len(self.info["cells"])
        return {"planned": planned, "done": done, "failed": failed, "missing": planned - done - failed}

    def table(self) -> pd.DataFrame:
        """One row per finished training.

        Columns: task, budget (as given; empty where the method has none), budget_params, method, mode, source, draw,
        seed, score (the task's main metric, named by `metric`), loss (mean over held-out rows), validation (the score
        that chose the weights), pet_params, percent (of the backbone), head_params, n_gates, best_step, seconds,
        search_seconds, key; then steps_taken and cap_reached (of ``auto`` steps, see `tune`; older cells lack them) and
        the task's further metrics.
        """
        rows = [
            {**cell["labels"], **result["row"], "key": cell["key"]}
            for cell, result in self._results()
            if cell["kind"] == "tune" and result["status"] == "done"
        ]
        made = pd.DataFrame(rows)
        return made.reindex(columns=[*COLUMNS, *(c for c in made.columns if c not in COLUMNS)])

    def failed(self) -> pd.DataFrame:
        """One row per failed cell: key, task, method, seed, error (kind and message), attempts."""
        rows = [
            {
                "key": cell["key"],
                **{k: cell["labels"].get(k) for k in ("task", "method", "seed")},
                "error": f"{result['error']['kind']}: {result['error']['message']}",
                "attempts": result.get("attempts", 1),
            }
            for cell, result in self._results()
            if result["status"] == "failed"
        ]
        return pd.DataFrame(rows, columns=["key", "task", "method", "seed", "error", "attempts"])

    def structure(self, key: str) -> Structure:
        """The structure that a cell trained.

        Raises:
            StudyError: the cell is not done, or trained none (full, head).
        """
        result = _read(self.path, key)
        if result is None or result["status"] != "done" or not result.get("structure"):
            raise StudyError(f"{self.path}: cell {key!r} has no structure (not done, or a method without one)")
        return self._structure(key, result)

    def structures(self) -> dict[str, Structure]:
        """The structure of each finished cell that trained one, by key."""
        return {
            cell["key"]: self._structure(cell["key"], result)
            for cell, result in self._results()
            if result["status"] == "done" and result.get("structure")
        }

    def _structure(self, key: str, result: Mapping[str, Any]) -> Structure:
        return Structure.from_dict(copy.deepcopy(result["structure"]), where=f"{self.path}: cell {key}")

    def runs(self) -> list[Run]:
        """The finished searches, opened, in the plan's order; none where the study was passed on without them."""
        folders = [run_folder(self.path, cell["key"]) for cell, _ in self._searches()]
        return [open_run(folder) for folder in folders if folder.is_dir()]

    # -- statistics ------------------------------------------------------------------------------------

    def summary(self) -> pd.DataFrame:
        """Mean, spread, number and interval of each task, budget, method and mode; see `statistics.summary`."""
        return statistics.summary(self.at_home())

    def differences(
        self,
        a: str = "searched",
        b: str = "random",
        *,
        value: statistics.Value = "score",
        scale: statistics.Scale = "raw",
    ) -> pd.DataFrame:
        """a minus b per task and budget (and mode, where there are several) and over all, with intervals.

        See `statistics.differences`; `statistics.sentence` says a row in words.
        """
        rows = self.at_home()
        return statistics.differences(rows, a=a, b=b, by=question(rows), value=value, scale=scale)

    def keeps(self, share: float = 0.99, **options: Any) -> pd.DataFrame:
        """The smallest budget that keeps this share of full fine-tuning, per task; see `statistics.keeps`."""
        return statistics.keeps(self.at_home(), share=share, **options)

    def agreement(self, *, draws: int = 999, seed: int = 0) -> pd.DataFrame:
        """How far the searches agree between seeds, tasks, budgets and modes, against chance: `agreement.relations`.

        A search whose run was not passed on counts by its structure, as long as one run of the study is there to name
        the gates of the search space.

        Raises:
            ConfigError: fewer than two searches, or no two that differ in one thing.
        """
        from s3pet_viz.analysis.agreement import relations

        return relations([one for *_, one in self.found() if one is not None], draws=draws, seed=seed)

    def found(self) -> list[tuple[Mapping[str, Any], Path, Found | None]]:
        """Labels, run folder and structure in its space of each finished search; None where no run names the space.

        Raises:
            RunError: a run is damaged.
        """
        from s3pet_viz.analysis.agreement import Found

        opened = [(cell, result, run_folder(self.path, cell["key"])) for cell, result in self._searches()]
        of_run = {folder: Found.of(open_run(folder)) for *_, folder in opened if folder.is_dir()}
        space = next(iter(of_run.values())).gates if of_run else ()
        made: list[tuple[Mapping[str, Any], Path, Found | None]] = []
        for cell, result, folder in opened:
            one = of_run.get(folder)
            if one is None and space and result.get("structure"):
                structure = searched_of(self._structure(cell["key"], result))
                asked = {name: cell["labels"][name] for name in ("task", "budget", "mode", "seed")}
                one = Found(**asked, structure=structure, gates=space, params=structure.budget or structure.n_params)
            made.append((cell["labels"], folder, one))
        return made

    def space(self) -> tuple[Gate, ...] | None:
        """The gates that its searches chose from, where one's run is at hand. Raises RunError: it is damaged."""
        folders = (run_folder(self.path, cell["key"]) for cell in self.cells if cell["kind"] == "search")
        return next((open_run(folder).gates_list for folder in folders if folder.is_dir()), None)

    def _searches(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The cells of finished searches, with their results."""
        pairs = self._results()
        return [(cell, result) for cell, result in pairs if cell["kind"] == "search" and result["status"] == "done"]

    def at_home(self) -> pd.DataFrame:
        """The rows without structures of other sources: those are a transfer's (`Transfer`)."""
        rows = self.table()
        return rows[(rows["source"] == "") | (rows["source"] == rows["task"])]

    # -- as text ---------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        s = self.status()
        more = "".join(f", {s[k]} {k}" for k in ("failed", "missing") if s[k])
        return f"Study({self.name!r}, {self.kind}, {s['done']} of {s['planned']} cells done{more})"

    def _repr_html_(self) -> str:
        body = f"<p>{html.escape(repr(self))}</p>"
        if len(self.table()):
            body += self.summary().to_html(index=False, float_format="{:.4g}".format, border=0)
        failed = self.failed()
        if len(failed):
            body += "<p>Failed, run again with <code>retry=True</code>:</p>" + failed.to_html(index=False, border=0)
        return body


def question(rows: pd.DataFrame) -> tuple[str, ...]:
    """The columns that tell the questions of a study's table apart: the mode only where there are several."""
    several = rows.loc[rows["mode"] != "", "mode"].nunique() > 1
    return ("task", "budget", "mode") if several else ("task", "budget")


def open_study(path: str | os.PathLike[str] | Study) -> Study:
    """Open a study folder, finished or not, or a recorded study of this package by its name; a `Study` is returned
    as it is. A folder that exists wins over a name.

    Raises:
        StudyError: not a study folder, or of another schema version.
    """
    if isinstance(path, Study):
        return path
    recorded = None if is_there(path) else find_resource("studies", os.fspath(path))
    return Study(recorded or path)


def run_folder(folder: Path, key: str) -> Path:
    """Where the run of a search lies: in the study's folder, or among the recorded runs that its result names."""
    own = folder / "runs" / key
    if own.is_dir():
        return own
    name = (_read(folder, key) or {}).get("recorded")
    recorded = find_resource("runs", name) if isinstance(name, str) else None
    return recorded or own


def read_result(folder: Path, key: str) -> dict[str, Any] | None:
    """What is written of a cell, or None. Raises StudyError: the file is damaged."""
    return copy.deepcopy(_read(folder, key))


def _read(folder: Path, key: str) -> dict[str, Any] | None:
    """As `read_result`, but only to be read: of a packed study it is what was read before."""
    path: Path | str = folder / "cells" / f"{key}.json"
    if is_there(path):
        data = read_json(path, StudyError, hint="; delete it to redo the cell")
    else:
        number, data = packed(folder).get(key, (0, None))
        if data is None:
            return None
        path = f"{folder / PACKED}, line {number}"
    if not isinstance(data, dict) or data.get("status") not in ("done", "failed"):
        raise StudyError(f"{path}: field 'status': expected done or failed; delete it to do the cell again")
    part = "row" if data["status"] == "done" else "error"
    if not isinstance(data.get(part), dict):
        raise StudyError(f"{path}: field {part!r}: expected an object; delete it to do the cell again")
    words = ("metric", "words") if part == "row" else ("kind", "message")
    for name, value in data[part].items():
        if (name in words or part == "row") and not (name in _FLAGS and isinstance(value, bool | None)):
            _check_value(value, name in words, f"{path}: field '{part}.{name}'")
    for name in words if part == "error" else ():
        if name not in data[part]:
            raise StudyError(f"{path}: field '{part}.{name}' is missing; delete it to do the cell again")
    return data


def packed(folder: Path) -> Mapping[str, tuple[int, dict[str, Any]]]:
    """Key -> number and content of its line in cells.jsonl, only to be read; empty where there is none. Raises
    StudyError: the file is damaged.
    """
    path = folder / PACKED
    if not is_there(path):
        return {}
    found = path.stat()
    return _packed(path, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=8)  # a study is read cell by cell
def _packed(path: Path, *_state: int) -> Mapping[str, tuple[int, dict[str, Any]]]:
    lines: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, line in enumerate(read_text(path, StudyError, what="JSON lines").split("\n"), 1):
        if not line:
            continue
        try:
            data = parse_json(line)
            if not isinstance(data, dict) or not isinstance(data.get("key"), str) or not is_plain(data["key"]):
                raise ValueError("expected an object with the cell's 'key', a plain file name")
            if data["key"] in lines:
                raise ValueError(f"the cell {data['key'][:60]!r} is there twice")
        except ValueError as problem:
            first = (str(problem).splitlines() or [""])[0][:200]
            hint = "delete the line to do the cell again"
            raise StudyError(f"{path}, line {number}: it is damaged ({first}); {hint}") from None
        lines[data["key"]] = (number, data)
    return lines


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "study.json"
    if not is_there(path):
        raise StudyError(f"{folder}: expected a study folder (with study.json), found none")
    data = read_json(path, StudyError)
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise StudyError(f"{path}: expected a study of s3pet_viz (field 'kind' is missing)")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise StudyError(f"{path}: expected schema_version {SCHEMA_VERSION}, found {data.get('schema_version')!r}")
    cells = data.get("cells")
    calls = data.get("calls")
    if not isinstance(cells, list) or not isinstance(calls, list) or not calls:
        raise StudyError(f"{path}: fields 'cells' and 'calls': expected lists, 'calls' with at least one entry")
    if not all(isinstance(call, dict) and isinstance(call.get("study"), str) for call in calls):
        raise StudyError(f"{path}: field 'calls': expected objects with a field 'study'")
    keys = set()
    for i, cell in enumerate(cells):
        good = isinstance(cell, dict) and isinstance(cell.get("key"), str) and isinstance(cell.get("labels"), dict)
        if not good or cell.get("kind") not in ("search", "tune") or not is_plain(cell["key"]):
            raise StudyError(f"{path}: cells[{i}]: expected an object with key, kind (search, tune) and labels")
        if cell["key"] in keys:
            raise StudyError(f"{path}: cells[{i}]: field 'key': {cell['key']!r} is there twice")
        keys.add(cell["key"])
        for name in LABELS:
            at = f"{path}: cells[{i}]: field 'labels.{name}'"
            if name in cell["labels"]:
                _check_value(cell["labels"][name], name not in _WHOLE, at, whole=True)
            elif cell["kind"] == "tune":  # its row in the table
                raise StudyError(f"{at} is missing")
    return data


def _check_value(value: object, text: bool, at: str, *, whole: bool = False) -> None:
    """A value that tables can be made of: text, or a number (null: not known). Raises StudyError: it is not; begins
    with `at`.
    """
    kinds: tuple[type, ...] = (str,) if text else (int,) if whole else (int, float, type(None))
    if isinstance(value, bool) or not isinstance(value, kinds):
        word = "text" if text else "a whole number" if whole else "a number or null"
        raise StudyError(f"{at}: expected {word}, found {value!r:.60}")


def is_plain(key: str) -> bool:
    """Whether a key is a plain file name: a stranger's study cannot name files outside its folder."""
    return 0 < len(key) <= 200 and key not in (".", "..") and key.isprintable() and not set("/\\:") & set(key)
