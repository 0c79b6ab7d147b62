"""How quick the views are: opening a run of 1,000 gates x 10,000 steps, and the budget slider with its redraw.

    python benchmarks/views.py [--gates 10000 --steps 1000]

Prints both with what was promised: under 1 s and under 100 ms; and what attaching a live view costs in memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from s3pet_viz.runs import RunWriter, open_run
from s3pet_viz.structure import Gate, probabilities, solve_shift


def record(path: Path, n_gates: int, n_steps: int, budget: int) -> None:
    """A run whose alpha wanders from 0 to its goal."""
    rng = np.random.default_rng(0)
    modules = [f"{part}.{name}" for part in ("SelfAttn", "CrossAttn") for name in "QKVO"] + ["FFN.W1", "FFN.W2"]
    gates = [
        Gate(i, f"encoder.{i // 20}.{i % 20}", "encoder", i // 20, modules[i % 10], ("LoRA", "BitFit")[i // 10 % 2], 100 + i % 7)
        for i in range(n_gates)
    ]
    counts, goal = np.array([g.n_params for g in gates]), rng.normal(0, 3, n_gates)
    facts = {"backbone": "made up", "backbone_params": 10**8, "budget": budget, "steps_total": n_steps}
    with RunWriter.create(path, gates=gates, config={"task": "made up", "backbone": "made up"}, extra=facts) as writer:
        for step in range(n_steps):
            alpha = goal * step / n_steps
            if step % 100 == 0:  # often enough for a view
                zeta = solve_shift(alpha, counts, budget)
            writer.append(
                step=step, seconds=0.1, zeta=zeta, train_loss=1 / (step + 1), val_loss=1 / (step + 1), lr=1e-3,
                alpha=alpha, p=probabilities(alpha, zeta),
            )  # fmt: skip
        writer.set_status("finished")


def held() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        record(path, args.gates, args.steps, 20 * args.gates)
        print(f"{args.gates:,} gates x {args.steps:,} steps")

        from s3pet_viz.widgets import LiveView, StructureExplorer

        LiveView().close()  # what is imported and made once is no part of it
        before = held()
        began = time.perf_counter()
        view = LiveView(path)
        took, grown = time.perf_counter() - began, held() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before
        print(f"live view: opened in {took:.2f} s, {grown:.0f} MB more, {peak:.0f} MB at most (promised: under 100 MB)")
        view.close()

        opened = []
        for _ in range(5):
            began = time.perf_counter()
            run = open_run(path)
            assert run.n_steps == args.steps
            opened.append(time.perf_counter() - began)
        print(f"open_run with every step: {statistics.median(opened):.2f} s (promised: under 1 s)")

        explorer = StructureExplorer(run)
        took_each = []
        for budget in np.geomspace(200, 90 * args.gates, 30):
            began = time.perf_counter()
            explorer.budget_slider.value = float(budget)
            assert explorer.wait()
            took_each.append(1000 * (time.perf_counter() - began))
        middle, worst = statistics.median(took_each), max(took_each)
        print(f"budget slider, solved and redrawn: median {middle:.0f} ms, worst {worst:.0f} ms (promised: under 100 ms)")
        explorer.close()


if __name__ == "__main__":
    main()
