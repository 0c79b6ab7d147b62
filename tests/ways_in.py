"""Each way to work with a backbone in a folder: a function of the folder and of an empty one to write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import s3pet_viz as s3
from s3pet_viz.tuning import Workbench

_FAST = {"progress": False}


def _structure(folder: Path) -> s3.Structure:
    made = s3.Structure((s3.Gate(0, "decoder.final_layer_norm", "decoder", 4, "Final.LN", "LNFit", 128),), str(folder), 1)
    made.save(folder.parent / "structure.json")
    return made


def ways_in() -> list[Any]:
    ways: dict[str, Callable[[Path, Path], Any]] = {
        "search": lambda b, out: s3.search(task="sentiment", backbone=b, budget="0.2%", steps=1, out=out / "r", **_FAST),
        "tune": lambda b, out: s3.tune(_structure(b), task="sentiment", backbone=b, save=out / "adapter", **_FAST),
        "baselines": lambda b, out: s3.baselines(task="sentiment", backbone=b, methods=["full"], **_FAST),
        "explain": lambda b, out: s3.explain(_structure(b), task="sentiment", **_FAST),
        "evaluate": lambda b, out: s3.evaluate(
            s3.Adapter(_structure(b), {}, backbone=str(b), model_type="t5"), task="sentiment"
        ),
        "sweep": lambda b, out: s3.sweep(
            out=out / "study", tasks=["sentiment"], backbone=str(b), budgets=["0.2%"], seeds=1, progress=False
        ),
        "workbench": lambda b, out: Workbench.open("sentiment", b),
    }
    return [pytest.param(way, id=name) for name, way in ways.items()]
