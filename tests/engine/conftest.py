"""A short search on a tiny backbone and a task that can be learned."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from problems import MOOD, mood_data
from search_problems import STEPS

from s3pet_viz.engine import search


def write_mood(folder):
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data().items():
        pd.DataFrame(rows).to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    return folder


def searcher(place, task_folder, tiny_folder):
    """``go("name", ...)``: a short search into place / name, on a backbone of one layer unless it is told ``layers``."""

    def run(name, **options):
        backbone = tiny_folder(options.pop("form", "t5"), layers=options.pop("layers", 1))
        settings = {
            "task": task_folder, "backbone": backbone, "budget": 600, "steps": STEPS, "batch_size": 8,
            "second_order_from": 2, "progress": False, "out": place / name, **options,
        }  # fmt: skip
        return search(**{k: v for k, v in settings.items() if v is not None})

    return run


@pytest.fixture
def task_folder(tmp_path):
    return write_mood(tmp_path / "mood")


@pytest.fixture
def go(tiny_folder, task_folder, tmp_path):
    return searcher(tmp_path, task_folder, tiny_folder)


@pytest.fixture(scope="module")
def go_once(tiny_folder, tmp_path_factory):
    """As `go`, for searches that the tests of a module share."""
    place = tmp_path_factory.mktemp("shared")
    return searcher(place, write_mood(place / "mood"), tiny_folder)
