"""What a watcher costs a search.

    python benchmarks/speed/watch_cost.py --pairs 300

One search of the embedded backbone, pinned to one core, and `s3.watch` on it in a real Jupyter kernel that runs where the system
puts it. The view follows for some seconds and rests for as long, again and again; which comes first in a pair is drawn by chance.
Compared are the mean step times of the two halves of a pair, by the search's own clock. (Whole runs, one after the other, differ by
10 % on a virtual machine whose host is shared; neighbouring seconds differ much less.) The interval is a 95 % interval of the mean
log ratio over pairs (Student's t). Promised: at most 2 %, and at least 2 frames a second (messages to the page, which draws each
of them within a frame of its own: benchmarks/speed/views.py).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jupyter_client.manager import start_new_kernel
from scipy.stats import t

import s3pet_viz as s3

#: Equal batches: every step does the same work.
SEARCH = (
    "--task acceptability --budget 0.2% --steps 1000000 --batch-size 4 --threads 1 --quiet --device cpu "
    "--set max_source_length=6"
)
#: What the kernel has used of the processor, and how many messages it has sent.
STATE = "import time; print(time.process_time(), view.updates)"


def execute(client, code: str) -> str:
    """What the code prints in the kernel."""
    said: list[str] = []

    def hear(message):
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))

    client.execute_interactive(code, output_hook=hear, timeout=120)
    return "".join(said)


class Half(NamedTuple):
    """A stretch: the mean log step time (the steps at its ends, half in it, are left out), the kernel's use of a core, steps and
    frames a second.
    """

    took: float
    core: float
    steps: float
    frames: float


def half(run: s3.Run, client, watched: bool, seconds: float) -> Half:
    execute(client, "view.follow()" if watched else "view._end_thread()")
    used, frames = map(float, execute(client, STATE).split())
    first, began = run.n_steps, time.perf_counter()
    time.sleep(seconds)
    took = run.steps()["seconds"].to_numpy()[first + 1 :]
    passed = time.perf_counter() - began
    used_now, frames_now = map(float, execute(client, STATE).split())
    return Half(float(np.log(took).mean()), (used_now - used) / passed, len(took) / passed, (frames_now - frames) / passed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=1, help="of half a pair")
    parser.add_argument("--core", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        command = [sys.executable, "-m", "s3pet_viz", "search", *SEARCH.split(), "--out", str(folder)]
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, {args.core}),
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            while not (folder / "run.json").exists():
                time.sleep(0.1)
            run = s3.open_run(folder)
            execute(client, f"import s3pet_viz as s3\nview = s3.watch({str(folder)!r})")
            time.sleep(5)  # both processes are warm
            ratios: list[float] = []
            halves: dict[bool, list[Half]] = {True: [], False: []}
            for k in range(args.pairs):
                order = draw.choice([(True, False), (False, True)])
                took = {watched: half(run, client, watched, args.seconds) for watched in order}
                if min(one.steps for one in took.values()) * args.seconds < 2:
                    print(f"pair {k}: too few steps", end="  ", flush=True)  # another process had the core
                    continue
                ratios.append(took[True].took - took[False].took)
                for watched in order:
                    halves[watched].append(took[watched])
                print(f"pair {k}: {100 * np.expm1(ratios[-1]):+.1f} %", end="  ", flush=True)
            print()
        finally:
            manager.shutdown_kernel(now=True)
            child.kill()
            child.wait()
    mean, wide = np.mean(ratios), t.ppf(0.975, len(ratios) - 1) * np.std(ratios, ddof=1) / len(ratios) ** 0.5
    low, middle, high = (100 * np.expm1(x) for x in (mean - wide, mean, mean + wide))
    own, idle = (100 * np.mean([one.core for one in halves[watched]]) for watched in (True, False))
    steps, frames = (np.mean([getattr(one, name) for one in halves[True]]) for name in ("steps", "frames"))
    print(f"the search takes {steps:.1f} steps a second, the view shows {frames:.1f} frames a second (promised: at least 2)")
    print(f"the kernel uses {own:.2f} % of a core while it watches and {idle:.2f} % while it rests: on the search's own core it could cost no more than that")
    print(f"a watcher costs {middle:+.2f} % a step (95 % interval {low:+.2f} to {high:+.2f} %, {len(ratios)} pairs; promised: at most 2 %)")


if __name__ == "__main__":
    main()
