"""Workbenches that tests of a module share; every training leaves them as it found them."""

from __future__ import annotations

import pytest
from tuning_problems import bench

from s3pet_viz.tuning import Workbench


@pytest.fixture(scope="module")
def bert() -> Workbench:
    return bench("bert")


@pytest.fixture(scope="module")
def t5() -> Workbench:
    return bench("t5")
