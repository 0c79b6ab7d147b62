"""The PET types in their unified form ``h_out <- m(h_in) + z * delta`` (Hu et al. 2022, table 1).

``parallel`` deltas read the module's input and are added first; ``sequential`` ones read that sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.nn import functional as F

from s3pet_viz.backbones.placed import computes_on
from s3pet_viz.backbones.position import Position
from s3pet_viz.errors import SpaceError
from s3pet_viz.structure.gate import LONGEST_PET_TYPE
from s3pet_viz.structure.sizes import FORMS, Form
from s3pet_viz.structure.tables import Kind

P = TypeVar("P", bound="PET")


class PET(nn.Module):
    """One PET module at one position.

    Subclasses are marked with `register` and named as users write the type. They set `kinds` (where it may go),
    `method` and `defaults` (its options), and define `shapes`, `reset` (unless all starts at zero) and `delta`.
    """

    kinds: ClassVar[tuple[Kind, ...]]
    method: ClassVar[Literal["parallel", "sequential"]]
    defaults: ClassVar[dict[str, Any]] = {}
    #: Options that are any positive number; all others are whole numbers of at least 1.
    reals: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, position: Position, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = {**self.defaults, **options}
        for name, shape in self.shapes(position, self.options).items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    @classmethod
    def shapes(cls, position: Position, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """Shape of each weight at this position."""
        raise NotImplementedError

    @classmethod
    def n_params(cls, position: Position, options: dict[str, Any]) -> int:
        """Trainable parameters at this position."""
        return sum(math.prod(s) for s in cls.shapes(position, {**cls.defaults, **options}).values())

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the initial weights; biases and all else stay zero."""

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:  # x: (..., in or out), z: () -> (..., out)
        """The gated delta. z multiplies the smallest tensor on the way."""
        raise NotImplementedError


#: PET types by name. `register` fills it; nothing else has to be told of a new one.
PET_CLASSES: dict[str, type[PET]] = {}


def register(cls: type[P]) -> type[P]:
    """Class decorator: make a PET type known to spaces, structures, the search and the views by its class name.

    Raises:
        SpaceError: the name is taken, or longer than 40 characters.
    """
    name = cls.__name__
    if name in PET_CLASSES or len(name) > LONGEST_PET_TYPE:
        raise SpaceError(f"PET type: expected a new name of at most {LONGEST_PET_TYPE} characters, found {name!r}")
    PET_CLASSES[name] = cls
    return cls


