"""Take over what another checkout has measured of a recorded study: its cells, and its searches as recorded runs.

    python benchmarks/studies/collect.py ../elsewhere/data/studies/tiny-t5
    python benchmarks/studies/collect.py ../elsewhere/data/studies/minilm --prefix minilm-

Only cells with a result are taken, so the study may still be running there. Cells that are here stay as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from studies_common import RUNS, STUDIES, keep_runs, move_paths, portable

import s3pet_viz as s3
from s3pet_viz.analysis.study import read_result
from s3pet_viz.files import write_json_atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--prefix", default="", help="of the recorded runs' names")
    parser.add_argument("--seeds", type=int, nargs="*", help="record searches of these seeds alone")
    args = parser.parse_args()
    theirs, mine = args.study.resolve(), STUDIES / args.study.name
    plan = json.loads((theirs / "study.json").read_text(encoding="utf-8"))
    here = mine / "study.json"
    known = {c["key"]: c for c in (json.loads(here.read_text(encoding="utf-8"))["cells"] if here.exists() else [])}
    known |= {c["key"]: c for c in plan["cells"] if c["key"] not in known}
    taken = {c["key"]: read_result(theirs, c["key"]) for c in plan["cells"] if read_result(mine, c["key"]) is None}
    taken = {key: result for key, result in taken.items() if result is not None}
    for key, result in taken.items():
        write_json_atomic(mine / "cells" / f"{key}.json", result)
        name = result.get("recorded")
        if name and (theirs.parent.parent / "runs" / name).is_dir():  # kept as a recorded run there already
            shutil.copytree(theirs.parent.parent / "runs" / name, RUNS / name, dirs_exist_ok=True)
            for file in ("run.json", "structure.json"):
                move_paths(RUNS / name / file)
        elif (theirs / "runs" / key).is_dir() and result["status"] == "done":
            shutil.copytree(theirs / "runs" / key, mine / "runs" / key, dirs_exist_ok=True)
    done = [c for c in known.values() if read_result(mine, c["key"]) is not None]
    write_json_atomic(here, {**plan, "cells": done})
    keep_runs(s3.open_study(mine), args.prefix, args.seeds)
    shutil.rmtree(mine / "runs", ignore_errors=True)
    portable(mine)
    print(f"{mine}: {len(taken)} cells taken, {len(done)} in all")


if __name__ == "__main__":
    main()
