"""SIGKILL at any moment of a search, also in the middle of a write; gone on with, it ends as if nothing had been.

S3PET_KILLS=30 is the full count, and then every operation on a file is a moment to be killed at; 5 by default.
"""

from __future__ import annotations

import os
import re
import time

import numpy as np
import pytest
from reliability_problems import again, assert_same_result, finish

from s3pet_viz.runs import open_run

#: Each test once in the default mode, once in the one that keeps more in its checkpoint.
pytestmark = pytest.mark.parametrize("options", [{}, {"mode": "prune"}], ids=["fast", "prune"], indirect=True)

KILLS = int(os.environ.get("S3PET_KILLS", "5"))


@pytest.mark.slow
def test_kills_at_random_moments(server, options, whole, tmp_path):
    """A run is killed at a random moment of its search, then perhaps again while it is resumed."""
    random = np.random.default_rng(KILLS)
    began = time.monotonic()
    assert server.run(options={**options, "out": str(tmp_path / "timed" / "run")}) == 0, server.said()
    seconds = time.monotonic() - began
    kills, searches, unborn, begun = 0, 0, 0, []
    while kills < KILLS:
        folder = tmp_path / f"{searches}" / "run"
        searches += 1
        for _ in range(3):
            if kills == KILLS or not server.run_and_kill(random.uniform(0, seconds), options=again(folder, options)):
                break
            kills += 1
            if (folder / "run.json").exists():
                run = open_run(folder)
                begun.append(run.n_steps)
                if run.status == "finished":  # killed between its last write and its end
                    break
                assert run.status == "dead"
            else:
                unborn += 1
        finish(server, folder, options)
        assert_same_result(folder, whole[0])
    print(
        f"\n{kills} SIGKILLs at random moments of {searches} searches ({unborn} before there was a run, the others after "
        f"{sorted(begun)} steps): every search, resumed, ended bit for bit as the uninterrupted one"
    )


def moments(operations):
    """Where to kill: before each operation on a file, and in the middle of each write."""
    for number, name in enumerate(operations, 1):
        yield "kill", number
        if name.startswith("write"):
            yield "half", number


def telling(operations):
    """The moments that differ most in what is on the disk: where a default run is killed."""
    names = [re.sub(r"\.\d+\.[0-9a-f]+\.tmp$", "", name) for name in operations]
    first, last = names.index, lambda name: len(names) - 1 - names[::-1].index(name)
    return [
        ("half", 1 + first("write .run.json")),  # before there is a run
        ("half", 1 + first("write .state.safetensors")),  # a run without a checkpoint
        ("half", 1 + first("write part-00000.arrow") + 6),  # among the first steps
        ("half", 1 + first("write evals.jsonl")),
        ("kill", 1 + last("replace state.safetensors")),
        ("half", 1 + last("write .structure.json")),  # after the last checkpoint
        ("kill", 1 + last("replace run.json")),  # all is there, but that it says so
    ]


@pytest.mark.slow
def test_kills_at_every_operation_on_a_file(server, options, whole, tmp_path):
    points = list(moments(whole[1]))
    assert len(points) > 60
    chosen = points if KILLS >= 30 else telling(whole[1])
    for action, number in chosen:
        folder = tmp_path / f"{action}{number}" / "run"
        fault = {"folder": str(folder), "action": action, "at": number}
        assert server.run(options={**options, "out": str(folder)}, fault=fault) == -9, server.said()
        finish(server, folder, options)
        assert_same_result(folder, whole[0])
    print(f"\n{len(chosen)} of {len(points)} moments in file operations killed at, all resumed to the same result")


def test_kills_while_resuming(server, options, whole, tmp_path):
    """The resumed search is killed in turn, at operations of its beginning."""
    folder = tmp_path / "run"
    fault = {"folder": str(folder), "action": "kill", "at": whole[1].index("write part-00000.arrow") + 12}
    assert server.run(options={**options, "out": str(folder)}, fault=fault) == -9
    for at in (1, 2, 3, 4, 5, 7, 9, 12):
        fault = {"folder": str(folder), "action": "half", "at": at}
        assert server.run(options={"resume": str(folder)}, fault=fault) == -9, server.said()
        assert open_run(folder).status in ("dead", "stopped")
    finish(server, folder, options)
    assert_same_result(folder, whole[0])
