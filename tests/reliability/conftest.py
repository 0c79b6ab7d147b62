"""Searches of their own processes, and the one that nobody interrupts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from problems import MOOD, mood_data
from reliability_problems import OPTIONS, Server


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
    return {**OPTIONS, "task": str(mood_folder), "backbone": str(tiny_folder("t5")), **own}


@pytest.fixture(scope="session")
def server(tiny_folder, tmp_path_factory):
    """One for all options: to start it costs more than a search."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc and fork")
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, str(here / "search_server.py"), str(tiny_folder("t5"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "ready\n"
        yield Server(process, tmp_path_factory.mktemp("logs"))
        process.stdin.close()


@pytest.fixture(scope="session")
def whole(server, options, tmp_path_factory):
    """The run of the uninterrupted search, and the operations on files that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert server.run(options={**options, "out": str(folder)}, fault={"folder": str(folder)}) == 0, server.said()
    (line,) = [line for line in server.said().splitlines() if line.startswith("operations ")]
    return folder, json.loads(line.removeprefix("operations "))
