"""nbval compares the figures of the notebooks too: as numbers, to 6 digits, because the last ones differ between processors.

Their pictures are drawn from them afterwards (tools/refresh_notebooks.py), and are not compared. Searches and trainings
whose outputs are not compared either take fewer steps here (`QUICK`). Kernels are forked from a process that has torch.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# jsonschema, which nbformat loads, would build 38 grammars of addresses (5 s in every process); notebooks have none to check.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
import forks  # noqa: E402
from jupyter_client.provisioning import local_provisioner  # noqa: E402
from nbval.plugin import IPyNbCell  # noqa: E402

_DIGITS = 6
_NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"

#: Notebook -> what stands at the end of its cell of parameters here. None of them changes an output that is compared.
QUICK = {
    "01_watch_a_search": {"steps": 20},
    "02_explain_a_structure": {"tune_steps": 2, "rows": 16},
    "04_transfer": {"score_rows": 4, "steps": 2, "workers": 1, "max_rows": 16, "out": "runs/transfer-quick"},
    "05_your_own_model_and_task": {"steps": 15},
}


def readable(value: Any) -> Any:
    """A plotly figure's JSON with its packed arrays as lists, and every float rounded."""
    if isinstance(value, dict):
        if set(value) <= {"bdata", "dtype", "shape"} and "bdata" in value:
            packed = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]))
            return readable(packed.tolist())
        return {key: readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(item) for item in value]
    if isinstance(value, float):
        # Adding 0.0 turns -0.0 into 0.0.
        return None if np.isnan(value) else float(f"{value:.{_DIGITS}g}") + 0.0
    return value


_sanitize = IPyNbCell.sanitize


def sanitize(cell: IPyNbCell, output: Any) -> Any:
    # As text, so that nbval can show where two of them differ.
    return json.dumps(readable(output), indent=0, sort_keys=True) if isinstance(output, dict) else _sanitize(cell, output)


IPyNbCell.sanitize = sanitize

_compare = IPyNbCell.compare_outputs


def compare_outputs(cell: IPyNbCell, test: Any, ref: Any, skip_compare: Any = None) -> Any:
    return _compare(cell, test, ref, (*(skip_compare or cell.parent.skip_compare), "image/png", "image/svg+xml"))


IPyNbCell.compare_outputs = compare_outputs

_runtest = IPyNbCell.runtest


def runtest(cell: IPyNbCell) -> None:
    changes = QUICK.get(cell.parent.path.stem, {})
    if "parameters" in cell.cell.metadata.get("tags", []):
        known = {line.partition(" = ")[0] for line in cell.cell.source.splitlines()}
        assert changes.keys() <= known, f"{cell.parent.path}: its cell of parameters has {known}"
        cell.cell.source += "".join(f"\n{name} = {value!r}" for name, value in changes.items())
    _runtest(cell)


IPyNbCell.runtest = runtest

_launch_kernel = local_provisioner.launch_kernel


def launch_kernel(cmd: list[str], **options: Any) -> Any:
    """Of the notebooks: to import torch takes seconds in each. Others' kernels begin as they do."""
    ours = sys.platform.startswith("linux") and Path(options.get("cwd") or ".").resolve() == _NOTEBOOKS
    if not ours:
        return _launch_kernel(cmd, **options)
    return forks.shared().kernel(cmd, dict(options["env"]), _NOTEBOOKS)


local_provisioner.launch_kernel = launch_kernel


def pytest_unconfigure() -> None:
    forks.close()
