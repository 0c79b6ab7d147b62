"""A search that is interrupted, and what "the same result" means."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from s3pet_viz.runs import open_run

STEPS = 8
OPTIONS = {
    "budget": 600, "steps": STEPS, "batch_size": 4, "second_order_from": 2, "device": "cpu",
    "checkpoint_every": 2, "eval_every": 3, "dropout": True,
}  # fmt: skip


def until_steps(folder, steps, seconds=180):
    """Wait for a search to have recorded so many; returns its run."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "run.json").exists() and open_run(folder).n_steps >= steps:
            return open_run(folder)
        time.sleep(0.002)
    raise AssertionError(f"{folder}: fewer than {steps} steps after {seconds} s")


def again(folder, options):
    """How a search is gone on with after it was killed: there may not be a run yet."""
    if (folder / "run.json").exists():
        return {"resume": str(folder)}
    return {**options, "out": str(folder)}


def finish(server, folder, options):
    """Go on with a search until it has finished."""
    if not (folder / "run.json").exists() or open_run(folder).status != "finished":
        assert server.run(options=again(folder, options)) == 0, server.said()


def assert_same_result(folder, whole):
    """Every number of two runs, but for the times that steps took, is the same to the bit; no step is lost or doubled."""
    a, b = open_run(whole), open_run(folder)
    assert (b.status, b.info["steps_taken"], b.info["error"]) == ("finished", STEPS, None)
    assert b.steps()["step"].tolist() == list(range(STEPS))
    for name in ("step", "zeta", "train_loss", "val_loss", "lr"):
        assert a.steps()[name].to_numpy().tobytes() == b.steps()[name].to_numpy().tobytes(), name
    assert a.alphas().tobytes() == b.alphas().tobytes()
    assert a.ps().tobytes() == b.ps().tobytes()
    pd.testing.assert_frame_equal(a.evals(), b.evals(), check_exact=True)
    assert np.all(b.steps()["seconds"] > 0)
    assert (a.path / "structure.json").read_bytes() == (b.path / "structure.json").read_bytes()
    left, right = (load_file(run.path / "checkpoint" / "state.safetensors") for run in (a, b))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not [p for p in b.path.rglob("*") if p.name.endswith(".tmp")]