class _Published(PET):
    """A PET type whose `form` the ground has, so that its sizes are known where there is no torch."""

    form: ClassVar[Form]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "form" in vars(cls):
            cls.kinds, cls.defaults = cls.form.kinds, dict(cls.form.defaults)

    @classmethod
    def shapes(cls, position: Position, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        whole = {name: _positive(options, name) for name in cls.form.defaults if name not in cls.reals}
        return cls.form.shapes(position.in_features, position.out_features, whole)


@register
class LoRA(_Published):
    """``s * (h_in A^T) B^T`` with ``s = lora_alpha / r`` (Hu et al. 2021)."""

    form = FORMS["LoRA"]
    method = "parallel"
    reals = frozenset({"lora_alpha"})
    lora_A: nn.Parameter  # (r, in)
    lora_B: nn.Parameter  # (out, r)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B)

    @property
    def scale(self) -> float:
        return float(self.options["lora_alpha"] / self.options["r"])

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        return lora_delta(x, self.lora_A, self.lora_B, self.scale, z)


def lora_delta(x: Tensor, a: Tensor, b: Tensor, scale: float, z: Tensor | None) -> Tensor:
    """``scale (x a^T) diag(z) b^T``; x (..., in), a (r, in), b (out, r), z () or (r,)."""
    down = F.linear(x, a)
    return F.linear(down * (scale if z is None else z * scale), b)


def side_by_side(pets: Sequence[LoRA]) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) of units at one place, which compute as one product what each would add."""
    if len(pets) == 1:
        return pets[0].lora_A, pets[0].lora_B
    return torch.cat([pet.lora_A for pet in pets]), torch.cat([pet.lora_B for pet in pets], 1)


def are_units(pets: Sequence[PET]) -> bool:
    """Whether these are LoRAs of rank one with one scale."""
    ones = all(isinstance(pet, LoRA) and pet.options["r"] == 1 for pet in pets)
    return ones and len({pet.options["lora_alpha"] for pet in pets}) <= 1


@register
class BitFit(_Published):
    """A bias (Ben Zaken et al. 2021)."""

    form = FORMS["BitFit"]
    method = "sequential"
    bias: nn.Parameter  # (out,)

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        return self.bias if z is None else self.bias * z


@register
class LNFit(_Published):
    """``w * normalise(h_in)``: the norm's own normalisation, without its weight."""

    form = FORMS["LNFit"]
    method = "parallel"
    weight: nn.Parameter  # (d,)

    def __init__(self, position: Position, options: dict[str, Any]) -> None:
        super().__init__(position, options)
        norm = position.target
        self.centred = isinstance(norm, nn.LayerNorm) or _centres(norm)
        eps: Any = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 1e-6)
        self.eps = float(eps)

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        weight = self.weight if z is None else self.weight * z
        if self.centred:
            return F.layer_norm(x, (x.shape[-1],), weight, None, self.eps)
        # T5's norm: no mean, and the variance at least in float32.
        variance = x.to(torch.promote_types(x.dtype, torch.float32)).pow(2).mean(-1, keepdim=True)
        return weight * (x * torch.rsqrt(variance + self.eps))


@torch.no_grad()
def _centres(norm: Any) -> bool:
    """Whether a norm of a class of its own (Cohere's) takes the mean away: then a constant more changes nothing."""
    if isinstance(norm.weight, FakeTensor):  # without numbers, for its memory alone
        return False
    x = torch.linspace(-1, 1, len(norm.weight), dtype=norm.weight.dtype, device=computes_on(norm))
    plain = norm.forward(x)
    return bool((norm.forward(x + 8) - plain).abs().max() < 0.1 * plain.abs().max())


@register
class Adapter(_Published):
    """``up(gelu(down(h)))`` on the output of a block (Houlsby et al. 2019)."""

    form = FORMS["Adapter"]
    method = "sequential"
    down: nn.Parameter  # (k, d)
    down_bias: nn.Parameter  # (k,)
    up: nn.Parameter  # (d, k)
    up_bias: nn.Parameter  # (d,)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        # "N(0, 0.01)" is a standard deviation of 0.01, as in the published code.
        for weight in (self.down, self.up):
            nn.init.normal_(weight, std=0.01, generator=generator)

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        hidden = F.gelu(F.linear(x, self.down, self.down_bias))
        if z is None:
            return F.linear(hidden, self.up, self.up_bias)
        return F.linear(hidden * z, self.up, self.up_bias * z)


@register
class LowRankAdapter(_Published):
    """An Adapter whose two matrices are rank-1 products; bottleneck d / 32 (Karimi Mahabadi et al. 2021)."""

    form = FORMS["LowRankAdapter"]
    method = "sequential"
    down_left: nn.Parameter  # (d,)
    down_right: nn.Parameter  # (k,)
    down_bias: nn.Parameter  # (k,)
    up_left: nn.Parameter  # (k,)
    up_right: nn.Parameter  # (d,)
    up_bias: nn.Parameter  # (d,)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        for factor in (self.down_left, self.down_right, self.up_left, self.up_right):
            # Glorot for a (n, 1) or (1, n) matrix; torch reads fans from two dimensions.
            bound = math.sqrt(6 / (factor.numel() + 1))
            nn.init.uniform_(factor, -bound, bound, generator=generator)

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        hidden = F.gelu((x @ self.down_left).unsqueeze(-1) * self.down_right + self.down_bias)
        scale = hidden @ self.up_left
        if z is None:
            return scale.unsqueeze(-1) * self.up_right + self.up_bias
        return (scale * z).unsqueeze(-1) * self.up_right + self.up_bias * z


