"""JupyterLab for a file of tests, and where its screenshots go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots go: $S3PET_SCREENSHOTS, to look at them."""
    folder = Path(os.environ.get("S3PET_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from lab import jupyterlab

    root = tmp_path_factory.mktemp("lab")
    with jupyterlab(root) as address:
        yield root, address
