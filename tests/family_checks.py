"""What works on a backbone family: one function a column of docs/compatibility.md, run by the tests and by its script.

A check takes a `TinyFamily` and returns ``pass``, or the reason why the package refuses; it fails by an AssertionError.
To add a column, add a function to `CHECKS`.
"""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from export_problems import adapter_of, structure_of
from peft import PeftModel
from problems import EVERYTHING, MOOD, assert_same, mood_data, mood_rows, snapshot
from tiny_families import TinyFamily
from torch import nn

import s3pet_viz as s3
from s3pet_viz.backbones import Backbone, positions, wrap_backbone
from s3pet_viz.errors import ExportError, S3PETError
from s3pet_viz.export import Adapter
from s3pet_viz.export.probe import difference, outputs
from s3pet_viz.pet import Space, candidate_gates, insert, load_space
from s3pet_viz.pet.fused import _rounds
from s3pet_viz.pet.insertion import PETs
from s3pet_viz.structure import Structure
from s3pet_viz.structure.budget import solve_shift

PASS = "pass"
Check = Callable[[TinyFamily], str]

BUDGET = 500


def logits(model: nn.Module, tiny: TinyFamily) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.inputs()).logits


def scramble(pets: PETs, scale: float = 0.3) -> PETs:
    generator = torch.Generator().manual_seed(9)
    for p in pets.parameters():
        p.data = scale * torch.randn(p.shape, generator=generator).to(p.dtype)
    return pets


def inserted(model: nn.Module, space: Space = EVERYTHING) -> PETs:
    return insert(model, candidate_gates(positions(model), space)[0])


def check_insertion(tiny: TinyFamily) -> str:
    """PET modules change nothing at the start, something once they have moved, and nothing when they are gone."""
    silent = Space("silent", tuple(e for e in EVERYTHING.entries if e.type in ("LoRA", "BitFit", "LNFit")))
    for dtype, tolerance in ((torch.float32, 0.0), (torch.float64, 1e-12)):
        model = tiny.model(layers=1).to(dtype).eval().requires_grad_(False)
        before, start = snapshot(model), logits(model, tiny)
        pets = inserted(model, silent)
        for pets.fused in (True, False):
            torch.testing.assert_close(logits(model, tiny), start, rtol=tolerance, atol=tolerance)
        pets.detach()
        pets = scramble(inserted(model))
        moved = logits(model, tiny)
        assert (moved - start).abs().max() > 1e-3
        with pets.gated(torch.zeros(len(pets), dtype=dtype)):  # closed gates are as good as none
            torch.testing.assert_close(logits(model, tiny), start, rtol=1e-5, atol=1e-5)
        pets.detach()
        assert_same(model, before)
        assert torch.equal(logits(model, tiny), start)
        assert not [m for m in model.modules() if m._forward_hooks or "forward" in vars(m)]
    return PASS


def check_search(tiny: TinyFamily, mode: str) -> str:
    """A search of two steps in this mode leaves a run whose numbers hold together, and the backbone as it was."""
    model, tokenizer = tiny.model(layers=1), tiny.make_tokenizer()
    before, start = snapshot(model), logits(model.eval(), tiny)
    with tempfile.TemporaryDirectory() as folder:
        run = s3.search(
            task=mood_data(32, 8), model=model, tokenizer=tokenizer, load={"task_spec": MOOD}, budget=BUDGET, mode=mode,
            steps=2, second_order_from=1, batch_size=4, device="cpu", progress=False, out=Path(folder) / "run",
        )  # fmt: skip
        steps, gates, structure = run.steps(), run.gates_list, run.structure()
    assert len(steps) == 2
    assert np.isfinite(steps["train_loss"]).all()
    assert np.isfinite(steps["val_loss"]).all() == (mode != "single-level")
    alpha, counts = np.stack(steps["alpha"]), np.array([g.n_params for g in gates])
    assert (alpha[-1] != 0).mean() > 0.5  # most gates have a gradient: B of a LoRA moves first, A only later
    assert {g.pet_type for g in gates} == {e.type for e in load_space("S3PET-M").entries}
    zeta = solve_shift(alpha[-1].astype(float), counts, BUDGET)
    p = 1 / (1 + np.exp(zeta - alpha[-1].astype(float)))
    assert abs(p @ counts - BUDGET) < 1e-2
    assert 0 < structure.n_params <= BUDGET
    assert_same(model, before)
    assert torch.equal(logits(model.eval(), tiny), start)
    return PASS


def check_tuning(tiny: TinyFamily) -> str:
    """A structure learns eight rows, and is scored on them by generation or by its head."""
    model, tokenizer = tiny.model(), tiny.make_tokenizer()
    before = snapshot(model)
    gates, _ = candidate_gates(positions(model), load_space("S3PET-M"))
    common: dict[str, Any] = {
        "task": dict.fromkeys(("train", "validation", "test"), mood_rows(8, 1)), "load": {"task_spec": MOOD}, "model": model, "tokenizer": tokenizer, "device": "cpu",
        "progress": False, "batch_size": 8,
    }  # fmt: skip
    untouched = s3.tune("untouched", **common)
    scores = s3.tune(Structure(tuple(gates), tiny.name, 1), steps=20, lr=2e-2, evaluations=1, **common)
    assert scores.metrics["loss"] < 0.8 * untouched.metrics["loss"]
    assert scores.score > max(0.5, untouched.score)
    assert_same(model, before)
    return PASS


