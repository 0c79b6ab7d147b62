"""The viewer's module under node, without a browser."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s3pet_viz.viewer import page

NODE = shutil.which("node")
REQUIRED = os.environ.get("S3PET_BROWSER") == "required"
_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """``node(name, arguments)``: what `driver.mjs` answers; the module is the one that pages get."""
    if NODE is None:
        if REQUIRED:
            pytest.fail("node is needed here: apt-get install nodejs")
        pytest.skip("no node found (apt-get install nodejs)")
    made = tmp_path_factory.mktemp("module") / "viewer.mjs"
    made.write_text(page.module(), encoding="utf-8")
    command = [NODE, str(Path(__file__).parent / "driver.mjs"), made.as_uri()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(name: str, arguments: Any = None) -> Any:
            process.stdin.write(json.dumps({"do": name, "with": _plain(arguments)}, allow_nan=False) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, "node has ended"
            answer = json.loads(line)
            assert "error" not in answer, answer["error"]
            return _back(answer["is"])

        yield ask
        process.stdin.close()
        process.wait(180)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _back(value: Any) -> Any:
    if isinstance(value, str):
        return _ODD.get(value, value)
    if isinstance(value, dict):
        return {key: _back(one) for key, one in value.items()}
    return [_back(one) for one in value] if isinstance(value, list) else value
