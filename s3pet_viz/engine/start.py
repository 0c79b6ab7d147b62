"""A warm start: alpha from another run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from s3pet_viz.errors import ConfigError, RunError, SourceError, printable
from s3pet_viz.files import name_or_folder
from s3pet_viz.runs import Run
from s3pet_viz.sources import RUN, open_source
from s3pet_viz.structure import Gate


def start_label(start_from: Any) -> Any:
    """What the config keeps of a run to start from: its path, or the name it was given by."""
    if isinstance(start_from, Run):
        return str(start_from.path)
    named = isinstance(start_from, (str, os.PathLike)) and str(start_from)
    return name_or_folder(start_from) if named else start_from


def open_start(start_from: str) -> Run:
    """The run to start from, with at least one step.

    Raises:
        RunError: missing or damaged, without a step, or its last alpha is no number. SourceError: it is no run.
    """
    try:
        run: Run = open_source(start_from, allow=RUN)
        run.alpha()
    except (RunError, SourceError) as error:
        raise type(error)(f"start_from: {error}") from None
    return run


def start_alpha(
    run: Run, gates: Sequence[Gate], *, backbone: str, backbone_params: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Where alpha begins, from the last step of another run.

    Gates are matched by their position and PET type, whatever their options. Only differences between alpha count, for
    the shift zeta takes up what is added to all of them: the matched ones keep theirs, with mean 0, and a gate
    that the other run lacks starts at that mean.

    Args:
        run: as `open_start` gives it.
        gates: the search space of the new search; gate i has index i.
        backbone, backbone_params: of the new search. Another one than `run`'s gets a warning: then only the
            names of the positions say which gates belong together.

    Returns:
        alpha, float64, shape (n_gates,), and what run.json keeps: run, backbone, step, matched, gates.

    Raises:
        ConfigError: the two have no gate in common.
    """
    alpha, step = run.alpha().astype(np.float64), int(run.steps(last=1)["step"].iloc[-1])
    there = {gate.key: gate.index for gate in run.gates_list}
    pairs = [(gate.index, there[gate.key]) for gate in gates if gate.key in there]
    space = run.config.get("space")
    whose = f"space {space.get('name') if isinstance(space, dict) else space} on {run.info['backbone']}"
    if not pairs:
        ours, theirs = gates[0], run.gates_list[0]
        raise ConfigError(
            f"start_from: expected a run with at least one gate of this search ({len(gates)} on {backbone}, such as "
            f"{ours.pet_type} at {ours.position}), found {run.name} with none of them ({whose}: {len(there)}, such as "
            f"{theirs.pet_type} at {theirs.position})"
        )
    if run.info["backbone_params"] not in (None, backbone_params):
        warnings.warn(
            printable(
                f"start_from: {run.name} was searched on {run.info['backbone']} ({run.info['backbone_params']:,} "
                f"parameters), this search is on {backbone} ({backbone_params:,}); {len(pairs)} of {len(gates)} gates "
                "are matched, by the names of their positions alone"
            ),
            stacklevel=2,
        )
    here, other = (list(indices) for indices in zip(*pairs, strict=True))
    start = np.zeros(len(gates))
    start[here] = alpha[other] - alpha[other].mean()
    facts = {
        "run": run.name,
        "backbone": run.info["backbone"],
        "step": step,
        "matched": len(pairs),
        "gates": len(gates),
    }
    return start, facts
