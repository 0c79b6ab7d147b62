"""What stands in a report, and in which order."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import yaml

from s3pet_viz import figures
from s3pet_viz.analysis.explanation import EXPLAIN, Explanation, kept, shown
from s3pet_viz.analysis.health import health
from s3pet_viz.analysis.trust import Trust, trust
from s3pet_viz.errors import ConfigError, RunError, S3PETError
from s3pet_viz.figures._data import labels, shorten
from s3pet_viz.files import is_folder, located, write_text_atomic
from s3pet_viz.reports.page import Page, note, table, text
from s3pet_viz.resources import text_of
from s3pet_viz.runs import Run
from s3pet_viz.runs.listing import FIELDS, fact
from s3pet_viz.runs.status import said_status
from s3pet_viz.sources import RUN, RunLike, open_sources
from s3pet_viz.structure import Structure, ranks
from s3pet_viz.viewer.documents import Compared
from s3pet_viz.viewer.page import compared_state, run_state
from s3pet_viz.viewer.state import State, states_by_viewer

#: Bytes of a run's history in the file, at most.
_HISTORY = 1 << 20
#: Searches of up to so many are columns of a table; more are its rows.
_BESIDE = 4


@functools.cache
def _words() -> Any:
    """What the report says of a status, above the structure and below each figure."""
    return yaml.safe_load(text_of("reports", "words.yaml"))


@dataclass(frozen=True)
class _Opened:
    """A run that was read through once, so that nothing is written about a damaged one.

    Attributes:
        label: tells it from the others; text from outside.
        structure: None before the first step.
        explanation: None where there is none, or it is of an older structure (`stale`).
    """

    run: Run
    label: str
    structure: Structure | None
    scores: Mapping[str, Any] | None
    explanation: Explanation | None
    stale: bool
    status: str
    error: str | None


def report(
    runs: RunLike | Iterable[RunLike],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    state: State | None = None,
) -> Path:
    """Write one HTML file about a search, or about several beside each other. It opens anywhere, without a network.

    It holds plotly.js (5 MB), every figure, the tables and the search's health in words. The same runs give the same
    file. A search without steps, still running or dead is reported as such.

    Args:
        runs: a run, its directory or a recorded run's name; or several of them.
        out: the file; parents are made, a file is replaced as a whole or not at all.
        title: instead of the run's name.
        state: what `share` of a view gave, or the page's *copy* menu: the viewer opens with it. In a report of several
            viewers a state for each, by its name: ``run-1``, ``run-2``, ..., ``compared``.

    Returns:
        The file.

    Raises:
        ConfigError: no run, a wrong state (names the field), or the file cannot be written.
        RunError, StructureError: a run is missing, foreign or damaged; names the file. Nothing is written then.
    """
    target = located(out)
    if is_folder(target):
        raise ConfigError(f"{target}: expected a file name, found a folder")
    opened = open_sources(runs, allow=RUN, what="runs")
    names = [opened[0].name] if len(opened) == 1 else labels(opened, most=48)
    checked = [_read(run, name) for run, name in zip(opened, names, strict=True)]
    whole = _page(checked, title, state).render()
    try:
        return write_text_atomic(target, whole)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror})") from None


def _read(run: Run, label: str) -> _Opened:
    """Read all that the report needs of a run."""
    status = run.status
    structure = run.structure() if run.n_steps else None
    run.evals()
    explanation, stale = kept(run)
    error = run.error if status in ("failed", "dead") else None
    return _Opened(run, label, structure, run.scores(), None if stale else explanation, stale, status, error)


def _page(runs: Sequence[_Opened], title: str | None, state: State | None) -> Page:
    several = len(runs) > 1
    drawn = {f"run-{i}": "run" for i, one in enumerate(runs, 1) if one.structure is not None}
    kinds = drawn | ({"compared": "compare"} if len(drawn) > 1 else {})
    states = {} if state is None else states_by_viewer(state, kinds)
    made = Page(title or (f"{len(runs)} searches compared" if several else f"Search report: {runs[0].label}"))
    made.add(f"<header><h1>{text(made.title)}</h1><p class='muted'>{text(_subtitle(runs))}</p></header>")
    made.heading("Overview")
    _beside(made, runs, [_facts_of(one) for one in runs], "search")
    for one in runs:
        _state(made, one, several)
    judged = trust([one.run for one in runs])
    _trust(made, judged)
    made.heading("Search health, in words")
    made.words("Rules of thumb on the numbers of the search; none of them proves anything.", muted=True)
    for finding in health([one.run for one in runs] if several else runs[0].run):
        made.add(
            f"<div class='finding {text(finding.level)}'><b>{text(finding.level)}</b>"
            f"<b>{text(finding.title)}</b><br>{text(finding.text)}</div>"
        )
    if several:
        _compared(made, runs, judged, states.get("compared"))
    for number, one in enumerate(runs, 1):
        _one(made, one, several, number, judged, states.get(f"run-{number}"))
    _origins(made, runs)
    return made


def _subtitle(runs: Sequence[_Opened]) -> str:
    gates = {len(one.run.gates_list) for one in runs}
    space = f"{gates.pop():,} gates" if len(gates) == 1 else "different search spaces"
    backbones = {str(one.run.info["backbone"]) for one in runs if one.run.info["backbone"]}
    on = f" on {', '.join(sorted(backbones))}" if backbones else ""
    return f"Structure search for PET modules{on}, {space}. Written by s3pet_viz; nothing is loaded from a network."


# -- facts -------------------------------------------------------------------------------------------------


def _facts_of(one: _Opened) -> dict[str, object]:
    run, info, config = one.run, one.run.info, one.run.config
    steps = run.steps()
    budget, params = info["budget"], info["backbone_params"]
    structure, scores = one.structure, one.scores or {}
    share = f" = {budget / params:.4%} of the backbone" if budget and params else ""
    losses = [shown(steps[name].iloc[-1], ".4g") for name in ("train_loss", "val_loss") if len(steps)]
    score = scores.get("metrics", {}).get("score")
    return {
        "run": run.name,
        "status": said_status(one.status, run.early_stop),
        "task": config.get("task"),
        "backbone": info["backbone"],
        "backbone parameters": f"{params:,}" if params else None,
        "mode": config.get("mode"),
        "seed": config.get("seed"),
        "budget": f"{budget:,} parameters{share}" if budget else None,
        "search space": f"{len(run.gates_list):,} gates, {int(run.counts.sum()):,} parameters",
        "steps": f"{run.n_steps:,}" + (f" of {info['steps_total']:,}" if info["steps_total"] else ""),
        "seconds": f"{steps['seconds'].sum():,.1f}" if len(steps) else None,
        "last losses": "{} train, {} validation".format(*losses) if losses else None,
        "chosen": f"{len(structure):,} gates, {structure.n_params:,} parameters" if structure is not None else None,
        "score when tuned": f"{score:.4f} on {scores.get('task')}" if score is not None else None,
        "started": info.get("started"),
        "finished": info.get("finished"),
        "folder": run.path,
    }


def _state(made: Page, one: _Opened, several: bool) -> None:
    who = f"{one.label}: " if several else ""
    if said := _words()["status"].get(one.status):
        made.add(note(f"{who}{one.status}. {said}"))
    if one.structure is None:
        made.add(note(f"{who}no steps are recorded yet, so there is nothing to draw."))
    if one.error:
        made.add(f"<pre>{text(one.error)}</pre>")


def _beside(
    made: Page, runs: Sequence[_Opened], facts: Sequence[Mapping[str, object]], what: str, *, mark: bool = False
) -> None:
    """A table of facts: one column per run, of many one row per run. Facts that no run knows are left out. `mark`:
    colour the facts that differ.
    """
    names = list(dict.fromkeys(name for one in facts for name in one))
    names = [name for name in names if any(one.get(name) is not None for one in facts)]
    cells = {name: [_said(one.get(name)) for one in facts] for name in names}
    if not names:
        made.words("Nothing is recorded.", muted=True)
    elif len(runs) == 1:
        made.add(table(["", ""], [(name, *cells[name]) for name in names]))
    elif len(runs) <= _BESIDE:
        marked = [i for i, name in enumerate(names) if mark and len(set(cells[name])) > 1]
        made.add(table(["", *(one.label for one in runs)], [(name, *cells[name]) for name in names], marked=marked))
    else:
        # Too wide to be read with every fact: those that are the same everywhere are said once.
        same = [name for name in names if len(set(cells[name])) == 1]
        rest = [name for name in names if name not in same]
        if rest:
            rows = [(one.label, *(cells[name][i] for name in rest)) for i, one in enumerate(runs)]
            made.add(table([what, *rest], rows))
        if same:
            made.words("The same for all:")
            made.add(table(["", ""], [(name, cells[name][0]) for name in same]))


def _trust(made: Page, judged: Trust) -> None:
    made.heading("Can it be trusted?")
    made.add(f"<p><b>{text(judged.verdict)}.</b></p>")
    made.add(table(["question", "answer", "in words"], judged.rows()))
    if judged.details:
        made.words("By task and budget:")
        made.add(table(["question", "about", "answer", "in words"], judged.parts(), long=True))
    if remedies := judged.remedies():
        made.words("What is not known, and the call that would find it out, with the time at the pace of these runs:")
        made.add(table(["not known", "call", "takes"], remedies))


# -- one search --------------------------------------------------------------------------------------------


def _one(made: Page, one: _Opened, several: bool, number: int, judged: Trust, state: State | None) -> None:
    run, level = one.run, 3 if several else 2
    if several:
        made.heading(f"Search: {one.label}")
    if one.structure is None:
        if several:
            made.words("No steps are recorded yet, so there is nothing to draw.")
        return
    made.heading("The structure", level)
    made.words(_words()["structure"], muted=True)
    made.add(
        made.viewer(run_state(run, key=f"run-{number}", most=_HISTORY, view=state, card=None if several else judged))
    )
    captions = _words()["captions"]
    made.drawn(figures.sums(run, by="layer"), captions["layer"])
    by_module = made.figure(figures.sums(run, by="module"), captions["module"])
    by_type = made.figure(figures.sums(run, by="pet_type"), captions["pet_type"])
    made.add(f"<div class='pair'>{by_module}{by_type}</div>")
    made.heading("Chosen gates", level)
    _gates(made, one)
    made.heading("How the search went", level)
    made.drawn(figures.trace(run), captions["trace"])
    made.drawn(figures.curves(run), captions["curves"])
    made.heading("Other budgets", level)
    made.drawn(figures.budget_path(run), captions["budget_path"])
    _importance(made, one, level)
    made.heading("Scores", level)
    if one.scores is None:
        made.words("This structure has not been tuned in its run folder (s3pet tune).", muted=True)
    else:
        made.add(table(["", ""], [(name, _said(value)) for name, value in _flat(one.scores).items()]))


def _importance(made: Page, one: _Opened, level: int) -> None:
    if one.stale:
        made.heading("What each gate is worth", level)
        made.add(note(f"{EXPLAIN} explains another structure than this run has now; explain it again (s3pet explain)."))
    if one.explanation is None:
        return
    made.heading("What each gate is worth", level)
    made.words(one.explanation.summary)
    made.drawn(figures.importance(one.explanation), _words()["captions"]["importance"])


def _gates(made: Page, one: _Opened) -> None:
    """The chosen gates, the likeliest first."""
    structure, run = one.structure, one.run
    assert structure is not None
    p, alpha = run.p(), run.alpha()
    known = {gate.key: found for gate, *found in zip(run.gates_list, p, alpha, ranks(alpha), strict=True)}
    worth = {e.gate.key: e for e in one.explanation.effects} if one.explanation is not None else {}
    rows, missing = [], [math.nan] * 3
    for gate in sorted(structure.gates, key=lambda g: -np.nan_to_num(known.get(g.key, missing)[0], nan=-1.0)):
        options = ", ".join(f"{name} {value}" for name, value in sorted(gate.options.items()))
        numbers = zip(known.get(gate.key, missing), (".4f", "+.4f", ".0f"), strict=True)
        effect = [shown(worth[gate.key].loss_increase, "+.4f")] if worth else []
        facts = (gate.column, gate.module, gate.pet_type, options, f"{gate.n_params:,}")
        rows.append((*facts, *(shown(number, form) for number, form in numbers), *effect, gate.position))
    head = ["layer", "module", "PET type", "options", "parameters", "p", "α", "rank"]
    head += ["loss without it", "position"] if worth else ["position"]
    made.words(f"{len(structure):,} gates, {structure.n_params:,} parameters; the likeliest first.")
    made.add(table(head, rows, numbers=range(4, len(head) - 1), long=True))


# -- several searches --------------------------------------------------------------------------------------


def _compared(made: Page, runs: Sequence[_Opened], judged: Trust, state: State | None) -> None:
    made.heading("Side by side")
    drawn = [one for one in runs if one.structure is not None]
    if len(drawn) < 2:
        made.add(note("Fewer than two of these searches have steps, so there is nothing to compare yet."))
        return
    runs_at = {one.label: one.run for one in drawn}
    facts = {one.label: {name: fact(one.run, name) for name in FIELDS} for one in drawn}
    sources = [one.run for one in drawn]
    card = judged if len(drawn) == len(runs) else trust(sources)
    made.add(made.viewer(compared_state(Compared(runs_at, facts, key="compared", theme="light"), card, state)))

    made.heading("Differences")
    if len(drawn) > 2:
        made.words(f"Each against the first, {drawn[0].label}.")
    for other in sources[1:]:
        _figure(made, "compare", figures.compare, sources[0], other)
    made.heading("Overlap")
    made.add("<div class='pair'>")
    for by in ("gates", "params", "spearman"):
        _figure(made, by, figures.overlap, sources, by=by)
    made.add("</div>")
    made.heading("Agreement, against chance")
    _figure(made, "agreement", figures.agreement, sources)
    made.heading("Consensus")
    _figure(made, "consensus", figures.consensus, sources)
    _figure(made, "count", figures.heatmap, sources, value="count")


def _figure(made: Page, caption: str, draw: Callable[..., go.Figure], *runs: Any, **options: Any) -> None:
    """A figure that not every set of runs allows; where it does not, why."""
    try:
        made.drawn(draw(*runs, **options), _words()["captions"][caption])
    except RunError:
        raise
    except S3PETError as error:
        made.add(note(f"Not drawn: {error}"))


# -- where it came from ------------------------------------------------------------------------------------


def _origins(made: Page, runs: Sequence[_Opened]) -> None:
    made.heading("Configuration")
    if len(runs) > 1:
        made.words("Everything that decided the searches; what differs is coloured.")
    _beside(made, runs, [_flat(one.run.config) for one in runs], "search", mark=True)
    made.heading("Versions and machine")
    own = ("host", "device", "precision", "task_origin", "space_missing", "load", "lr", "head_params", "stop_reason")
    facts = []
    for info in (one.run.info for one in runs):
        versions = info.get("versions")
        known = versions if isinstance(versions, Mapping) else {"versions": versions}
        facts.append({**_flat(known), **_flat({name: info.get(name) for name in own})})
    _beside(made, runs, facts, "search", mark=True)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; empty lists and objects are left out."""
    made: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            made |= _flat(value, f"{prefix}{key}.")
        elif value != []:
            made[f"{prefix}{key}"] = value
    return made


def _said(value: object) -> str:
    """A fact in a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(_said, value))
    return shorten(str(value), 600)
