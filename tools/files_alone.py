"""Runs every test file and notebook alone, in a process of its own, and names those that fail: ``python tools/files_alone.py``.

What has passed is noted in build/files_alone.jsonl, with its CPU seconds, and passed over the next time; with ``--again``
all begin anew. Names of files, or the beginnings of their paths, choose among them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DONE = ROOT / "build" / "files_alone.jsonl"


def files() -> list[str]:
    tests = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "browser" not in p.parts]
    return [str(path.relative_to(ROOT)) for path in [*tests, *sorted((ROOT / "notebooks").glob("*.ipynb"))]]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def passes(name: str) -> bool:
    """Runs one file, prints what it said if it failed, and notes it if it passed."""
    before = cpu_seconds()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not browser", name]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False
    )
    seconds = round(cpu_seconds() - before, 1)
    passed = result.returncode in (0, 5)  # 5: all its tests need a browser
    print(f"{'passed' if passed else 'FAILED'} {seconds:6.1f} s  {name}", flush=True)
    if passed:
        with DONE.open("a", encoding="utf-8") as done:
            done.write(json.dumps({"file": name, "seconds": seconds}) + "\n")
    else:
        print(result.stdout[-6000:], result.stderr[-2000:], sep="\n", flush=True)
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--again", action="store_true", help="also those that have passed")
    options = parser.parse_args()
    DONE.parent.mkdir(exist_ok=True)
    if options.again:
        DONE.unlink(missing_ok=True)
    lines = DONE.read_text(encoding="utf-8").splitlines() if DONE.exists() else []
    done = {json.loads(line)["file"] for line in lines}
    chosen = [n for n in files() if n not in done and (not options.names or n.startswith(tuple(options.names)))]
    failed = [name for name in chosen if not passes(name)]
    print(f"{len(chosen)} files run alone, {len(failed)} failed: {' '.join(failed) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
