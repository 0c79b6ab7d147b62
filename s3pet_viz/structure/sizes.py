"""The PET types of the published code: where they go, their options and the shapes of their weights, without torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from s3pet_viz.structure.tables import Kind

Shapes = dict[str, tuple[int, ...]]


class Form(NamedTuple):
    """Of a PET type.

    Attributes:
        kinds: where it may go.
        defaults: options where nothing else is said; the keys are all that it has.
        shapes: the shape of each weight, of (input width, output width, options).
    """

    kinds: tuple[Kind, ...]
    defaults: Mapping[str, Any]
    shapes: Callable[[int, int, Mapping[str, Any]], Shapes]


def _lora(width: int, d: int, options: Mapping[str, Any]) -> Shapes:
    return {"lora_A": (options["r"], width), "lora_B": (d, options["r"])}


def _adapter(_: int, d: int, options: Mapping[str, Any]) -> Shapes:
    k = options["bottleneck"]
    return {"down": (k, d), "down_bias": (k,), "up": (d, k), "up_bias": (d,)}


def _low_rank(_: int, d: int, options: Mapping[str, Any]) -> Shapes:
    k = max(1, d // options["reduction"])
    down = {"down_left": (d,), "down_right": (k,), "down_bias": (k,)}
    return {**down, "up_left": (k,), "up_right": (d,), "up_bias": (d,)}


def _compacter(_: int, d: int, options: Mapping[str, Any]) -> Shapes:
    n = options["n"]
    k = n * max(1, round(d / options["reduction"] / n))
    down = {"down_rule": (n, n, n), "down_left": (n, d // n), "down_right": (n, k // n), "down_bias": (k,)}
    return {**down, "up_rule": (n, n, n), "up_left": (n, k // n), "up_right": (n, d // n), "up_bias": (d,)}


FORMS: Mapping[str, Form] = {
    "LoRA": Form(("linear",), {"r": 1, "lora_alpha": 16}, _lora),
    "BitFit": Form(("linear", "norm"), {}, lambda _, d, __: {"bias": (d,)}),
    "LNFit": Form(("norm",), {}, lambda _, d, __: {"weight": (d,)}),
    "Adapter": Form(("block",), {"bottleneck": 24}, _adapter),
    "LowRankAdapter": Form(("block",), {"reduction": 32}, _low_rank),
    "Compacter": Form(("block",), {"reduction": 16, "n": 4}, _compacter),
}


def pet_params(pet_type: str, widths: tuple[int, int], options: Mapping[str, Any]) -> int:
    """Parameters of a PET type at a position of these widths."""
    form = FORMS[pet_type]
    return sum(math.prod(shape) for shape in form.shapes(*widths, {**form.defaults, **options}).values())
