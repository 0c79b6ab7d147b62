"""Seconds and memory to open a folder of runs as a table, with its thumbnails as HTML.

    python benchmarks/speed/many_runs.py [--runs 500]

Copies of one recorded run, each with another seed. A process of its own opens them: what it holds beyond the imports is
what counts. Promised for 500 runs: 2 s and 200 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import s3pet_viz as s3

CHILD = """
import resource, sys, time
import s3pet_viz as s3
s3.open_runs("sentiment-0.2pct-s0").table()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
found = s3.open_runs(sys.argv[1])
opened = time.perf_counter() - start
made = found.table()
tabled = time.perf_counter() - start
pictures = sum(len(row.thumbnail()) for row in found.rows)
print(f"{len(made)} runs: opened {opened:.2f} s, table {tabled:.2f} s, with every thumbnail "
      f"({pictures / 1e3:.0f} kB) {time.perf_counter() - start:.2f} s; {peak() - before:.0f} MB more than before, {peak():.0f} MB in all")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    count = parser.parse_args().runs
    source = s3.open_run("sentiment-0.2pct-s0").path
    with TemporaryDirectory() as folder:
        for i in range(count):
            made = Path(shutil.copytree(source, Path(folder) / f"run-{i:04d}"))
            about = json.loads((made / "run.json").read_text())
            about["config"]["seed"] = i
            (made / "run.json").write_text(json.dumps(about))
        subprocess.run([sys.executable, "-c", CHILD, folder], check=True)


if __name__ == "__main__":
    main()
