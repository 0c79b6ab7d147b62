"""What a searched structure is compared with: manual structures, random ones, the head alone, all weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from s3pet_viz.backbones import Backbone
from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates
from s3pet_viz.structure import Gate, Structure, select
from s3pet_viz.structure.pins import left_for, part, with_pinned
from s3pet_viz.structure.structure import gates_by_index
from s3pet_viz.structure.units import at_rank

_LINEAR = ("SelfAttn.?", "CrossAttn.?", "FFN.W1*", "FFN.W2")

#: Manual structures, each on its usual positions (arXiv 2206.07382, section 4.1).
MANUAL: dict[str, Space] = {
    "LoRA": Space("LoRA", (SpaceEntry("LoRA", ("SelfAttn.Q", "SelfAttn.V"), options={"r": 1}),)),
    "Adapter": Space("Adapter", (SpaceEntry("Adapter", ("SelfAttn", "FFN")),)),
    "LowRankAdapter": Space("LowRankAdapter", (SpaceEntry("LowRankAdapter", ("SelfAttn", "FFN")),)),
    "Compacter": Space("Compacter", (SpaceEntry("Compacter", ("SelfAttn", "FFN")),)),
    "BitFit": Space("BitFit", (SpaceEntry("BitFit", (*_LINEAR, "*.LN")),)),
    "LNFit": Space("LNFit", (SpaceEntry("LNFit", ("*.LN",)),)),
}

#: Baselines that are no structure. ``head``: an encoder's head alone. ``untouched``: no training at all.
#: ``full``: every weight of the backbone (an encoder's pooler too).
OTHERS = ("full", "head", "untouched")

#: LoRA on every linear layer, at the rank whose size is nearest to the budget.
EVERYWHERE = "LoRA-everywhere"

#: Of its budget that a structure uses at least where it is said to meet it.
NEAR = 0.95


def manual_structure(name: str, backbone: Backbone) -> Structure:
    """The manual structure of this name for this backbone.

    Cross-attention is left out of a name's positions where the backbone has none.

    Raises:
        ConfigError: no baseline of that name.
    """
    if name not in MANUAL:
        raise ConfigError(f"baseline: expected one of {', '.join((*MANUAL, 'random', *OTHERS))}, found {name!r}")
    found = backbone.positions()
    present = {p.module for p in found}
    space = MANUAL[name]
    if not any(m.startswith("CrossAttn") for m in present):
        own = [tuple(m for m in e.modules if not m.startswith("CrossAttn")) for e in space.entries]
        entries = (replace(e, modules=modules) for e, modules in zip(space.entries, own, strict=True))
        space = replace(space, entries=tuple(entries))
    gates, _ = candidate_gates(found, space)
    return Structure(tuple(gates), backbone.name, backbone.n_params, None, {"baseline": name})


def lora_gates(backbone: Backbone, **options: Any) -> list[Gate]:
    """LoRA on every linear layer."""
    return candidate_gates(backbone.positions(), Space("LoRA", (SpaceEntry("LoRA", ("*",), options=options),)))[0]


def lora_everywhere(backbone: Backbone, budget: int) -> Structure:
    """LoRA on every linear layer, of one rank: that whose size is nearest to a budget, at least 1.

    Each rank keeps the scale of rank one (lora_alpha 16 r), as units do. It has no budget of its own, for it may be
    above; what it misses, `against_budget` says.
    """
    gates = lora_gates(backbone, r=1)
    rank = max(1, math.ceil(budget / sum(g.n_params for g in gates) - 0.5))
    source = {"baseline": EVERYWHERE, "rank": rank}
    return Structure(tuple(at_rank(g, rank) for g in gates), backbone.name, backbone.n_params, None, source)


def against_budget(structure: Structure | None, budget: int | None) -> dict[str, Any]:
    """How a structure stands to a budget; None where it, or its method, has none.

    Returns:
        ``budget`` (in parameters), ``meets_budget`` (from `NEAR` of it to all of it) and ``words``, which are empty
        where it does.
    """
    if structure is None or budget is None:
        return {"budget": None, "meets_budget": None, "words": ""}
    size = structure.n_params
    meets = NEAR * budget <= size <= budget
    side = "above" if size > budget else "below"
    words = f"{size:,} parameters, {abs(size / budget - 1):.1%} {side} the budget of {budget:,}"
    if structure.source.get("baseline") == EVERYWHERE:
        words += f"; rank {structure.source['rank']} on every linear layer is the nearest"
    return {"budget": budget, "meets_budget": meets, "words": "" if meets else words}


def random_structure(
    gates: Sequence[Gate], budget: int, backbone: Backbone, seed: int, pin: Mapping[str, Sequence[str]] | None = None
) -> Structure:
    """A random structure: gates in random order, each taken if it still fits.

    Args:
        pin: what is in or out beforehand, as a search's `pin` keeps it; the others are drawn under what is left.

    Raises:
        BudgetError: no gate fits. ConfigError: as `structure.pins.part`.
    """
    if pin:
        pinned = part(gates, pin, budget)
        drawn = random_structure(pinned.gates, left_for(budget, pinned.inside), backbone, seed)
        return with_pinned(drawn, pinned, pin, budget)
    alpha = np.random.default_rng([seed, 77]).random(len(gates))
    chosen = select(alpha, [g.n_params for g in gates], budget)
    if not len(chosen):
        raise BudgetError(f"budget: no module of the space fits {budget:,} parameters")
    return Structure(
        gates_by_index(gates, chosen), backbone.name, backbone.n_params, budget, {"baseline": "random", "seed": seed}
    )
