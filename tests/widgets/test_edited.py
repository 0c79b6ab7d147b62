"""A structure that is edited in the page, in Python."""

from __future__ import annotations

import json

import pytest
from widget_runs import space

from s3pet_viz.errors import StructureError
from s3pet_viz.widgets import StructureExplorer


@pytest.fixture
def pinned(finished):
    """A finished run that has a gate pinned in (5 parameters), and one pinned out (10)."""
    *gates, inside, outside = space(3, 3)
    sides = {"in": [inside], "out": [outside]}
    return finished(gates=gates, pinned={side: [g.to_dict() for g in found] for side, found in sides.items()})


def test_what_was_clicked_is_a_structure(pinned):
    view = StructureExplorer(pinned)
    assert view.edited is None
    run, n = view.run, len(pinned.gates_list)
    chosen = [gate.index for gate in run.structure(pinned=False).gates]
    view.page.edit = {"gates": [*chosen, n], "budget": None, "step": None}
    assert view.edited == run.structure()
    assert "edits" not in view.edited.source
    free = next(i for i in range(n) if i not in chosen and run.gates_list[i].n_params <= run.gates_list[chosen[0]].n_params)
    view.page.edit = {"gates": [*chosen[1:], free, n], "budget": None, "step": None}
    made = view.edited
    said = {"by": "hand", "added": [run.gates_list[free].name], "removed": [run.gates_list[chosen[0]].name]}
    assert made.source["edits"] == [said]
    assert made.budget == run.structure().budget
    view.page.edit = {"gates": [n + 1], "budget": 20, "step": 4}
    assert [gate.key for gate in view.edited.gates] == [run.pinned_out[0].key]
    assert view.edited.budget == 20
    view.page.edit = {"gates": list(range(n)), "budget": None, "step": None}
    with pytest.raises(StructureError, match="exceed the budget"):
        _ = view.edited
    view.page.edit = {"gates": [99], "budget": None, "step": None}
    with pytest.raises(StructureError, match="expected gates from 0 to"):
        _ = view.edited
    view.close()


def test_the_page_is_told_of_pinned_gates(pinned):
    view = StructureExplorer(pinned)
    doc = json.loads(view.page.doc)
    assert doc["space"]["pinned"]["inside"] == 1
    assert [gate["position"] for gate in doc["space"]["pinned"]["gates"]] == [
        gate.position for gate in (*pinned.pinned_in, *pinned.pinned_out)
    ]
    assert doc["run"]["smallest"] == int(pinned.counts.min()) + pinned.pinned_params
    view.close()
