"""Pins on a small encoder, and what a structure that holds them must be."""

from __future__ import annotations

PIN = {"in": ["E.0 SelfAttn.Q LoRA", "*E.0*FFN.LN LNFit"], "out": ["*FFN.W1*", "*LowRankAdapter"]}


def names(gates):
    return {gate.name for gate in gates}


def check(structure):
    """Both pinned gates, none of those out, and never over the budget."""
    found = names(structure.gates)
    assert {(g.module, g.pet_type) for g in structure.gates} >= {("SelfAttn.Q", "LoRA"), ("FFN.LN", "LNFit")}
    assert not [g for g in structure.gates if g.module == "FFN.W1" or g.pet_type == "LowRankAdapter"]
    assert structure.n_params <= structure.budget
    assert set(structure.source["pinned"]["in"]) <= found
    assert structure.source["pinned"]["out"] == PIN["out"]
