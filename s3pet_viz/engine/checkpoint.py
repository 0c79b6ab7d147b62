"""The state of a search on disk: one safetensors file, replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from s3pet_viz.engine.fingerprint import check_same
from s3pet_viz.engine.stability import Stability
from s3pet_viz.engine.state import State
from s3pet_viz.errors import RunError
from s3pet_viz.files import parse_json, write_bytes_atomic
from s3pet_viz.runs import Run, layout
from s3pet_viz.runs.place import disk_errors

FILE = "state.safetensors"


def save_checkpoint(
    folder: Path, state: State, *, next_step: int, fingerprint: Mapping[str, Any], stability: Stability | None = None
) -> None:
    """Write w, alpha, both optimisers, how long the selected structure has been the same and what pruning has seen.
    Random numbers are functions of (seed, step) and need no state.

    Raises:
        DiskError: the disk refuses; an earlier checkpoint stays.
    """
    tensors = {"w": state.w.flat, "alpha": state.alpha}
    tensors |= {f"w_opt.{k}": v for k, v in state.w_opt.state().items()}
    tensors |= {f"alpha_opt.{k}": v for k, v in state.alpha_opt.state().items()}
    if state.pruning is not None:
        tensors["scores"] = state.pruning.scores
    data = save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        metadata={
            "next_step": str(next_step),
            "fingerprint": json.dumps(fingerprint, sort_keys=True),
            "stability": json.dumps(None if stability is None else stability.state()),
            **({} if state.pruning is None else {"pruning": json.dumps(state.pruning.state())}),
        },
    )
    with disk_errors(folder / FILE):
        folder.mkdir(exist_ok=True)
        write_bytes_atomic(folder / FILE, data, parents=False)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one, damaged or not."""
    return (folder / FILE).is_file()


def first_step_of(run: Run, steps: int) -> int:
    """The first step that a resumed search takes; `steps`, of all, where only its end is left to be written.

    Raises:
        RunError: it has finished, or its checkpoint is missing or damaged.
    """
    folder = run.path / layout.CHECKPOINT
    # It ended before its first checkpoint, which comes before the first step.
    if not has_checkpoint(folder) and not run.n_steps:
        return 0
    step = next_step_of(folder)
    handed_out = run.config.get("save") is None or run.scores() is not None
    if step >= steps and run.status == "finished" and handed_out:
        raise RunError(f"{run.path}: the search has already taken all of its {steps} steps")
    return step


def next_step_of(folder: Path) -> int:
    """The first step that a resumed search takes.

    Raises:
        RunError: there is no checkpoint, or it is damaged.
    """
    return int(_metadata(folder)["next_step"])


def load_checkpoint(
    folder: Path, state: State, *, fingerprint: dict[str, Any], stability: Stability | None = None
) -> int:
    """Put a checkpoint back into `state` and `stability`; return the next step.

    Raises:
        RunError: no checkpoint, a damaged one, or one of another search space, backbone or data.
    """
    metadata = _metadata(folder)
    saved = parse_json(metadata["fingerprint"])
    now = json.loads(json.dumps(fingerprint))
    check_same(saved, now, str(folder / FILE))
    try:
        with safe_open(folder / FILE, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 - not a dict
        if tensors["w"].shape != state.w.flat.shape or tensors["alpha"].shape != state.alpha.shape:
            raise RunError(f"{folder / FILE}: expected {state.w.flat.numel()} weights, found {tensors['w'].numel()}")
        for name, optimizer in (("w_opt", state.w_opt), ("alpha_opt", state.alpha_opt)):
            for key, like in optimizer.state().items():
                if tensors[f"{name}.{key}"].shape != like.shape:
                    raise RunError(
                        f"{folder / FILE}: {name}.{key}: expected shape {tuple(like.shape)}, found "
                        f"{tuple(tensors[f'{name}.{key}'].shape)}"
                    )
        for name, values in tensors.items():
            if values.is_complex() or not torch.isfinite(values).all():
                raise RunError(f"{folder / FILE}: {name}: expected finite numbers")
            if name.endswith((".t", ".v")) and values.numel() and values.min() < 0:  # steps, second moments
                raise RunError(f"{folder / FILE}: {name}: expected 0 or more, found {float(values.min()):g}")
        state.w.set(tensors["w"].to(state.w.flat))
        state.alpha = tensors["alpha"].to(state.alpha)
        for name, optimizer in (("w_opt", state.w_opt), ("alpha_opt", state.alpha_opt)):
            optimizer.load({key: tensors[f"{name}.{key}"] for key in optimizer.state()})
        if state.pruning is not None:
            with _part(folder / FILE, "pruning"):
                state.pruning.load(parse_json(metadata["pruning"]), tensors["scores"])
        # Checkpoints of versions that could not end early hold none.
        with _part(folder / FILE, "stability"):
            if stability is not None and (saved := parse_json(metadata.get("stability", "null"))) is not None:
                stability.load(saved)
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{folder / FILE}: the checkpoint is damaged ({error})") from None
    return int(metadata["next_step"])


@contextmanager
def _part(path: Path, name: str) -> Iterator[None]:
    """Raises RunError, which names this part of a checkpoint, where it cannot be taken up inside."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: the checkpoint is damaged ({name}: {error})") from None


def saved_fingerprint(run: Run) -> dict[str, Any]:
    """What the data and the backbone of a run were when it began: as its checkpoint says, else run.json.

    Raises:
        RunError: the checkpoint is damaged.
    """
    folder = run.path / layout.CHECKPOINT
    if has_checkpoint(folder):
        found: dict[str, Any] = parse_json(_metadata(folder)["fingerprint"])
        return found
    known = run.info.get("fingerprint")
    return known if isinstance(known, dict) else {}


def _metadata(folder: Path) -> dict[str, str]:
    path = folder / FILE
    if not path.is_file():
        raise RunError(f"{path}: there is no checkpoint to resume from")
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
        if not 0 <= int(metadata["next_step"]) < 2**53:
            raise ValueError(f"next_step {metadata['next_step']:.20}")
        if not isinstance(parse_json(metadata["fingerprint"]), dict):
            raise ValueError("fingerprint is no object")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path}: the checkpoint is damaged ({error})") from None
    return metadata
