"""Positions read off a model: those of the tables where there is one, and sensible ones where there is none."""

from __future__ import annotations

import pytest
from tiny_families import TINY

from s3pet_viz.backbones import family_of, positions
from s3pet_viz.backbones.discovery import discover

#: Tiny models of families whose table says what discovery does not find -> why. None today.
ODD: dict[str, str] = {}


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_discovery_names_what_the_tables_name(tiny):
    """Same names, canonical modules, stacks, layers, kinds and widths, in the same order; the rest is left out."""
    model = tiny.model()
    found = discover(model, family_of(model).stacks)
    if tiny.name in ODD:
        assert found.positions != positions(model), f"discovery names {tiny.name} now: take it out of ODD"
        return
    assert found.positions == positions(model)
    named = {p.name for p in found.positions}
    assert set(found.left_out) == set(tiny.left_out)
    assert not named & set(found.left_out)