@register
class Compacter(_Published):
    """An Adapter whose matrices are sums of n = 4 Kronecker products (Karimi Mahabadi et al. 2021).

    Each matrix is ``sum_i A_i (x) (s_i t_i)`` with rank-1 factors. The rule A belongs to the module: a rule
    shared by all layers, as in the paper, would have no gate of its own.
    """

    form = FORMS["Compacter"]
    method = "sequential"
    down_bias: nn.Parameter  # (k,)
    up_bias: nn.Parameter  # (d,)

    @classmethod
    def shapes(cls, position: Position, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(position, options)
        if position.out_features % options["n"]:
            width, n = position.out_features, options["n"]
            raise SpaceError(f"Compacter at {position.name}: width {width} is not a multiple of n = {n}")
        return shapes

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        for side in ("down", "up"):
            nn.init.normal_(getattr(self, f"{side}_rule"), std=0.01, generator=generator)
            for factor in (getattr(self, f"{side}_left"), getattr(self, f"{side}_right")):
                bound = math.sqrt(6 / (factor.shape[1] + 1))
                nn.init.uniform_(factor, -bound, bound, generator=generator)

    def _matrix(self, side: str) -> Tensor:  # -> (in, out)
        rule, left, right = (getattr(self, f"{side}_{part}") for part in ("rule", "left", "right"))
        n = rule.shape[0]
        # kron(A_i, s_i t_i)[a * p + c, b * q + e] = A_i[a, b] s_i[c] t_i[e], summed over i
        product = torch.einsum("iab,ic,ie->acbe", rule, left, right)
        return product.reshape(n * left.shape[1], n * right.shape[1])

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        hidden = F.gelu(x @ self._matrix("down") + self.down_bias)
        if z is None:
            return hidden @ self._matrix("up") + self.up_bias
        return (hidden * z) @ self._matrix("up") + self.up_bias * z


@register
class IA3(PET):
    """``h * w``: with z = 1 the layer's output becomes ``h * (1 + w)`` (Liu et al. 2022, arXiv 2205.05638).

    Their ``l`` starts at one and is ``1 + w`` here. What is scaled is the module's own output: that of the linear layer
    (its own bias included), and with it what parallel deltas (LoRA) add to it. A sequential delta at the same layer
    (BitFit) is added beside it and is not scaled: ``z_ia3 w (W x + c + z_lora lora) + z_bitfit b`` is what both add.
    """

    kinds = ("linear",)
    method = "sequential"
    weight: nn.Parameter  # (out,)

    @classmethod
    def shapes(cls, position: Position, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        return {"weight": (position.out_features,)}

    def delta(self, x: Tensor, z: Tensor | None) -> Tensor:
        return x * (self.weight if z is None else self.weight * z)


def check_options(pet_type: str, options: dict[str, Any], where: str) -> None:
    """Raise SpaceError for an option that this PET type does not have, or a value it cannot have."""
    cls = PET_CLASSES[pet_type]
    defaults = cls.defaults
    unknown = sorted(map(str, set(options) - set(defaults)))
    if unknown:
        known = ", ".join(defaults) or "none"
        raise SpaceError(f"{where}: {pet_type} has no option {unknown[0]!r} (its options: {known})")
    for name, value in options.items():
        if name in cls.reals:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and value > 0):
                raise SpaceError(f"{where}: option {name!r}: expected a positive number, found {value!r}")
        else:
            try:
                _positive(options, name)
            except SpaceError as error:
                raise SpaceError(f"{where}: {error}") from None


def _positive(options: dict[str, Any], name: str) -> int:
    value = options[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpaceError(f"option {name!r}: expected a whole number of at least 1, found {value!r}")
    return value
