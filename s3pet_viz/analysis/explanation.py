"""What each gate of a tuned structure is worth: the result of `explain`, its file, and its reader."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s3pet_viz import files
from s3pet_viz.analysis._table import html_table
from s3pet_viz.analysis.measures import spearman
from s3pet_viz.errors import RunError, StructureError
from s3pet_viz.files import check_ending, check_kind, is_folder, is_there, located, write_json_atomic
from s3pet_viz.runs import Run, RunWriter
from s3pet_viz.runs.layout import EXPLAIN, RUN_JSON, read_json
from s3pet_viz.sources import A_RUN, RUN, RunLike, open_source
from s3pet_viz.structure import Gate
from s3pet_viz.structure.structure import gate_from_dict

SCHEMA_VERSION = 1
KIND = "s3pet_viz.explanation"
#: Numbers of a gate that may be missing, in the order of the table.
_NUMBERS = ("p", "alpha", "rank", "loss_increase", "loss_increase_se", "metric_change", "gradient")
#: A loss increase within so many standard errors of zero is called noise (about 95 %).
NOISE = 2.0
_NAN = float("nan")


@dataclass(frozen=True)
class GateEffect:
    """One gate of a tuned structure, and what it is worth. What is not known is NaN.

    Attributes:
        gate: the gate.
        p, alpha, rank: at the end of the search (rank 1 = highest alpha of the whole space).
        loss_increase: mean over the rows of (loss with this gate at 0 - loss with every gate at 1).
        loss_increase_se: its standard error, from the paired differences of the rows.
        metric_change: the task's score with this gate at 0 minus the score with every gate at 1.
        gradient: -dL/dz at z = 1, the first-order estimate of `loss_increase`.
    """

    gate: Gate
    p: float = _NAN
    alpha: float = _NAN
    rank: float = _NAN
    loss_increase: float = _NAN
    loss_increase_se: float = _NAN
    metric_change: float = _NAN
    gradient: float = _NAN

    def texts(self) -> list[str]:
        """p, rank, loss increase, its standard error, metric change and gradient as text; – for what is not known."""
        forms = {"p": ".3f", "rank": ".0f", "loss_increase": "+.4f", "loss_increase_se": ".4f"}
        forms |= {"metric_change": "+.4f", "gradient": "+.4f"}
        return [shown(getattr(self, name), form) for name, form in forms.items()]

    @property
    def clear(self) -> bool:
        """Whether the loss moves by more than the noise between rows: over `NOISE` standard errors."""
        return abs(self.loss_increase) > NOISE * self.loss_increase_se


@dataclass(frozen=True)
class Explanation:
    """What each gate of one tuned structure is worth on the validation rows of a task.

    Attributes:
        effects: one per gate of the structure, in index order.
        task, backbone: names.
        run: name of the run that the structure came from, "" for a structure of its own.
        seed, steps, best_step: of the tuning; another seed tunes other weights and gives other numbers.
        n_rows: validation rows that were measured.
        loss: mean loss of these rows with every gate open, in `unit`.
        score: the task's score on these rows with every gate open; NaN where it was not asked for.
        metrics: what the score is the mean of.
        unit: of the loss: ``nats``, ``squared error`` for a regression head, or the name of a loss of the user's.
        measured: ``rows``, or ``batches`` in their place where a loss of the user's gives one number of each.
    """

    effects: tuple[GateEffect, ...]
    task: str
    backbone: str
    run: str = ""
    seed: int = 0
    steps: int = 0
    best_step: int = 0
    n_rows: int = 0
    loss: float = _NAN
    score: float = _NAN
    metrics: tuple[str, ...] = ()
    unit: str = "nats"
    measured: str = "rows"

    # -- reading ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.effects)

    @property
    def table(self) -> pd.DataFrame:
        """One row per gate: gate (index), row, column, pet_type, n_params, p, alpha, rank, loss_increase,
        loss_increase_se, metric_change, gradient, position; see `GateEffect`.
        """
        of_gate = {"gate": "index", **{name: name for name in ("row", "column", "pet_type", "n_params")}}
        rows = [
            {name: getattr(e.gate, of) for name, of in of_gate.items()}
            | {name: float(getattr(e, name)) for name in _NUMBERS}
            | {"position": e.gate.position}
            for e in self.effects
        ]
        return pd.DataFrame(rows)

    @property
    def rho(self) -> float:
        """Spearman's rank correlation of p and the loss increase over the gates; NaN where it is not defined."""
        return spearman([e.p for e in self.effects], [e.loss_increase for e in self.effects])

    @property
    def summary(self) -> str:
        """One or two sentences: does p say which gates matter?"""
        clear = sum(e.clear for e in self.effects)
        said = (
            f"{clear} of {len(self)} gates move the validation loss by more than {NOISE:g} standard errors "
            f"({self.n_rows:,} {self.measured})."
        )
        if math.isnan(self.rho):
            return f"{said} The rank correlation of p and loss increase is not defined here."
        said += f" Spearman's rho of p and loss increase: {self.rho:+.2f}, n = {len(self)} gates"
        if len(self) < 5:
            return f"{said}, too few to say more."
        # Normal approximation of rho under independence: standard deviation 1 / sqrt(n - 1).
        return f"{said} (unrelated numbers exceed ±{min(1.0, 1.96 / math.sqrt(len(self) - 1)):.2f} once in 20)."

    def __repr__(self) -> str:
        return (
            f"Explanation({len(self)} gates on {self.task}, {self.n_rows:,} validation {self.measured}, "
            f"loss {self.loss:.4f}, rho {self.rho:+.2f})"
        )

    def _repr_html_(self) -> str:
        names = ("gate", "parameters", "p", "rank", "loss increase", "± s.e.", "metric change", "gradient estimate")
        rows = [
            (e.gate.label, f"{e.gate.n_params:,}", *e.texts())
            for e in sorted(self.effects, key=lambda e: -e.loss_increase)
        ]
        return (
            f"<p><b>{html.escape(self.task)} on {html.escape(self.backbone)}</b>: loss "
            f"{self.loss:.4f} ({html.escape(self.unit)}) with every gate open. {html.escape(self.summary)}</p>"
            f"{html_table(names, rows)}"
        )

    # -- files -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        facts = {k: v for k, v in vars(self).items() if k != "effects"}
        gates = [{**e.gate.to_dict(), **{name: getattr(e, name) for name in _NUMBERS}} for e in self.effects]
        return {"schema_version": SCHEMA_VERSION, "kind": KIND, **facts, "gates": gates}

    def save(self, path: str | os.PathLike[str] | Run) -> Path:
        """Write JSON, as a whole or not at all: a file, or ``explain.json`` of a run directory.

        Raises:
            RunError: the run is being written by another process, or is none.
            OSError: the folder cannot be written.
        """
        target = path.path if isinstance(path, Run) else located(path)
        if not is_folder(target):
            check_ending(target, ".json")
            return write_json_atomic(target, self.to_dict())
        with RunWriter.attach(target):  # one writer per run
            return write_json_atomic(target / EXPLAIN, self.to_dict(), parents=False)

    @classmethod
    def from_dict(cls, data: Any, *, where: str = "explanation") -> Explanation:
        """Build from `to_dict`'s form.

        Raises:
            RunError: naming `where` and the field.
        """
        data = check_kind(data, KIND, SCHEMA_VERSION, RunError, where)
        facts: dict[str, Any] = {}
        for kind, expected, names in (
            (str, "text", ("task", "backbone", "run", "unit")),
            (int, "a whole number", ("seed", "steps", "best_step", "n_rows")),
            (list, "a list", ("metrics", "gates")),
        ):
            facts |= {name: _field(data, name, where, (kind,), expected) for name in names}
        facts |= {name: _number(data, name, where) for name in ("loss", "score")}
        facts["metrics"] = tuple(map(str, facts["metrics"]))
        facts["measured"] = "batches" if data.get("measured") == "batches" else "rows"  # earlier files do not say
        effects = []
        for i, item in enumerate(facts.pop("gates")):
            at = f"{where}: gates[{i}]"
            try:
                gate = gate_from_dict(item, at)
            except StructureError as error:
                raise RunError(str(error)) from None
            effects.append(GateEffect(gate, **{name: _number(item, name, at) for name in _NUMBERS}))
        if not effects:
            raise RunError(f"{where}: field 'gates': expected at least one gate, found none")
        return cls(tuple(effects), **facts)

    @classmethod
    def load(cls, path: RunLike) -> Explanation:
        """Read a file that `save` wrote, or the one of a run.

        Raises:
            RunError: missing, damaged, or of a structure that the run has no longer; names the file and the field.
        """
        if not isinstance(path, Run) and _is_explanation(path):
            return cls.from_dict(files.read_json(path, RunError), where=str(path))
        return _of_run(open_source(path, allow=RUN, what="explanation", wanted=f"an explanation, {A_RUN}"))


