"""What the scripts that run the recorded studies share."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pack import pack

import s3pet_viz as s3
from s3pet_viz.files import write_json_atomic

DATA = Path(__file__).resolve().parents[2] / "data"
RUNS, STUDIES = DATA / "runs", DATA / "studies"


#: Where the real tasks lie, as recorded studies say it; `point_at` says where they lie here.
ELSEWHERE = "path/to/datasets"


def moved(node: Any, to: str, data: str = ELSEWHERE) -> Any:
    """JSON values with the tasks in `data`, or in a folder called datasets, moved to `to`, the embedded ones to data/tasks."""
    if isinstance(node, dict):
        return {k: moved(v, to, data) for k, v in node.items()}
    if isinstance(node, list):
        return [moved(v, to, data) for v in node]
    folder, slash, name = node.rpartition("/") if isinstance(node, str) else ("", "", "")
    if slash and (folder == data or Path(folder).name == "datasets"):
        return f"{to}/{name}"
    return f"data/tasks/{name}" if slash and folder.endswith("data/tasks") else node


def move_paths(path: Path, to: str = ELSEWHERE, data: str = ELSEWHERE) -> None:
    """`moved` for a JSON file, in place."""
    was = json.loads(path.read_text(encoding="utf-8"))
    now = moved(was, to, data)
    if now != was:
        write_json_atomic(path, now)


def point_at(study: Path, data: Path) -> None:
    """Let a recorded study's plan find the real tasks in this folder, so that it can be gone on with."""
    if (study / "study.json").exists():
        move_paths(study / "study.json", str(data.resolve()))


def portable(study: Path, data: Path = Path(ELSEWHERE)) -> None:
    """The reverse: a study as it is recorded, packed and without a path of this machine."""
    move_paths(study / "study.json", data=str(data.resolve()))
    pack(study, lambda result: moved(result, ELSEWHERE, str(data.resolve())))


def report(cell: Any, result: Mapping[str, Any]) -> None:
    """One line a finished cell."""
    row = result.get("row", {})
    said = f"score {row['score']:.4f}, loss {row['loss']:.4f}" if "score" in row else result.get("error", "")
    print(f"{time.strftime('%H:%M:%S')} {cell.key}: {result['status']} {said} ({result['seconds']:.0f} s)", flush=True)


def keep_runs(
    study: s3.Study, prefix: str = "", seeds: Collection[int] | None = None, data: Path = Path(ELSEWHERE)
) -> None:
    """Move the study's finished searches to data/runs/<prefix><task>-<budget>-s<seed>, where they open by name.

    Of other seeds than these only the cell stays, with its structure and where its loss ended: data/ is to stay small.
    """
    for cell in study.cells:
        folder = study.path / "runs" / cell["key"]
        if cell["kind"] != "search" or not folder.is_dir() or s3.open_run(folder).status != "finished":
            continue
        labels = cell["labels"]
        name = f"{prefix}{labels['task']}-{labels['budget'].replace('%', 'pct')}-s{labels['seed']}"
        path = study.path / "cells" / f"{cell['key']}.json"  # goes before its line, if the study was packed
        result = {**(study.result(cell["key"]) or {}), "train_loss_end": end_of_loss(s3.open_run(folder))}
        if seeds is not None and labels["seed"] not in seeds:
            write_json_atomic(path, result)
            shutil.rmtree(folder)
            continue
        shutil.rmtree(RUNS / name, ignore_errors=True)
        shutil.move(folder, RUNS / name)
        for left in ("checkpoint", "lock", "log.txt", "control.json"):
            if (RUNS / name / left).is_dir():
                shutil.rmtree(RUNS / name / left)
            else:
                (RUNS / name / left).unlink(missing_ok=True)
        about = RUNS / name / "run.json"
        write_json_atomic(about, {**json.loads(about.read_text(encoding="utf-8")), "name": name})
        for file in (about, RUNS / name / "structure.json"):
            move_paths(file, data=str(data.resolve()))
        write_json_atomic(path, {**result, "recorded": name})


def end_of_loss(run: s3.Run) -> float:
    """Mean training loss of the last fifth of the steps."""
    loss = run.steps()["train_loss"].to_numpy()
    return float(loss[-(len(loss) // 5) :].mean())


def ends_of_losses(study: s3.Study) -> dict[str, float]:
    """`end_of_loss` of a study's searches, by cell."""
    ends = {}
    for cell in study.cells:
        result = study.result(cell["key"])
        if cell["kind"] == "search" and result is not None:
            known = result.get("train_loss_end")
            ends[cell["key"].removeprefix("search-")] = known or end_of_loss(s3.open_run(result["recorded"]))
    return ends


def keep_cells_only(study: s3.Study) -> None:
    """Drop the searches' folders of a study that is kept for its scores; the cells hold the structures."""
    for folder in (study.path / "runs").glob("*"):
        if s3.open_run(folder).status == "finished":
            shutil.rmtree(folder)
