"""What many tests measure of the same model is measured once, in all processes of a test session."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forks import MEASURED

from s3pet_viz.pet.inert import inert_gates
from s3pet_viz.pet.redundant import redundant_pairs
from s3pet_viz.training import candidates

_KNOWN: dict[Any, Any] = {}


def share() -> None:
    """From here on, in this process and those it forks."""
    candidates.inert_gates, candidates.redundant_pairs = inert_gates_once, redundant_pairs_once


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for name, value in tensors.items():
        made.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        made.update(value.detach().contiguous().view(torch.uint8).numpy() if value.dim() else str(value.item()).encode())
    return made.hexdigest()


def _once(measure: Callable[..., Any], model, gates, batch, autocast) -> Any:
    """One answer for the same class, config, weights, gates and precision, and of a mixture of experts the same batch,
    which need not reach each; None where it has to be measured again: only models of transformers as they were loaded,
    in memory, compute what these say.
    """
    tensors = model.state_dict()
    plain = type(model).__module__.startswith("transformers.")
    if not plain or any(m._forward_pre_hooks or m._forward_hooks or "forward" in vars(m) for m in model.modules()):
        return None
    if any(value.device.type != "cpu" for value in tensors.values()):
        return None
    key = (
        measure, type(model), model.config.to_json_string(), model.config._attn_implementation, _digest(tensors),
        tuple(map(repr, gates)), repr(autocast.__self__), *sorted(batch),
    )  # fmt: skip
    if "expert" in key[2]:
        key += (_digest(batch),)
    if key not in _KNOWN:
        _KNOWN[key] = _kept(key, lambda: measure(model, gates, batch, autocast))
    return _KNOWN[key]


def _kept(key: Any, measure: Callable[[], Any]) -> Any:
    if MEASURED not in os.environ:
        return measure()
    path = Path(os.environ[MEASURED]) / hashlib.blake2b(repr((key[0].__name__, *key[1:])).encode()).hexdigest()
    if not path.exists():
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(pickle.dumps(measure()))
        new.replace(path)
    return pickle.loads(path.read_bytes())


def inert_gates_once(model, gates, batch, autocast, output=None):
    """As `pet.inert.inert_gates`."""
    found = _once(inert_gates, model, gates, batch, autocast) if output is None else None
    if found is None:
        return inert_gates(model, gates, batch, autocast, output)
    by_key = {gate.key: gate for gate in gates}
    return tuple(by_key[gate.key] for gate in found)


def redundant_pairs_once(model, gates, batch, autocast):
    """As `pet.redundant.redundant_pairs`."""
    found = _once(redundant_pairs, model, gates, batch, autocast)
    if found is None:
        return redundant_pairs(model, gates, batch, autocast)
    by_key = {gate.key: gate for gate in gates}
    return tuple((by_key[a.key], by_key[b.key]) for a, b in found)
