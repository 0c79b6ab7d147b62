from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Writer = Callable[..., Path]


@pytest.fixture
def write_task(tmp_path: Path) -> Writer:
    """Writes a task folder: each split a list of rows, or raw bytes; `task_json` a dict."""

    def write(folder: str, task_json: object = None, **splits: Any) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            raw = (
                rows if isinstance(rows, bytes) else "".join(json.dumps(row) + "\n" for row in rows).encode()
            )
            (place / f"{split}.jsonl").write_bytes(raw)
        if task_json is not None:
            (place / "task.json").write_text(json.dumps(task_json), encoding="utf-8")
        return place

    return write
