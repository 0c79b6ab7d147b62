"""The three files of an adapter: written, and read with every field checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from s3pet_viz.errors import AdapterError
from s3pet_viz.export.folder import FILES, META, STRUCTURE, WEIGHTS
from s3pet_viz.files import check_kind, open_plain, read_json, write_bytes_atomic, write_json_atomic
from s3pet_viz.structure import Structure

SCHEMA_VERSION = 1
KIND = "s3pet_viz.adapter"
_MOST_JSON = 16 * 1024**2  # bytes


def write_adapter(folder: Path, structure: Structure, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the three files into a folder that is there."""
    data = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, {"format": "pt"})
    structure.save(folder / STRUCTURE)
    write_bytes_atomic(folder / WEIGHTS, data)
    meta = {"schema_version": SCHEMA_VERSION, "kind": KIND, **facts, "sha256": {WEIGHTS: _sha256(data)}}
    write_json_atomic(folder / META, meta)


def read_adapter(folder: Path) -> tuple[Structure, dict[str, Tensor], dict[str, Any]]:
    """The structure, the tensors and what ``adapter.json`` says. Raises AdapterError: a file is missing, damaged or of
    another version; names the file and the field. StructureError: the same of ``structure.json``.
    """
    for name in FILES:
        if not (folder / name).exists():
            raise AdapterError(f"{folder / name}: no such file; an adapter folder holds {', '.join(FILES)}")
    path = folder / META
    meta = check_kind(read_json(path, AdapterError, most=_MOST_JSON), KIND, SCHEMA_VERSION, AdapterError, path)
    sums = meta.get("sha256")
    if not isinstance(sums, dict) or not isinstance(sums.get(WEIGHTS), str):
        raise AdapterError(f"{path}: field 'sha256': expected an object with {WEIGHTS!r}, found {sums!r}")
    structure = Structure.load(folder / STRUCTURE)
    path = folder / WEIGHTS
    try:
        with os.fdopen(open_plain(path), "rb") as f:
            data = f.read()
        expected, found = sums[WEIGHTS], _sha256(data)
        if found != expected:
            raise AdapterError(
                f"{path}: expected the file that {META} was written with (field 'sha256': {expected[:12]}...), found "
                f"another ({found[:12]}...): damaged, or of another adapter"
            )
        tensors: dict[str, Tensor] = load(data)
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise AdapterError(f"{path}: expected safetensors, found something else ({error})") from None
    return structure, tensors, meta


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_tensors(structure: Structure, tensors: Mapping[str, Tensor], path: str, pet: str, head: str) -> None:
    """Every gate has its weights, as many numbers as it says, and nothing but a head is left over. `pet`, `head`: what
    the names of PET weights and of the head's begin with. Raises AdapterError: naming `path` and the tensor.
    """
    sizes = {".".join(g.key): 0 for g in structure.gates}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: {name}: expected finite floating-point numbers, found others")
        if name.startswith(head):
            continue
        gate = name.removeprefix(pet).rpartition(".")[0]
        if not name.startswith(pet) or gate not in sizes:
            raise AdapterError(f"{path}: {name}: expected a weight of a gate in {STRUCTURE} or of a head")
        sizes[gate] += tensor.numel()
    for g in structure.gates:
        found = sizes[".".join(g.key)]
        if found != g.n_params:
            raise AdapterError(
                f"{path}: {pet}{'.'.join(g.key)}: expected {g.n_params:,} numbers, as {STRUCTURE} says, found {found:,}"
            )


def read_fact(meta: Mapping[str, Any], name: str, kind: tuple[type, ...], where: str) -> Any:
    """A field of ``adapter.json``. Raises AdapterError: it is not of its type; names `where` and the field."""
    value = meta.get(name)
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and bool not in kind)
    if not wrong and name == "labels":
        wrong = not all(isinstance(v, str) for v in value)  # type: ignore[union-attr]
    if not wrong and name == "scores":
        wrong = not all(isinstance(v, (int, float)) for v in value.values())  # type: ignore[union-attr]
    if not wrong and name == "num_labels":
        wrong = not 0 <= value <= 10**6  # type: ignore[operator]
    if wrong or (name == "form" and value not in ("text", "pair", "own")):
        kinds = " or ".join("null" if k is type(None) else k.__name__ for k in kind)
        raise AdapterError(f"{where}: field {name!r}: expected {kinds}, found {value!r}")
    return value
