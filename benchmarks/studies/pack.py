"""Pack studies that have ended: their cells become one file, cells.jsonl, a line each.

    python benchmarks/studies/pack.py runs/study [more folders]

A packed study opens and goes on as before. What it gains later lies in cells/ until it is packed again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from s3pet_viz.analysis.study import PACKED, Study, packed, read_result
from s3pet_viz.files import write_text_atomic
from s3pet_viz.runs.lock import WriterLock, refuse_held


def pack(folder: Path, change: Callable[[Any], Any] = lambda result: result) -> int:
    """Write every cell of a study that has a result to cells.jsonl, then remove the files of the cells.

    A result of a cell that is not in the plan is kept too: nothing is lost.

    Args:
        change: what to make of each result on the way.

    Returns:
        Cells in the file.

    Raises:
        StudyError: no study, or a damaged cell; nothing is changed then.
        LockHeldError: the study is being run.
    """
    study = Study(folder)
    cells = study.path / "cells"
    with ExitStack() as held:
        held.callback(WriterLock(study.path / "lock").release)
        locks = list(cells.glob("*.lock"))
        for path in locks:  # a worker that outlived its study
            refuse_held(path)
        files = sorted(cells.glob("*.json"))
        known = [*(cell["key"] for cell in study.cells), *packed(study.path), *(path.stem for path in files)]
        results = {key: read_result(study.path, key) for key in known}
        lines = [
            json.dumps(change({**found, "key": key}), ensure_ascii=False, allow_nan=False)
            for key, found in results.items()
            if found is not None
        ]
        write_text_atomic(study.path / PACKED, "".join(f"{line}\n" for line in lines))
        for path in (*files, *locks):
            path.unlink()
        with suppress(OSError):  # something else lies there
            cells.rmdir()
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    for folder in parser.parse_args().studies:
        print(f"{folder}: {pack(folder)} cells")


if __name__ == "__main__":
    main()
