"""s3pet_viz: search where PET modules belong in a pretrained transformer, and see why.

    import s3pet_viz as s3

    run = s3.search(task="sentiment", backbone="tiny-t5", budget="0.1%")
    s3.figures.heatmap(run)
    s3.tune(run.structure(), task="sentiment", backbone="tiny-t5")

Public names are imported when they are first used, so that ``import s3pet_viz`` loads neither torch nor plotly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3pet_viz import errors as errors
    from s3pet_viz import figures as figures
    from s3pet_viz import widgets as widgets
    from s3pet_viz.analysis import Study as Study
    from s3pet_viz.analysis import Transfer as Transfer
    from s3pet_viz.analysis import open_study as open_study
    from s3pet_viz.analysis.explanation import Explanation as Explanation
    from s3pet_viz.analysis.health import health as health
    from s3pet_viz.analysis.run_table import RunTable as RunTable
    from s3pet_viz.analysis.run_table import open_runs as open_runs
    from s3pet_viz.analysis.trust import trust as trust
    from s3pet_viz.analysis.why_not import why_not as why_not
    from s3pet_viz.backbones import load_backbone as load_backbone
    from s3pet_viz.backbones.listing import positions as positions
    from s3pet_viz.config import SearchConfig as SearchConfig
    from s3pet_viz.config.tuning import TuneConfig as TuneConfig
    from s3pet_viz.engine import Callback as Callback
    from s3pet_viz.engine.api import search as search
    from s3pet_viz.engine.estimate import estimate as estimate
    from s3pet_viz.export import Adapter as Adapter
    from s3pet_viz.export import merge as merge
    from s3pet_viz.export import to_peft as to_peft
    from s3pet_viz.launcher import launch as launch
    from s3pet_viz.reports import report as report
    from s3pet_viz.runs import Run as Run
    from s3pet_viz.runs import open_run as open_run
    from s3pet_viz.structure import Gate as Gate
    from s3pet_viz.structure import Structure as Structure
    from s3pet_viz.structure import from_s3delta as from_s3delta
    from s3pet_viz.structure import parse_budget as parse_budget
    from s3pet_viz.structure import to_s3delta as to_s3delta
    from s3pet_viz.structure.tables import register_family as register_family
    from s3pet_viz.studies.sweep import sweep as sweep
    from s3pet_viz.studies.transfer import transfer as transfer
    from s3pet_viz.tasks import load_task as load_task
    from s3pet_viz.training.scores import Scores as Scores
    from s3pet_viz.tuning.api import baselines as baselines
    from s3pet_viz.tuning.api import evaluate as evaluate
    from s3pet_viz.tuning.api import tune as tune
    from s3pet_viz.tuning.explain import explain as explain
    from s3pet_viz.tuning.scoring import score as score
    from s3pet_viz.tuning.what_if import what_if as what_if
    from s3pet_viz.widgets import watch as watch

    __version__: str

#: Public name -> the module it comes from. The type checker's list above holds the same names (a test compares them).
_HOME = {
    name: module
    for module, names in {
        "engine.api": "search",
        "engine.estimate": "estimate",
        "engine": "Callback",
        "config": "SearchConfig TuneConfig",
        "launcher": "launch",
        "widgets": "watch",
        "runs": "open_run Run",
        "tuning.api": "tune baselines evaluate",
        "export": "Adapter to_peft merge",
        "training.scores": "Scores",
        "studies.sweep": "sweep",
        "studies.transfer": "transfer",
        "analysis": "open_study Study Transfer",
        "tuning.explain": "explain",
        "tuning.scoring": "score",
        "analysis.explanation": "Explanation",
        "analysis.health": "health",
        "analysis.run_table": "RunTable open_runs",
        "analysis.why_not": "why_not",
        "tuning.what_if": "what_if",
        "analysis.trust": "trust",
        "reports": "report",
        "structure": "Structure from_s3delta to_s3delta Gate parse_budget",
        "structure.tables": "register_family",
        "tasks": "load_task",
        "backbones": "load_backbone",
        "backbones.listing": "positions",
    }.items()
    for name in names.split()
}
_MODULES = ("errors", "figures", "widgets")

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    value: Any
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version(__name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
