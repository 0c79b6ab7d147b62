"""Reading a run directory, whether its writer runs, is dead, or finished last month."""

from __future__ import annotations

import asyncio
import html
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from s3pet_viz import files
from s3pet_viz.errors import RunError
from s3pet_viz.files import is_there, named_in
from s3pet_viz.resources import find_resource
from s3pet_viz.runs import layout
from s3pet_viz.runs.apart import Apart
from s3pet_viz.runs.heads import Row, StepHeads
from s3pet_viz.runs.status import RECENT, said_status, seconds_left
from s3pet_viz.runs.steps import COLUMNS, StepLog
from s3pet_viz.runs.waiting import POLL, until_ended
from s3pet_viz.structure import Gate, Structure, parse_budget, probabilities, ranks, select, solve_shift
from s3pet_viz.structure.budget import check_budget
from s3pet_viz.structure.pins import left_for, pins_said, searched_of

Budget = str | int | float

#: Steps from the end that are read alone; more are read with the whole log.
_FEW = 64


def open_run(path: str | os.PathLike[str] | Run) -> Run:
    """Open a run directory, or a recorded run of this package by its name; a `Run` is returned as it is.

    A folder that exists wins over a name.

    Raises:
        RunError: missing, foreign, of another version or damaged; names the file and what is wrong.
    """
    if isinstance(path, Run):
        return path
    recorded = None if is_there(path) else find_resource("runs", os.fspath(path))
    return Run(recorded or path)