def _double(tiny: TinyFamily) -> Backbone:
    return wrap_backbone(tiny.model().double(), tiny.make_tokenizer(), name=tiny.name)


@torch.no_grad()
def _tolerance(tiny: TinyFamily) -> float:
    """Gemma's norm and some others compute in float32 whatever the type: what they give is a float32 number. Only where
    a norm has a fused form, the PET modules compute as it does.
    """
    norms = {type(p.target): p for p in positions(tiny.model().double()) if p.kind == "norm"}
    plain = [p for kind, p in norms.items() if kind is not torch.nn.LayerNorm and _rounds(kind) is None]
    made = [p.target(torch.randn(2, p.in_features, dtype=torch.float64)) for p in plain]
    return 1e-6 if any(torch.equal(y, y.float().double()) for y in made) else 1e-12


def _trained(backbone: Backbone, types: tuple[str, ...]) -> tuple[Adapter, tuple[torch.Tensor, ...]]:
    """An adapter of weights far from zero, and the outputs that an export has to give."""
    adapter = adapter_of(backbone, structure_of(backbone, types=types))
    plain = outputs(backbone.model)
    with adapter.attach(backbone):
        expected = outputs(backbone.model)
    assert difference(plain, expected) > 1e-3
    return adapter, expected


def check_adapter(tiny: TinyFamily) -> str:
    """Every gate of S3PET-M in our own folder: the same outputs to the bit."""
    backbone = _double(tiny)
    adapter, expected = _trained(backbone, ())
    with tempfile.TemporaryDirectory() as folder:
        again = Adapter.from_pretrained(adapter.save_pretrained(Path(folder) / "adapter"))
    with again.attach(backbone):
        assert difference(expected, outputs(backbone.model)) == 0.0
    return PASS


def check_peft(tiny: TinyFamily) -> str:
    """LoRA and LNFit gates, loaded by PEFT."""
    backbone = _double(tiny)
    adapter, expected = _trained(backbone, ("LoRA", "LNFit"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Unsupported layer type .*Norm.* encountered", UserWarning)
        s3.to_peft(adapter, backbone, folder=Path(folder) / "peft")
        theirs = PeftModel.from_pretrained(tiny.model().double(), str(Path(folder) / "peft"))
        assert difference(expected, outputs(theirs)) < _tolerance(tiny)
    return PASS


def check_merge(tiny: TinyFamily, types: tuple[str, ...]) -> str:
    """Merged into plain weights, saved, and loaded by transformers; gates that need a bias nobody has are named."""
    backbone = _double(tiny)
    adapter, expected = _trained(backbone, types)
    gates = adapter.structure.gates
    names = {n for n, _ in backbone.model.base_model.named_parameters(remove_duplicate=False)}
    wanting = {g for g in gates if g.pet_type == "BitFit" and f"{g.position}.bias" not in names}
    if wanting:
        try:
            s3.merge(adapter, backbone)
        except ExportError as error:
            assert re.search(f"{len(wanting)} of {len(gates)} gates cannot be merged", str(error))  # noqa: PT017
        else:
            raise AssertionError("expected an ExportError")
        adapter = adapter.only(g for g in gates if g not in wanting)
        with adapter.attach(backbone):
            expected = outputs(backbone.model)
    if adapter.structure.gates:
        with tempfile.TemporaryDirectory() as folder:
            s3.merge(adapter, backbone, folder=Path(folder) / "merged")
            again = type(backbone.model).from_pretrained(Path(folder) / "merged", dtype=torch.float64).eval()
            if "experts_implementation" in tiny.config:  # it is not kept in a folder
                again.set_experts_implementation(tiny.config["experts_implementation"])
        assert difference(expected, outputs(again)) < _tolerance(tiny)
    left = len(gates) - len(wanting)
    return PASS if not wanting else f"{left} of {len(gates)} gates: the others' modules have no bias"


MODES = ("fast", "paper", "first-order", "single-level", "exact", "prune")

#: Columns of the table: heading -> check.
CHECKS: dict[str, Check] = {
    "insertion": check_insertion,
    **{mode: functools.partial(check_search, mode=mode) for mode in MODES},
    "tuning": check_tuning,
    "adapter": check_adapter,
    "PEFT": check_peft,
    "merged": functools.partial(check_merge, types=("LoRA", "LNFit")),
    "merged BitFit": functools.partial(check_merge, types=("BitFit",)),
}


def outcome(check: Check, tiny: TinyFamily) -> str:
    """What the table says: ``pass``, or the package's own reason."""
    try:
        return check(tiny)
    except S3PETError as error:
        return str(error)
