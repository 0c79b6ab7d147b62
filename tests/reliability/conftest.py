"""Searches of their own processes, and the one that nobody interrupts."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from problems import MOOD, mood_data
from reliability_problems import OPTIONS


@pytest.fixture(autouse=True)
def one_thread():
    """As in `server`: the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mood_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mood") / "mood"
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(MOOD))
    for name, rows in mood_data(48, 8).items():
        pd.DataFrame(rows).to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    return folder


@pytest.fixture(scope="session")
def options(request, tiny_folder, mood_folder):
    """Of the search that every test here interrupts."""
    own = getattr(request, "param", {})
    return {**OPTIONS, "task": str(mood_folder), "backbone": str(tiny_folder("bert", layers=1)), **own}


@pytest.fixture(scope="session")
def whole(server, options, tmp_path_factory):
    """The run of the uninterrupted search, and the operations on files that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(options={**options, "out": str(folder)}, fault={"folder": str(folder)}) == 0, server.said()
    (line,) = [line for line in server.said().splitlines() if line.startswith("operations ")]
    return folder, json.loads(line.removeprefix("operations "))