class Run(Apart):
    """A run directory, opened for reading. Every call sees what the writer has added meanwhile.

    Steps are addressed by their number as recorded; negative numbers count from the last row.

    Attributes:
        path: the directory.
        gates_list: the gates that are searched, shape (n_gates,); neither `inert` nor pinned ones.

    Raises:
        RunError: as `open_run`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(Path(path))
        n_gates = self.info["n_gates"]
        layout.check_entries(self.path)
        self.gates_list: tuple[Gate, ...] = layout.gates_from_parquet(self.path / layout.GATES, n_gates)
        if len(self.gates_list) != n_gates:
            raise RunError(
                f"{self.path / layout.RUN_JSON}: field 'n_gates': expected {len(self.gates_list)} "
                f"as in {layout.GATES}, found {n_gates}"
            )
        self._counts = np.array([g.n_params for g in self.gates_list], dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self._heads = StepHeads(self.path, len(self.gates_list))
        self._log = StepLog(self.path, len(self.gates_list))

    def _renewed(self, info: Mapping[str, Any]) -> None:
        if layout.gates_from_parquet(self.path / layout.GATES, info["n_gates"]) != self.gates_list:
            raise RunError(f"{self.path}: another run, with other gates, lies here since; open it again")
        for name in ("inert", "redundant", "pinned_in", "pinned_out"):
            vars(self).pop(name, None)
        self._forget()

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decided the run. A folder that it names is found from the run's own, see `files.named_in`."""
        config: dict[str, Any] = self.info["config"]
        named = {k: config[k] for k in ("task", "backbone", "start_from") if isinstance(config.get(k), str)}
        return {**config, **{k: named_in(v, self.path, self.info.get("place")) for k, v in named.items()}}

    @property
    def candidates(self) -> tuple[Gate, ...]:
        """Every gate that a structure of this space may have: those searched, those pinned in, those pinned out."""
        return (*self.gates_list, *self.pinned_in, *self.pinned_out)

    @property
    def n_steps(self) -> int:
        """Rows of the step log so far."""
        return len(self._head())

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the last step; None unless it runs, see `status.seconds_left`."""
        latest = self.steps(last=RECENT)
        step = int(latest["step"].iloc[-1]) if len(latest) else 0
        return seconds_left(step, latest["seconds"].to_numpy(), self.info["steps_total"], self.status)

    @property
    def counts(self) -> np.ndarray:
        """Parameters of each gate, int64, shape (n_gates,)."""
        return self._counts.copy()

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> Run:
        """Block until the search has ended, however it ends (see `status`, `error`). A paused one is waited for.

        Args:
            timeout: in seconds; None: for ever.
            progress: show a bar of the steps.

        Raises:
            TimeoutError: it has not ended by then; it goes on.
        """
        for _ in until_ended(self, lambda: self.n_steps, timeout, progress):
            time.sleep(POLL)
        return self

    async def finished(self, timeout: float | None = None, *, progress: bool = False) -> Run:
        """`wait`, for a notebook: ``await run.finished()`` lets the messages of widgets through meanwhile.

        Raises:
            TimeoutError: as `wait`.
        """
        for _ in until_ended(self, lambda: self.n_steps, timeout, progress):
            await asyncio.sleep(POLL)
        return self

    # -- tables ----------------------------------------------------------------------------------------

    def gates(self) -> pd.DataFrame:
        """One row per gate: index, position, stack, layer, module, pet_type, n_params, options, row, column;
        once there are steps also final p and alpha, rank (1 = highest alpha) and selected. `redundant_beside`, where it
        was measured: the gates beside which this one adds nothing (`redundant`), by name.
        """
        table = pd.DataFrame([{**g.to_dict(), "row": g.row, "column": g.column} for g in self.gates_list])
        if "redundant" in self.info:
            beside = self.redundant_beside()
            table["redundant_beside"] = [", ".join(beside.get(g.key, ())) for g in self.gates_list]
        if self.n_steps:
            alpha = self.alpha()
            chosen = self.structure().keys
            selected = [g.key in chosen for g in self.gates_list]
            table = table.assign(p=self.p(), alpha=alpha, rank=ranks(alpha), selected=selected)
        return table

    def steps(self, last: int | None = None) -> pd.DataFrame:
        """One row per step: step, seconds, zeta, train_loss, val_loss, lr, and in `alpha` and `p` an array,
        float32, shape (n_gates,), that must not be written to.

        Args:
            last: only so many rows from the end.
        """
        heads = self._head()
        found: dict[str, np.ndarray]
        if last is not None and last <= _FEW:
            found = heads.last(last)
        else:
            log = self._whole()
            first = max(0, len(log) - last) if last is not None else 0
            found = {name: log.column(name)[first:] for name in COLUMNS}
        columns: dict[str, Any] = {name: found[name].copy() for name in layout.SCALARS}
        for name in ("alpha", "p"):
            columns[name] = rows = np.empty(len(found[name]), dtype=object)
            rows[:] = list(found[name])
        return pd.DataFrame(columns)

    def alphas(self) -> np.ndarray:
        """alpha at every step, float32, read-only, shape (n_steps, n_gates); not copied."""
        return self._whole().column("alpha")

    def ps(self) -> np.ndarray:
        """p at every step, float32, read-only, shape (n_steps, n_gates); not copied."""
        return self._whole().column("p")

    def alpha(self, step: int = -1) -> np.ndarray:
        """alpha at one step, float32, read-only, shape (n_gates,). Raises RunError: no such step."""
        alpha: np.ndarray = self._at(step)["alpha"][0]
        return alpha

    def p(self, step: int = -1, budget: Budget | None = None) -> np.ndarray:
        """p at one step, shape (n_gates,): as recorded (float32), or with the shift solved again for another
        budget (float64).

        Raises:
            RunError: no such step.
            BudgetError: the budget cannot be parsed, or is no more than the gates pinned in have.
        """
        if budget is None:
            p: np.ndarray = self._at(step)["p"][0]
            return p
        alpha, tau = self.alpha(step), float(self.info["tau"])
        return probabilities(alpha, solve_shift(alpha, self._counts, self.searched_budget(budget), tau), tau)

    def trace(self, gates: Sequence[int | str] | None = None, step_stride: int = 1) -> pd.DataFrame:
        """Tidy slice of the step log: step, gate, row, column, p, alpha; one row per step and gate.

        Args:
            gates: indices, or text: a position, ``"position PET type"``, a row
                (``SelfAttn.Q · LoRA``), a column (``E.3``) or ``"column row"``. None: all.
            step_stride: every so many steps; the last one always.

        Raises:
            RunError: a gate that this run does not have, or a stride below 1.
        """
        if step_stride < 1:
            raise RunError(f"step_stride: expected 1 or more, found {step_stride}")
        chosen = np.array(self._gate_indices(gates), dtype=np.int64)
        log = self._whole()
        rows = np.arange(0, len(log), step_stride)
        if len(rows) and rows[-1] != len(log) - 1:
            rows = np.append(rows, len(log) - 1)
        shown = [self.gates_list[i] for i in chosen]
        cells = np.ix_(rows, chosen)
        return pd.DataFrame(
            {
                "step": np.repeat(log.column("step")[rows], len(chosen)),
                "gate": np.tile(chosen, len(rows)),
                "row": [gate.row for gate in shown] * len(rows),
                "column": [gate.column for gate in shown] * len(rows),
                "p": log.column("p")[cells].ravel(),
                "alpha": log.column("alpha")[cells].ravel(),
            }
        )

    def evals(self) -> pd.DataFrame:
        """One row per evaluation, in order; those that a resume superseded are left out.

        Raises:
            RunError: a line is damaged (half a line at the end is not: it is being written), or there is more than a
                table can hold.
        """
        records = []
        firsts = self._head().first_steps
        for record in layout.read_evals(self.path):
            part, step = record.pop("part", None), record.get("step")
            later = firsts[part + 1 :] if isinstance(part, int) else []
            if not (isinstance(step, (int, float)) and any(step >= first for first in later)):
                records.append(record)
        return pd.DataFrame(records)

    # -- results ---------------------------------------------------------------------------------------

    def structure(self, budget: Budget | None = None, step: int = -1, *, pinned: bool = True) -> Structure:
        """The structure this run chose, or would choose at another budget or step.

        Args:
            pinned: with the gates that were pinned in. Without them it is what the search alone chose, and its budget
                what they leave.

        Raises:
            RunError: no such step, or structure.json is damaged or names no budget.
            BudgetError: the budget cannot be parsed, or is below the smallest module, or no more than the gates pinned
                in have.
            StructureError: structure.json is damaged.
        """
        own = self.path / layout.STRUCTURE
        if budget is None and step == -1 and os.path.lexists(own):
            with layout.run_errors():
                files.refuse_special(own, links=False)
            made = Structure.load(own)
            return made if pinned else searched_of(made)
        params, left = self._parameters(budget), self.searched_budget(budget)
        if left < int(self._counts.min()):
            check_budget(self._counts, left)  # raises, naming the smallest module
        row = self._at(step)
        indices = select(row["alpha"][0], self._counts, left)
        source = {"run": self.name, "step": int(row["step"][0])}
        source |= {key: self.config[key] for key in ("task", "mode", "seed", "space") if key in self.config}
        source |= {"task_learned": self.pruning["task"]} if "task" in self.pruning else {}
        source |= pins_said(self.pinned_in, self.config.get("pin"))
        made = Structure(
            gates=(*(self.gates_list[i] for i in indices), *self.pinned_in),
            backbone=self.info["backbone"] or "",
            backbone_params=self.info["backbone_params"] or 0,
            budget=params,
            source=source,
        )
        return made if pinned else searched_of(made)

    def searched_budget(self, budget: Budget | None = None) -> int:
        """What the gates pinned in leave of the run's own or another budget, in parameters: what is searched under.

        Raises:
            RunError: the run names no budget. BudgetError: it cannot be parsed, or they leave nothing.
        """
        return left_for(self._parameters(budget), self.pinned_in)

    def scores(self) -> dict[str, Any] | None:
        """Scores of the tuned structure; None before it was tuned. Raises RunError: scores.json is damaged."""
        path = self.path / layout.SCORES
        if not os.path.lexists(path):
            return None
        found = layout.read_json(path)
        metrics = found.get("metrics", {})
        if not isinstance(metrics, dict):
            raise RunError(f"{path}: field 'metrics': expected an object, found {type(metrics).__name__}")
        score = metrics.get("score")
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise RunError(f"{path}: field 'metrics.score': expected a number or null, found {score!r:.60}")
        return found

    # -- shown -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        total = self.info["steps_total"]
        steps = f"{self.n_steps}/{total}" if total else str(self.n_steps)
        status = "finished early" if self.early_stop else self.status
        return f"Run({self.name!r}, {status}, {steps} steps, {len(self.gates_list)} gates)"

    def _repr_html_(self) -> str:
        info, losses = self.info, self.steps(last=1)[["train_loss", "val_loss"]].to_numpy().ravel()
        budget, params, total = info["budget"], info["backbone_params"], info["steps_total"]
        share = f" = {budget / params:.4%}" if budget and params else ""
        rows = {
            "status": said_status(self.status, self.early_stop),
            **{key: self.config.get(key) for key in ("task", "mode", "seed")},
            "backbone": info["backbone"],
            "budget": f"{budget:,} parameters{share}" if budget else None,
            "gates": f"{len(self.gates_list):,}",
            "steps": f"{self.n_steps:,} of {total:,}" if total else f"{self.n_steps:,}",
            "last loss": "{:.4g} train, {:.4g} validation".format(*losses) if len(losses) else None,
            "error": self.error or None,
        }
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for key, value in rows.items()
            if value is not None
        )
        return f"<p><b>{html.escape(self.name)}</b></p><table><tbody>{body}</tbody></table>"

    # -- inside ----------------------------------------------------------------------------------------

    def _head(self) -> StepHeads:
        """The step log's heads, as they are now; of this run, or of none."""
        _ = self.info  # sees another run in this one's place
        self._heads.refresh()
        return self._heads

    def _whole(self) -> StepLog:
        """The whole step log, as it is now."""
        _ = self.info
        self._log.refresh()
        return self._log

    def _at(self, step: int) -> Row:
        """A recorded step."""
        heads = self._head()
        if not len(heads):
            raise RunError(f"{self.path}: no steps recorded yet")
        row = len(heads) + step if step < 0 else heads.find(step)
        if row is None or not 0 <= row < len(heads):
            first, last = (int(heads.row(at)["step"][0]) for at in (0, -1))
            raise RunError(
                f"{self.path}: step {step} is not recorded; expected one of {first} to {last} ({len(heads)} rows)"
            )
        return heads.row(row)

    def _parameters(self, budget: Budget | None) -> int:
        """A budget in parameters; the run's own for None."""
        where = self.path / layout.RUN_JSON
        if budget is None:
            if not self.info["budget"]:
                raise RunError(f"{where}: field 'budget' is missing; give a budget")
            return int(self.info["budget"])
        if self.info["backbone_params"]:
            return parse_budget(budget, self.info["backbone_params"])
        if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0:
            return budget
        raise RunError(f"{where}: field 'backbone_params' is missing; give the budget as a whole number of parameters")

    def _gate_indices(self, gates: Sequence[int | str] | None) -> list[int]:
        if gates is None:
            return list(range(len(self.gates_list)))
        chosen: dict[int, None] = {}
        for wanted in [gates] if isinstance(gates, (int, str)) else gates:
            if isinstance(wanted, str):
                found = [g.index for g in self.gates_list if wanted in g.names]
            else:
                found = [int(wanted)] if 0 <= wanted < len(self.gates_list) else []
            if not found:
                raise RunError(
                    f"gate {wanted!r}: this run has none such; expected an index below "
                    f"{len(self.gates_list)}, a position ({self.gates_list[0].position}), "
                    f"a row ({self.gates_list[0].row}) or a column ({self.gates_list[0].column})"
                )
            chosen |= dict.fromkeys(found)
        return list(chosen)
