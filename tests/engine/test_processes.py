"""Two processes are one process with the doubled batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from s3pet_viz.runs import open_run
from s3pet_viz.training.processes import Processes, find_processes

SCRIPT = Path(__file__).parent / "processes_script.py"


def launch(tmp_path, processes, **options):
    """The script's search, in so many processes; the Popen object."""
    what = tmp_path / f"{options['name']}.json"
    what.write_text(json.dumps(options))
    head = [sys.executable]
    if processes > 1:
        # What `accelerate launch` starts for several GPUs; on CPUs it would ask for MPI.
        head += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        [*head, str(SCRIPT), str(what)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process):
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "mode"), [("t5", "fast"), ("bert", "fast"), ("t5", "prune"), ("bert", "prune")])
def test_two_processes_give_the_alpha_of_the_doubled_batch(tmp_path, tiny_folder, form, mode):
    shared = {"backbone": str(tiny_folder(form)), "tmp": str(tmp_path), "steps": 6, "mode": mode}
    started = [
        launch(tmp_path, 2, name="two", batch_size=6, **shared),
        launch(tmp_path, 1, name="one", batch_size=12, **shared),
    ]
    for process in started:
        finished(process)
    one, two = (open_run(tmp_path / name) for name in ("one", "two"))
    assert two.status == "finished"
    assert two.n_steps == 6
    # prune: of scores, not of their logarithms; that of a gate that cannot help is rounding.
    form_of = np.exp if mode == "prune" else np.asarray
    a, b = form_of(one.alphas()), form_of(two.alphas())
    assert np.abs(one.alphas()).max() > 0.1
    np.testing.assert_allclose(b, a, atol=1e-6)  # the step log keeps float32
    exact = [form_of(np.load(tmp_path / f"{name}-alpha.npy")) for name in ("one", "two")]
    np.testing.assert_allclose(exact[1], exact[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(two.steps()["train_loss"], one.steps()["train_loss"], rtol=1e-9)
    np.testing.assert_allclose(two.steps()["val_loss"], one.steps()["val_loss"], rtol=1e-9)
    assert one.structure().keys == two.structure().keys


@pytest.mark.slow
def test_processes_are_stopped_together(tmp_path, tiny_folder):
    shared = {"backbone": str(tiny_folder("t5")), "tmp": str(tmp_path), "mode": "first-order", "batch_size": 4}
    process = launch(tmp_path, 2, name="stopped", steps=4000, **shared)
    run = tmp_path / "stopped"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if run.exists() and (run / "gates.parquet").exists() and open_run(run).n_steps > 3:
            break
        time.sleep(0.2)
    open_run(run).stop()
    finished(process)
    stopped = open_run(run)
    assert stopped.status == "stopped"
    assert 3 < stopped.n_steps < 4000


def test_alone_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = find_processes()
    assert type(processes) is Processes
    assert processes.leads
    assert processes.share("a") == "a"
    assert processes.any(True)
    assert not processes.any(False)
