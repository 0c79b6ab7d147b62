"""What reading costs: a long run by its ends, a folder of many runs, and small files that ask for much.

    python benchmarks/speed/reading_cost.py --runs 3000 --gates 10000 --steps 5000

Each is opened in a process of its own; given are seconds and the peak of memory above what the process had before. The limits are
0.2 s and 50 MB for a run's summary, 3 s for the list, 1 s and 500 MB for each file that is refused (`tests/hostile_files.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from s3pet_viz.runs import RunWriter
from s3pet_viz.structure import Gate

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))

from hostile_files import KINDS, TORCH_KINDS  # noqa: E402

_OPEN = """
import json, resource, sys, time
from pathlib import Path
from s3pet_viz.runs import open_run
from s3pet_viz.runs.listing import Listing
sys.path.insert(0, {tests!r})
from hostile_files import held, peak
path = Path(sys.argv[1])
{before}
before, began = held(), time.perf_counter()
{code}
print(json.dumps({{"seconds": time.perf_counter() - began, "mb": peak() - before}}))
"""


def make_run(path: Path, n_gates: int, steps: int) -> None:
    """A finished run of this size."""
    gates = [
        Gate(i, f"encoder.block.{i % 100}.m{i // 100}", "encoder", i % 100, "SelfAttn.Q", f"P{i // 100}", 100)
        for i in range(n_gates)
    ]
    extra = {"backbone": "b", "backbone_params": 10**8, "budget": 10_000, "steps_total": steps}
    alpha, p = np.linspace(-1, 1, n_gates), np.full(n_gates, 0.5)
    with RunWriter.create(path, gates=gates, config={"task": "t", "seed": 0}, extra=extra) as writer:
        for step in range(steps):
            writer.append(step=step, seconds=1, zeta=0, train_loss=1, val_loss=1, lr=1, alpha=alpha, p=p)
        writer.set_status("finished")


def cost(path: Path, code: str, before: str = "") -> dict[str, float]:
    """Seconds and MB of some code in a process of its own."""
    script = _OPEN.format(code=code, before=before, tests=str(TESTS))
    made = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(made.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--gates", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        long = Path(folder) / "long"
        make_run(long, options.gates, options.steps)
        print(f"a run of {options.gates:,} gates x {options.steps:,} steps")
        for name, code, before in (
            ("opened", "run = open_run(path)", ""),
            ("repr", "repr(run)", "run = open_run(path)"),
            ("_repr_html_", "run._repr_html_()", "run = open_run(path)"),
            ("status, n_steps", "run.status; run.n_steps", "run = open_run(path)"),
            ("opened, repr, _repr_html_", "run = open_run(path); repr(run); run._repr_html_()", ""),
        ):
            found = cost(long, code, before)
            print(f"  {name:<28}{found['seconds']:8.3f} s {found['mb']:8.1f} MB")
        many = Path(folder) / "many"
        for number in range(options.runs):
            make_run(many / f"r{number}", 100, 3)
        found = cost(many, "Listing(path)")
        print(f"a folder of {options.runs:,} runs listed{found['seconds']:16.3f} s {found['mb']:8.1f} MB")
    print("small files that ask for much, refused")
    for name, (make, _) in (KINDS | TORCH_KINDS).items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            command = [sys.executable, str(TESTS / "hostile_files.py"), name, folder]
            made = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(made.stdout)
        print(f"  {name:<34}{size / 1e6:8.2f} MB file{found['seconds']:8.3f} s {found['mb']:8.1f} MB  {found['said'][-90:]}")


if __name__ == "__main__":
    main()
