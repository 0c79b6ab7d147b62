"""s3pet_viz: search where PET modules belong in a pretrained transformer, and see why.

    import s3pet_viz as s3

    run = s3.search(task="sentiment", backbone="tiny-t5", budget="0.1%")
    s3.figures.heatmap(run)
    s3.tune(run.structure(), task="sentiment", backbone="tiny-t5")

Public names are imported when they are first used, so that ``import s3pet_viz`` loads neither torch nor plotly.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3pet_viz import errors as errors
    from s3pet_viz import figures as figures
    from s3pet_viz import widgets as widgets
    from s3pet_viz.backbones import load_backbone as load_backbone
    from s3pet_viz.export import Adapter as Adapter
    from s3pet_viz.export import merge as merge
    from s3pet_viz.export import to_peft as to_peft
    from s3pet_viz.launch import launch as launch
    from s3pet_viz.report import report as report
    from s3pet_viz.results import Study as Study
    from s3pet_viz.results import Transfer as Transfer
    from s3pet_viz.results import open_study as open_study
    from s3pet_viz.runs import Run as Run
    from s3pet_viz.runs import open_run as open_run
    from s3pet_viz.runs.explanation import Explanation as Explanation
    from s3pet_viz.runs.health import health as health
    from s3pet_viz.search import Callback as Callback
    from s3pet_viz.search import SearchConfig as SearchConfig
    from s3pet_viz.search.api import search as search
    from s3pet_viz.structure import Gate as Gate
    from s3pet_viz.structure import Structure as Structure
    from s3pet_viz.structure import from_s3delta as from_s3delta
    from s3pet_viz.structure import parse_budget as parse_budget
    from s3pet_viz.structure import to_s3delta as to_s3delta
    from s3pet_viz.study.sweep import sweep as sweep
    from s3pet_viz.study.transfer import transfer as transfer
    from s3pet_viz.tasks import load_task as load_task
    from s3pet_viz.tuning import Scores as Scores
    from s3pet_viz.tuning import TuneConfig as TuneConfig
    from s3pet_viz.tuning.api import baselines as baselines
    from s3pet_viz.tuning.api import evaluate as evaluate
    from s3pet_viz.tuning.api import tune as tune
    from s3pet_viz.tuning.explain import explain as explain
    from s3pet_viz.widgets import watch as watch

    __version__: str

#: Public name -> the module it comes from. The type checker's list above holds the same names (a test compares them).
_HOME = {
    "search": "search.api",
    "Callback": "search",
    "SearchConfig": "search",
    "launch": "launch",
    "watch": "widgets",
    "open_run": "runs",
    "Run": "runs",
    "tune": "tuning.api",
    "baselines": "tuning.api",
    "evaluate": "tuning.api",
    "Adapter": "export",
    "to_peft": "export",
    "merge": "export",
    "Scores": "tuning",
    "TuneConfig": "tuning",
    "sweep": "study.sweep",
    "transfer": "study.transfer",
    "open_study": "results",
    "Study": "results",
    "Transfer": "results",
    "explain": "tuning.explain",
    "Explanation": "runs.explanation",
    "health": "runs.health",
    "report": "report",
    "Structure": "structure",
    "from_s3delta": "structure",
    "to_s3delta": "structure",
    "Gate": "structure",
    "parse_budget": "structure",
    "load_task": "tasks",
    "load_backbone": "backbones",
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


class _Face(ModuleType):
    """`search`, `launch` and `report` are functions and modules of one name; importing the latter must not hide the
    former.

    So write ``from s3pet_viz.search import engine``, never ``import s3pet_viz.search.engine as engine``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("search", "launch", "report") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
