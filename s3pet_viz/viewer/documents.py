"""What a page is told: one JSON object that stays (`run_doc`, `compare_doc`), and what changes while a search runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from s3pet_viz.analysis.explanation import Explanation
from s3pet_viz.analysis.grid import Grid
from s3pet_viz.errors import S3PETError
from s3pet_viz.files import json_ready
from s3pet_viz.runs import Run
from s3pet_viz.runs.status import duration
from s3pet_viz.structure import Gate, Structure, ranks
from s3pet_viz.structure.budget import select_with_fill
from s3pet_viz.structure.pins import pins_said
from s3pet_viz.structure.units import keys_by
from s3pet_viz.viewer.feed import Frame, own_choice
from s3pet_viz.viewer.pack import shift_of
from s3pet_viz.viewer.seeds import seeds_doc
from s3pet_viz.viewer.state import mark_of

#: Parts of the page that show one run (js/view.js): which are open at first.
LIVE_PARTS = ("curves", "health")
EXPLORE_PARTS = ("trace",)
THEMES = ("auto", "light", "dark")
#: Runs that are compared of which the ends travel at once, and numbers of all of them; the rest is asked for.
_FIRST, _AT_ONCE = 40, 1_000_000

Doc = dict[str, Any]


def text(doc: object) -> str:
    """JSON without NaN, which browsers refuse."""
    return json.dumps(json_ready(doc), allow_nan=False, separators=(",", ":"))


def space_doc(
    gates: Sequence[Gate], inert: Sequence[Gate] = (), inside: Sequence[Gate] = (), outside: Sequence[Gate] = ()
) -> Doc:
    """Where each gate is drawn, and what is said of it: columns of the gates' table. inert: drawn as left out. inside,
    outside: marked as pinned.
    """
    pinned = [*inside, *outside]
    grid = Grid(gates, inert, pinned)
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "row": grid.row.tolist(),
        "col": grid.col.tolist(),
        "n": [g.n_params for g in gates],
        **{name: [getattr(g, name) for g in gates] for name in ("position", "stack", "layer", "module")},
        "type": [g.pet_type for g in gates],
        "options": [json.dumps(g.options, sort_keys=True) for g in gates],
        **({"inert": _apart_doc(grid.inert, inert)} if inert else {}),
        **({"pinned": _pinned_doc(grid.pinned, inside, outside)} if pinned else {}),
        # -1: not one of several units of its position.
        **(
            {"unit": [-1 if g.unit is None else g.unit for g in gates]}
            if any(g.unit is not None for g in gates)
            else {}
        ),
    }


def of_run(run: Run) -> Doc:
    """`space_doc` of a run, and by gate what it adds nothing beside."""
    beside = run.redundant_beside()
    told = {str(gate.index): ", ".join(beside[gate.key]) for gate in run.gates_list if gate.key in beside}
    return {**space_doc(run.gates_list, run.inert, run.pinned_in, run.pinned_out), **({"beside": told} if told else {})}


def _apart_doc(places: np.ndarray, gates: Sequence[Gate]) -> Doc:
    """Of gates that are not searched: the cell, and what the filters ask for."""
    facts = {name: [getattr(g, name) for g in gates] for name in ("position", "stack", "module")}
    return {"row": places[0].tolist(), "col": places[1].tolist(), "type": [g.pet_type for g in gates], **facts}


def _pinned_doc(places: np.ndarray, inside: Sequence[Gate], outside: Sequence[Gate]) -> Doc:
    """Also how many are in, those first, and all as a structure has them."""
    gates = [*inside, *outside]
    facts = {"label": [g.label for g in gates], "n": [g.n_params for g in gates], "inside": len(inside)}
    return {**_apart_doc(places, gates), **facts, "gates": [g.to_dict() for g in gates]}


def run_doc(run: Run, *, key: str, parts: Sequence[str], control: bool = False, theme: str = "auto") -> Doc:
    """A run's document.

    Args:
        key: tells it from every other document that a page has seen.
        parts: open at first. control: with Pause, Resume and Stop.
    """
    info, config, counts = run.info, run.config, run.counts
    facts = ("task", "backbone", "budget", "mode", "seed")
    said = [f"{name} {config[name]}" for name in facts if config.get(name) is not None]
    source: Doc = {"run": run.name}
    source |= {name: config[name] for name in ("task", "mode", "seed", "space") if name in config}
    source |= pins_said(run.pinned_in, config.get("pin"))
    structure = Structure((), info["backbone"] or "", info["backbone_params"] or 0, info["budget"], source)
    doc: Doc = {
        "id": key,
        "kind": "run",
        "theme": theme,
        "parts": list(parts),
        "control": control,
        "title": run.name,
        "subtitle": " · ".join(said),
        "code": f"s3.open_run({str(run.path)!r})",
        "structure": structure.to_dict(),
        "effects": _effects(run),
        "space": of_run(run),
        "run": {
            "name": run.name,
            "tau": float(info["tau"]),
            "budget": info["budget"] or int(counts.sum()) + run.pinned_params,
            "named": bool(info["budget"]),
            "backbone_params": info["backbone_params"],
            "smallest": int(counts.min()) + run.pinned_params,
            "total": int(counts.sum()) + run.pinned_params,
            **({"pinned": run.pinned_params} if run.pinned_in else {}),
        },
    }
    return doc | {"of": mark_of(doc)}


def live_doc(frame: Frame, key: str, rows: Doc | None) -> Doc:
    """What changes: the status, the newest step, and which rows come beside it."""
    return {
        "doc": key,
        "rows": rows,
        **{name: getattr(frame, name) for name in ("status", "early_stop", "error", "problem", "steps_total")},
        "step": None if frame.step is None else frame.step + 1,
        "last": dict(frame.scalars) or None,
        "seconds_left": None if frame.seconds_left is None else duration(frame.seconds_left),
        "own": None if frame.own is None else list(frame.own),
        "findings": [f._asdict() for f in frame.findings],
        "words": _words(frame),
    }


def _words(frame: Frame) -> str:
    """What is said before there is anything to draw."""
    if frame.step is not None:
        return ""
    if frame.ended:
        return "the search ended before its first step"
    return "no step yet: " + (
        "the backbone and the data are being loaded" if frame.status == "starting" else "the first step is on its way"
    )


def _effects(run: Run) -> list[Doc] | None:
    """What `s3.explain` measured of the present structure, if it did."""
    try:
        found = Explanation.load(run)
    except S3PETError:  # said where it is asked for: explain, report
        return None
    at = {gate.key: i for i, gate in enumerate(run.gates_list)}
    told = [
        {"gate": at[e.gate.key], "increase": e.loss_increase, "se": e.loss_increase_se}
        for e in found.effects
        if e.gate.key in at and np.isfinite(e.loss_increase)
    ]
    return told or None


# -- several runs ------------------------------------------------------------------------------------------


class Compared:
    """Several runs at their ends, over the gates of those that were opened.

    Args:
        runs: by label; one is opened when it is looked up. facts: of each, by label: task, budget and seed as text.
        key: tells the document from every other that a page has seen. left_out: why other runs are not among them.

    Attributes:
        doc: the document.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        facts: Mapping[str, Mapping[str, str]],
        *,
        key: str,
        left_out: Sequence[str] = (),
        theme: str = "auto",
    ) -> None:
        self._runs = runs
        self._gates: dict[tuple[str, str], Gate] = {}
        self._values: list[np.ndarray] = []
        self._size = 0
        self.doc: Doc = {
            "id": key,
            "kind": "compare",
            "theme": theme,
            "title": "Compare runs",
            "left_out": list(left_out),
            "runs": [{"label": label, "facts": dict(facts[label])} for label in runs],
        }
        self.doc["of"] = mark_of(self.doc)
        for index in range(min(len(runs), _FIRST)):
            if index < 2 or self._size < _AT_ONCE:
                self._open(index)
        self._lay_out()
        opened = {i: runs[one["label"]] for i, one in enumerate(self.doc["runs"]) if "size" in one}
        self.doc["seeds"] = seeds_doc(opened, {key: i for i, key in enumerate(self._gates)})

    @property
    def values(self) -> bytes:
        return np.concatenate(self._values).tobytes() if self._values else b""

    def run(self, index: int) -> Run:
        """A run by its number in the document. Raises LookupError: no such number."""
        return self._runs[self.doc["runs"][index]["label"]]

    def open(self, index: int) -> bool:
        """Read a run's end; False where that was done before. Raises RunError, StructureError: it is damaged."""
        before = self._size
        self._open(index)
        self._lay_out()
        return self._size > before

    def _lay_out(self) -> None:
        """The space grows at its end: places of gates that were there stay."""
        self.doc["space"] = space_doc(list(self._gates.values()))

    def _open(self, index: int) -> None:
        entry = self.doc["runs"][index]
        if "size" in entry:
            return
        run = self._runs[entry["label"]]
        alpha, last = np.array(run.alpha(), dtype=np.float32), run.steps(last=1).iloc[0]
        tau = float(run.info["tau"])
        zeta = shift_of(alpha[None], np.asarray(run.p())[None], np.array([last["zeta"]]), tau)
        chosen = own_choice(run)
        selection = select_with_fill(alpha, run.counts, run.searched_budget())
        own = list(chosen) if chosen is not None else selection.chosen.tolist()
        fill = set(selection.fill.tolist())
        # Units are matched by their order at a position, the chosen ones first: as `figures._data.View.keys`.
        order = -ranks(alpha).astype(np.float64)
        order[own] += len(order)
        keys = keys_by(run.gates_list, order)
        for unit_key, gate in zip(keys, run.gates_list, strict=True):
            unit = None if gate.unit is None else int(unit_key[1].rpartition(".")[2])
            self._gates.setdefault(unit_key, replace(gate, unit=unit))
        places = {unit_key: i for i, unit_key in enumerate(self._gates)}
        at = [places[unit_key] for unit_key in keys]
        sizes = [gate.n_params for gate in run.gates_list]
        # Backbones of one family name their modules alike, and differ in width.
        other = sizes != [gate.n_params for gate in (self._gates[unit_key] for unit_key in keys)]
        entry |= {
            "name": run.name,
            "status": run.status,
            "source": {name: run.config[name] for name in ("task", "mode", "seed") if name in run.config},
            "backbone": run.info["backbone"],
            "backbone_params": run.info["backbone_params"],
            "pinned": len(run.pinned_in),
            "budget": run.info["budget"],
            "used": int(run.counts[own].sum()) + run.pinned_params,
            "step": int(last["step"]),
            "steps": run.info["steps_total"],
            "n": sizes if other else None,
            "offset": self._size,
            "size": len(alpha),
            "zeta": float(zeta[0]),
            "tau": tau,
            "at": [] if at == list(range(len(at))) else at,
            "own": own,
            "fill": [i in fill for i in own],
        }
        self._values.append(alpha)
        self._size += len(alpha)
