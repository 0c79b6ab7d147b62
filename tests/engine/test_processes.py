"""Two processes are one process with the doubled batch."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from forks import Forked

from s3pet_viz.runs import open_run
from s3pet_viz.training.processes import Processes, find_processes

SCRIPT = Path(__file__).parent / "processes_script.py"


CASES = [("t5", "fast"), ("bert", "fast"), ("t5", "prune"), ("bert", "prune")]


def launch(server, folder, processes, searches):
    """The script's searches, in so many processes; those processes."""
    what = folder / f"{processes}.json"
    what.write_text(json.dumps(searches))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {"ACCELERATE_USE_CPU": "true"}
        if processes > 1:  # as `accelerate launch` and torchrun tell it
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(Forked(server, server.start(script=SCRIPT.read_text(), argv=[str(what)], environment=environment)))
    return started


@pytest.fixture(scope="module")
def searched(server, tmp_path_factory, tiny_folder):
    """The folder of all searches here: ``one-FORM-MODE``, ``two-FORM-MODE``, and ``stopped``, which two processes began."""
    folder = tmp_path_factory.mktemp("processes")

    def searches(name, batch_size):
        return [
            {"backbone": str(tiny_folder(form, layers=1)), "out": str(folder / f"{name}-{form}-{mode}"), "steps": 6, "mode": mode, "batch_size": batch_size}
            for form, mode in CASES
        ]  # fmt: skip

    endless = {"backbone": str(tiny_folder("t5", layers=1)), "out": str(folder / "stopped"), "steps": 4000, "mode": "first-order", "batch_size": 4}
    processes = [*launch(server, folder, 2, [*searches("two", 6), endless]), *launch(server, folder, 1, searches("one", 12))]
    run = folder / "stopped"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and processes[0].poll() is None:
        if (run / "run.json").exists() and (run / "gates.parquet").exists() and open_run(run).n_steps > 3:
            open_run(run).stop()
            break
        time.sleep(0.2)
    statuses = [process.wait(600) for process in processes]
    assert statuses == [0, 0, 0], [server.said(back)[-2000:] for back in (3, 2, 1)]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("form", "mode"), CASES)
def test_two_processes_give_the_alpha_of_the_doubled_batch(searched, form, mode):
    one, two = (open_run(searched / f"{name}-{form}-{mode}") for name in ("one", "two"))
    assert two.status == "finished"
    assert two.n_steps == 6
    # prune: of scores, not of their logarithms; that of a gate that cannot help is rounding.
    form_of = np.exp if mode == "prune" else np.asarray
    a, b = form_of(one.alphas()), form_of(two.alphas())
    assert np.abs(one.alphas()).max() > 0.1
    np.testing.assert_allclose(b, a, atol=1e-6)  # the step log keeps float32
    exact = [form_of(np.load(f"{run.path}-alpha.npy")) for run in (one, two)]
    np.testing.assert_allclose(exact[1], exact[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(two.steps()["train_loss"], one.steps()["train_loss"], rtol=1e-9)
    np.testing.assert_allclose(two.steps()["val_loss"], one.steps()["val_loss"], rtol=1e-9)
    assert one.structure().keys == two.structure().keys


@pytest.mark.slow
def test_processes_are_stopped_together(searched):
    stopped = open_run(searched / "stopped")
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
