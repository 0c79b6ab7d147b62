"""The viewer on a search of 10,000 gates, as an 80-layer model has: its kernel's memory, and that it is not slow by nature."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from s3pet_viz.analysis.grid import column_order
from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift
from s3pet_viz.viewer import pack
from s3pet_viz.widgets import StructureExplorer

GATES, STEPS, BUDGET = 10_000, 1000, 200_000

#: What a view of the run in argv[1] takes, in MB, beside one of a small run: at its end, and at most (Linux says both).
MEMORY = """
import sys
from s3pet_viz.widgets import LiveView
LiveView(sys.argv[2]).close()
open("/proc/self/clear_refs", "w").write("5")
said = lambda name: int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) / 1024
before = said("VmRSS")
view = LiveView(sys.argv[1])
view._tell(0)
state = view.page.get_state()
print(said("VmRSS") - before, said("VmHWM") - before, len(state["values"]))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    rng = np.random.default_rng(0)
    modules = [f"{part}.{name}" for part in ("SelfAttn", "CrossAttn") for name in "QKVO"] + ["FFN.W1", "FFN.W2"]
    gates = [
        Gate(i, f"encoder.{i // 20}.{i % 20}", "encoder", i // 20, modules[i % 10], ("LoRA", "BitFit")[i // 10 % 2], 100 + i % 7)
        for i in range(GATES)
    ]
    counts, goal = np.array([g.n_params for g in gates]), rng.normal(0, 3, GATES)
    facts = {"backbone": "made up", "backbone_params": 10**8, "budget": BUDGET, "steps_total": STEPS}
    path = tmp_path_factory.mktemp("many") / "run"
    with RunWriter.create(path, gates=gates, config={"task": "made up", "backbone": "made up"}, extra=facts) as writer:
        zeta = 0.0
        for step in range(STEPS):
            alpha = goal * step / STEPS
            if step % 100 == 0 or step == STEPS - 1:
                zeta = solve_shift(alpha.astype(np.float32), counts, BUDGET)
            writer.append(
                step=step, seconds=0.1, zeta=zeta, train_loss=1.0, val_loss=1.0, lr=1e-3, alpha=alpha,
                p=probabilities(alpha, zeta),
            )  # fmt: skip
        writer.set_status("finished")
    return path


def seconds(call) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def test_columns_are_ordered_in_one_pass(many):
    """Twice as many gates take about twice as long."""
    gates = open_run(many).gates_list
    assert column_order(gates) == [f"E.{i}" for i in range(GATES // 20)]
    half, whole = (min(seconds(lambda some=some: column_order(some)) for _ in range(5)) for some in (gates[: GATES // 2], gates))
    assert whole < 6 * half


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says how much memory was used")
def test_the_kernel_takes_at_most_50_mb_more(many, finished):
    command = [sys.executable, "-W", "error", "-c", MEMORY, str(many), str(finished().path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    held, most, sent = map(float, done.stdout.split())
    assert sent == 2 * GATES * STEPS, "all of the history"
    assert held <= 50
    assert most <= 60, "and for a moment not much more"


def test_a_page_gets_every_step(many):
    view = StructureExplorer(many)
    state = view.page.get_state()
    rows = json.loads(state["live"])["rows"]
    assert (rows["from"], rows["count"], rows["wide"], rows["stride"]) == (0, STEPS, False, 1)
    assert len(state["values"]) == 2 * GATES * STEPS
    # The last step as it is.
    assert np.array_equal(np.frombuffer(state["last"], np.float32), view.run.alpha())
    assert np.flatnonzero(view.frame.selected).tolist() == [g.index for g in view.run.structure().gates]
    view.close()


def test_longer_runs_are_thinned_and_say_their_stride(many, monkeypatch):
    monkeypatch.setattr(pack, "MOST", 9 << 20)
    view = StructureExplorer(many)
    state = view.page.get_state()
    rows = json.loads(state["live"])["rows"]
    assert (rows["stride"], rows["count"]) == (4, STEPS // 4)
    steps = np.frombuffer(state["scalars"]).reshape(rows["count"], -1)[:, 0]
    assert steps.tolist() == list(range(0, STEPS, 4))
    view.close()
