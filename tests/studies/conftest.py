"""A cheap study, for the tests of studies."""

from __future__ import annotations

import pytest
from study_problems import SMALL


@pytest.fixture(scope="module")
def small(tiny_folder):
    """Options of a cheap study: an encoder, which has no answer to generate."""
    return {"backbone": str(tiny_folder("bert", layers=1)), **SMALL}