def _is_explanation(path: Any) -> bool:
    """Whether a path is of a file that is no run's run.json."""
    named = isinstance(path, (str, os.PathLike)) and is_there(path) and not is_folder(path)
    return named and located(path).name != RUN_JSON


def shown(value: float, form: str) -> str:
    """A number as text; – where it is not known."""
    return format(value, form) if math.isfinite(value) else "–"


def kept(run: Run) -> tuple[Explanation | None, bool]:
    """The explanation in a run's folder, None where there is none; and whether it is of another structure than the run
    has now. Raises RunError: it is damaged.
    """
    path = run.path / EXPLAIN
    if not os.path.lexists(path):
        return None, False
    made = Explanation.from_dict(read_json(path), where=str(path))
    return made, not run.n_steps or {e.gate.key for e in made.effects} != run.structure().keys


def _of_run(run: Run) -> Explanation:
    path, (made, stale) = run.path / EXPLAIN, kept(run)
    if made is None:
        raise RunError(f"{path}: missing; this run is not explained yet (s3pet explain {run.path})")
    if stale:
        raise RunError(
            f"{path}: explains another structure than this run has now (it went on since); explain it again "
            f"(s3pet explain {run.path})"
        )
    return made


def _field(data: Mapping[str, Any], name: str, where: str, kinds: tuple[type, ...], expected: str) -> Any:
    value = data.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool) or name not in data:
        raise RunError(f"{where}: field {name!r}: expected {expected}, found {value!r}")
    return value


def _number(data: Mapping[str, Any], name: str, where: str) -> float:
    """A number; null stands for one that is not known."""
    value = _field(data, name, where, (int, float, type(None)), "a number or null")
    return _NAN if value is None else float(value)
