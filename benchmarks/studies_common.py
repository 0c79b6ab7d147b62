"""What the scripts that run the recorded studies share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import s3pet_viz as s3
from s3pet_viz.files import write_json_atomic

DATA = Path(__file__).resolve().parent.parent / "data"
RUNS, STUDIES = DATA / "runs", DATA / "studies"


def report(cell: Any, result: Mapping[str, Any]) -> None:
    """One line a finished cell."""
    row = result.get("row", {})
    said = f"score {row['score']:.4f}, loss {row['loss']:.4f}" if "score" in row else result.get("error", "")
    print(f"{time.strftime('%H:%M:%S')} {cell.key}: {result['status']} {said} ({result['seconds']:.0f} s)", flush=True)


def keep_runs(study: s3.Study, prefix: str = "") -> None:
    """Move the study's finished searches to data/runs/<prefix><task>-<budget>-s<seed>, where they open by name."""
    for cell in study.cells:
        folder = study.path / "runs" / cell["key"]
        if cell["kind"] != "search" or not folder.is_dir() or s3.open_run(folder).status != "finished":
            continue
        labels = cell["labels"]
        name = f"{prefix}{labels['task']}-{labels['budget'].replace('%', 'pct')}-s{labels['seed']}"
        shutil.rmtree(RUNS / name, ignore_errors=True)
        shutil.move(folder, RUNS / name)
        for left in ("checkpoint", "lock", "log.txt", "control.json"):
            if (RUNS / name / left).is_dir():
                shutil.rmtree(RUNS / name / left)
            else:
                (RUNS / name / left).unlink(missing_ok=True)
        about = RUNS / name / "run.json"
        write_json_atomic(about, {**json.loads(about.read_text(encoding="utf-8")), "name": name})
        path = study.path / "cells" / f"{cell['key']}.json"
        write_json_atomic(path, {**json.loads(path.read_text(encoding="utf-8")), "recorded": name})


def keep_cells_only(study: s3.Study) -> None:
    """Drop the searches' folders of a study that is kept for its scores; the cells hold the structures."""
    for folder in (study.path / "runs").glob("*"):
        if s3.open_run(folder).status == "finished":
            shutil.rmtree(folder)
