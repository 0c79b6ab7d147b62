"""What a watcher costs a search: paired runs with and without one.

    python benchmarks/watch_cost.py --pairs 10

Each pair is one search of the embedded backbone alone and one watched by `s3.watch` in a real Jupyter kernel, in an order
drawn by chance. The search is pinned to one core; the kernel runs where the system puts it, so it competes as in real use on
this machine's other cores. Compared is the mean time of a step, by the search's own clock; the interval is a 95 % interval of
the mean log ratio (Student's t over pairs).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from jupyter_client.manager import start_new_kernel
from scipy.stats import t

import s3pet_viz as s3

WATCH = """
import s3pet_viz as s3
view = s3.watch({path!r})
"""
MEASURE = """
import json, resource
print(json.dumps({"updates": view.updates, "step": view.frame.step, "cpu": resource.getrusage(resource.RUSAGE_SELF).ru_utime}))
"""


def search(folder: Path, steps: int, core: int, watched: bool) -> tuple[float, dict[str, float]]:
    """Mean seconds of a step, the first tenth left out, and what the watcher did."""
    command = [sys.executable, "-m", "s3pet_viz", "search", "--task", "similarity", "--budget", "0.2%", "--steps", str(steps)]
    command += ["--out", str(folder), "--threads", "1", "--quiet", "--device", "cpu", "--set", "checkpoint_every=1000000"]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    facts: dict[str, float] = {}
    manager = client = None
    try:
        if watched:
            manager, client = start_new_kernel(kernel_name="python3")
            while not (folder / "run.json").exists():
                time.sleep(0.02)
            execute(client, WATCH.format(path=str(folder)))
        child.wait()
        if client is not None:
            time.sleep(1.5)
            facts = json.loads(execute(client, MEASURE))
    finally:
        if manager is not None:
            manager.shutdown_kernel(now=True)
    seconds = s3.open_run(folder).steps()["seconds"].to_numpy()
    assert len(seconds) == steps, f"{folder}: {len(seconds)} of {steps} steps"
    return float(seconds[steps // 10 :].mean()), facts


def execute(client, code: str) -> str:
    said: list[str] = []

    def hear(message):
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))

    client.execute_interactive(code, output_hook=hear, timeout=120)
    return "".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--core", type=int, default=0)
    args = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        did: dict[str, float] = {}
        for k in range(args.pairs):
            order = [False, True]
            random.Random(k).shuffle(order)
            took = {}
            for watched in order:
                took[watched], facts = search(Path(folder) / f"{k}-{watched}", args.steps, args.core, watched)
                did = facts if watched else did
            ratios.append(np.log(took[True] / took[False]))
            print(f"pair {k}: alone {1e3 * took[False]:.1f} ms, watched {1e3 * took[True]:.1f} ms a step", did, flush=True)
    mean, half = np.mean(ratios), t.ppf(0.975, len(ratios) - 1) * np.std(ratios, ddof=1) / len(ratios) ** 0.5
    low, middle, high = (100 * (np.exp(x) - 1) for x in (mean - half, mean, mean + half))
    print(f"a watcher costs {middle:+.2f} % a step (95 % interval {low:+.2f} to {high:+.2f} %, {len(ratios)} pairs)")


if __name__ == "__main__":
    main()
