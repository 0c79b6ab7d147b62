"""Attach PET modules to a live backbone with forward hooks, and take them off again."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from s3pet_viz.backbones.families import position_at
from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.position import Position
from s3pet_viz.backbones.quantised import is_packed
from s3pet_viz.errors import SpaceError, StructureError
from s3pet_viz.pet.fused import add_low_rank_adapter, can_add, can_fuse, fused_forward
from s3pet_viz.pet.modules import (
    PET,
    PET_CLASSES,
    LoRA,
    LowRankAdapter,
    are_units,
    check_options,
    lora_delta,
    side_by_side,
)
from s3pet_viz.structure import Gate
from s3pet_viz.structure.units import check_units
from s3pet_viz.threads import LOCK


class PETs(nn.ModuleList):
    """The PET modules of a list of gates, in gate order, attached to a backbone.

    The backbone's own modules, parameters and state dict stay as they are: the deltas come in through
    forward hooks, or through the forward of one instance where there is a fused form (`pet.fused`), so nothing
    is copied, and `detach` leaves the backbone bit-identical.

    Attributes:
        fused: use the fused forms; False where gradients are to be differentiated again.
        closed: gates that are 0 and left out of the pass.
    """

    def __init__(self, model: nn.Module, gates: Sequence[Gate], *, seed: int = 0) -> None:
        check_units(gates, "structure")
        sites = [_site(model, gate) for gate in gates]
        with LOCK:  # against a loading, which changes what `nn.init` and the default dtype are
            kind = _stream(model)
            pets = [_begun(gate, site, seed, kind) for gate, site in zip(gates, sites, strict=True)]
        super().__init__(pets)
        self.gates = tuple(gates)
        self.z: Sequence[Tensor] | None = None
        self.fused = True
        self.closed: frozenset[int] = frozenset()
        self._patched: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []
        fast = {
            m for layer in model.modules() if isinstance(layer, nn.TransformerEncoderLayer) for m in layer.modules()
        }
        at: dict[nn.Module, list[int]] = defaultdict(list)
        for i, site in enumerate(sites):
            at[site.target].append(i)
        for target, indices in at.items():
            members = [(i, pets[i]) for i in indices]
            # An instance's own forward is someone else's (accelerate, another insertion): go beside it. And torch's own
            # encoder layer may compute without its parts, but not where one of them has a hook.
            alone = "forward" not in vars(target) and target not in fast
            fused = fused_forward(target, members, self) if alone else None
            if fused is None:
                self._handles.append(target.register_forward_hook(_hook(self, members)))
            else:
                target.forward = _either(self, target, fused, _hook(self, members))
                self._patched.append(target)

    def hold(self, z: Tensor | None) -> None:  # z: (n_gates,)
        """Multiply each delta by its gate from now on; None means every gate is 1."""
        # One unbind node in the graph: indexing z gate by gate would pad each gradient to n_gates.
        self.z = None if z is None else z.unbind()

    @contextmanager
    def gated(self, z: Tensor | None) -> Iterator[None]:  # z: (n_gates,)
        """Multiply each delta by its gate inside this context; None means every gate is 1."""
        self.hold(z)
        try:
            yield
        finally:
            self.z = None

    def detach(self) -> None:
        """Take everything off the backbone."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for target in self._patched:
            del target.forward
        self._patched.clear()

    def weights(self) -> dict[str, nn.Parameter]:
        """The PET weights by name ``<position>.<PET type>.<weight>``, of a unit ``<position>.LoRA.3.<weight>``; in gate
        order.
        """
        return {
            f"{'.'.join(gate.key)}.{name}": parameter
            for gate, pet in zip(self.gates, self, strict=True)
            for name, parameter in pet.named_parameters()
        }


def insert(model: nn.Module, gates: Sequence[Gate], *, seed: int = 0) -> PETs:
    """Insert PET modules for these gates into a backbone, in place. Raises StructureError: a gate's position is not in
    this backbone, its PET type cannot go there, its options are wrong, or its size there differs.
    """
    return PETs(model, gates, seed=seed)


