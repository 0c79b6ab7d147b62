"""A short search on a tiny backbone and a task that can be learned."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from problems import MOOD, mood_data
from search_problems import STEPS

from s3pet_viz.engine import search


@pytest.fixture
def task_folder(tmp_path):
    folder = tmp_path / "mood"
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data().items():
        pd.DataFrame(rows).to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    return folder


@pytest.fixture
def go(tiny_folder, task_folder, tmp_path):
    """``go("name", ...)``: a short search into tmp_path / name."""

    def run(name, **options):
        form = options.pop("form", "t5")
        settings = {
            "task": task_folder, "backbone": tiny_folder(form), "budget": 600, "steps": STEPS, "batch_size": 8,
            "second_order_from": 2, "progress": False, "out": tmp_path / name, **options,
        }  # fmt: skip
        return search(**{k: v for k, v in settings.items() if v is not None})

    return run