def _site(model: nn.Module, gate: Gate) -> Position:
    site = position_at(model, gate)
    if site is None:
        raise StructureError(f"structure: this backbone has no position {gate.position!r} ({gate.module})")
    cls = PET_CLASSES.get(gate.pet_type)
    if cls is None:
        raise StructureError(f"structure: expected a PET type among {', '.join(PET_CLASSES)}, found {gate.pet_type!r}")
    if site.kind not in cls.kinds:
        raise StructureError(f"structure: {gate.pet_type} cannot go on {gate.position!r}, which is a {site.kind}")
    try:
        check_options(gate.pet_type, gate.options, f"{gate.pet_type} at {gate.position!r}")
        size = cls.n_params(site, gate.options)
    except SpaceError as error:
        raise StructureError(f"structure: {error}") from None
    if size != gate.n_params:
        raise StructureError(
            f"structure: {gate.pet_type} at {gate.position!r} has {size:,} parameters in this backbone, "
            f"expected {gate.n_params:,}; the structure is for another backbone"
        )
    return site


def _stream(model: nn.Module) -> torch.dtype:
    """What a model with quantised weights computes in: the type of those that are not."""
    kinds = (p.dtype for p in model.parameters() if not is_packed(p))
    return next(kinds, torch.float32)


def _begun(gate: Gate, site: Position, seed: int, stream: torch.dtype) -> PET:
    """A gate's module with its initial weights, on the device of its target. `stream`: their type where the target's
    is none to compute in."""
    pet = PET_CLASSES[gate.pet_type](site, gate.options)
    # A seed of its own: the start of a module depends on no other module of the structure.
    pet.reset(torch.Generator().manual_seed(zlib.crc32("|".join((str(seed), *gate.key)).encode())))
    like = next(site.target.parameters())
    place = computes_on(site.target)
    for p in pet.parameters():
        p.data = p.data.to(place, stream if is_packed(like) else like.dtype)
    return pet


def _either(pets: PETs, target: nn.Module, fused: Callable[[Tensor], Tensor], hook: Any) -> Any:
    """The fused forward where it holds in this pass, else the module's own with the deltas added."""
    own = type(target).forward

    def forward(x: Tensor) -> Tensor:
        if pets.fused and can_fuse(target, x):
            return fused(x)
        made: Tensor = hook(target, (x,), own(target, x))
        return made

    return forward


def _hook(pets: PETs, members: Sequence[tuple[int, PET]]) -> Any:
    loras: list[tuple[int, Any]] = [(i, m) for i, m in members if type(m) is LoRA]
    units = loras if len(loras) > 1 and are_units([m for _, m in loras]) else []
    parallel = [(i, m) for i, m in members if m.method == "parallel" and not (units and type(m) is LoRA)]
    sequential = [(i, m) for i, m in members if m.method == "sequential"]

    def add(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        gates = pets.z
        several = isinstance(output, (tuple, list))  # OpenAI's GPT gives a list
        main = output[0] if several else output
        total = main
        if held := [(i, m) for i, m in units if i not in pets.closed]:
            z = None if gates is None else torch.stack([gates[i] for i, _ in held])
            a, b = side_by_side([m for _, m in held])
            total = total + lora_delta(args[0], a, b, held[0][1].scale, z).to(main.dtype)
        for i, pet in parallel:
            if i in pets.closed:
                continue
            total = total + pet.delta(args[0], None if gates is None else gates[i]).to(main.dtype)
        base = total
        for i, pet in sequential:
            if i in pets.closed:
                continue
            z = None if gates is None else gates[i]
            if pets.fused and type(pet) is LowRankAdapter and base is total and can_add(pet, base):
                total = add_low_rank_adapter(base, pet, z)
            else:
                total = total + pet.delta(base, z).to(main.dtype)
        if not several:
            return total
        return (total, *output[1:]) if isinstance(output, tuple) else [total, *output[1:]]

    return add
