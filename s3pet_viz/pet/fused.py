"""The commonest PET modules folded into the pass of the module that they sit on: the same numbers, fewer operations.

A rank-1 product costs little if its operands lie right: on a CPU ``u^T g`` with u of shape (rows, 1) took ten times
longer than with u of shape (1, rows) (benchmarks/NOTES.md). Automatic differentiation of the plain forms meets the slow
order in each backward, and passes over the activations once for each small step. Each function here takes one pass
where the algebra allows it. Their gradients cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3pet_viz.backbones.position import is_conv1d
from s3pet_viz.backbones.quantised import is_packed
from s3pet_viz.pet.modules import PET, BitFit, LNFit, LoRA, LowRankAdapter, are_units, side_by_side

#: PET modules of one target with their gates' indices.
Members = Sequence[tuple[int, PET]]
Gates = Sequence[Tensor] | None


class Present(Protocol):
    """What holds in the present pass: the gates, and which of them are closed and left out."""

    z: Gates
    closed: frozenset[int]


def fused_forward(target: nn.Module, members: Members, now: Present) -> Callable[[Tensor], Tensor] | None:
    """A forward of this linear layer or norm with its PET modules inside, or None where there is no fused form.

    Args:
        target: the backbone's module.
        members: what sits on it.
        now: read in each pass.
    """
    kinds = [type(pet) for _, pet in members]
    loras = [(i, pet) for i, pet in members if type(pet) is LoRA]
    if len(set(kinds)) < len(kinds) - max(0, len(loras) - 1):
        return None
    plain: Any = type(target) is nn.Linear or is_conv1d(target)
    if plain and set(kinds) <= {LoRA, BitFit} and not is_packed(target.weight):
        if len(loras) > 1 and not are_units([pet for _, pet in loras]):
            return None
        return _linear_forward(target, loras, _only(members, BitFit), now)
    if set(kinds) <= {LNFit, BitFit}:
        scale, bias = _only(members, LNFit), _only(members, BitFit)
        if type(target) is nn.LayerNorm and target.weight is not None:
            return _layer_norm_forward(target, scale, bias, now)
        norm: Any = type(target)
        if hasattr(target, "variance_epsilon") and (rounded := _rounds(norm)) is not None:
            return _rms_norm_forward(target, scale, bias, now, rounded)
    return None


def can_fuse(target: nn.Module, x: Tensor) -> bool:
    """Whether the fused forms hold here: frozen weights of the input's own type, and no mixed precision."""
    weight: Any = target.weight
    return not weight.requires_grad and x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)


def can_add(pet: LowRankAdapter, h: Tensor) -> bool:
    """The same of an adapter on a block's output, which may be float32 in the midst of mixed precision."""
    return h.dtype == pet.down_left.dtype and not torch.is_autocast_enabled(h.device.type)


_Member: TypeAlias = tuple[int, Any] | None
#: What these norms sum their squares in.
_SQUARES = torch.float32


@cache
def _rounds(norm: Any) -> bool | None:
    """Of a norm ``w x / rms(x)``, whether x is rounded to `_SQUARES` before it is divided (that shows in float64
    alone). None: it is of another form, as Gemma's ``(1 + w) x / rms(x)``. T5's and its copies' (umT5, LongT5) round
    not; Llama's does, and transformers has copies of it under many names, whose code is the same.
    """
    if norm.__name__.endswith("T5LayerNorm"):
        return False
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    ours, theirs = (getattr(kind.forward, "__code__", None) for kind in (norm, LlamaRMSNorm))
    same = ours and theirs and (ours.co_code, ours.co_names) == (theirs.co_code, theirs.co_names)
    return True if same else None


def _only(members: Members, kind: type[PET]) -> _Member:
    return next(((i, pet) for i, pet in members if type(pet) is kind), None)


def _gate(member: _Member, gates: Gates) -> Tensor | None:
    return None if member is None or gates is None else gates[member[0]]


def _open(member: _Member, now: Present) -> _Member:
    return None if member is None or member[0] in now.closed else member


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a graph of the gradients; under torch's `once_differentiable`, `allow_unused=True` drops it in silence."""

    @wraps(backward)
    def checked(ctx: Any, grad: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("fused PET modules cannot be differentiated twice: set `fused = False` on their PETs")
        return backward(ctx, grad)

    return checked


def _own(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """A product of rows in its output's shape, which the caller may change in place: a view of it they could not."""
    made: Tensor = torch.ops.aten._unsafe_view(rows, shape)
    return made


# -- linear layers: LoRA and BitFit --------------------------------------------------------------------------


def _linear_forward(target: Any, loras: Sequence[tuple[int, LoRA]], bias: _Member, now: Present) -> Any:
    scale = loras[0][1].scale if loras else 0.0
    transposed = is_conv1d(target)

    def forward(x: Tensor) -> Tensor:
        own, added = [(i, pet) for i, pet in loras if i not in now.closed], _open(bias, now)
        a, b = side_by_side([pet for _, pet in own]) if own else (None, None)
        z = None
        if own and now.z is not None:
            z = now.z[own[0][0]] if len(own) == 1 else torch.stack([now.z[i] for i, _ in own])
        shift = None if added is None else added[1].bias
        made: Tensor = _Linear.apply(
            x,
            target.weight.t() if transposed else target.weight,
            target.bias,
            a,
            b,
            shift,
            z,
            _gate(added, now.z),
            scale,
        )
        return made

    return forward


class _Linear(torch.autograd.Function):
    """``x W^T + c + scale z_l (x A^T) B^T + z_b b`` with W and c frozen.

    Shapes: x (..., in), W (out, in), c (out,), A (r, in), B (out, r), b (out,), the gates () or None for 1; z_l may be
    (r,), one for each row of A.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, shift: Any, zl: Any, zb: Any, scale: Any
    ) -> Any:
        rows = x.reshape(-1, x.shape[-1])
        added = None if shift is None else (shift if zb is None else shift * zb)
        if added is not None and bias is not None:
            added = added + bias
        elif added is None:
            added = bias
        y = rows @ weight.t() if added is None else torch.addmm(added, rows, weight.t())
        down = None
        if a is not None:
            down = F.linear(rows, a)
            y.addmm_(down * (scale if zl is None else zl * scale), _up(b))
        # The rows are needed for A's gradient alone.
        kept = rows if a is not None and ctx.needs_input_grad[3] else None
        ctx.save_for_backward(kept, weight, a, b, shift, zl, zb, down)
        ctx.scale, ctx.shape = scale, x.shape
        return _own(y, (*x.shape[:-1], y.shape[-1]))

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Any) -> Any:
        rows, weight, a, b, shift, zl, zb, down = ctx.saved_tensors
        need_x, _, _, need_a, need_b, need_shift, need_zl, need_zb, _ = ctx.needs_input_grad
        g = grad.reshape(-1, grad.shape[-1])
        factor = ctx.scale if zl is None else zl * ctx.scale
        gdown: Any = None
        ga = gb = gshift = gzl = gzb = None
        # Gradients of B and b: what the rows of g are weighed by, one product for both.
        left = []
        if need_b:
            left.append((down * factor).t())
        if need_shift:
            left.append(g.new_ones(1, len(g)))
        summed: Any = torch.cat(left) @ g if left else None
        if need_b:
            gb = summed[: b.shape[1]].t()
        if need_shift:
            total = summed[-1]
            gshift = total if zb is None else total * zb
            if need_zb:
                gzb = total @ shift
        if a is not None and (need_x or need_a or need_zl):
            right = [_up(b)]
            if need_zb and gzb is None:
                right.append(shift[None])
            inner = F.linear(g, torch.cat(right) if len(right) > 1 else right[0])
            if len(right) > 1:
                gzb = inner[:, -1].sum()
                inner = inner[:, :-1]
            if need_zl:
                gzl = ctx.scale * ((inner * down).sum(0) if zl.dim() else (inner * down).sum())
            gdown = inner * factor
        elif need_zb and gzb is None:
            gzb = (g @ shift).sum()
        if need_a:
            ga = gdown.t() @ rows
        gx = None
        if need_x:
            gx = g @ weight
            if gdown is not None:
                gx.addmm_(gdown, a)
            gx = gx.view(ctx.shape)
        return gx, None, None, ga, gb, gshift, gzl, gzb, None


def _up(b: Tensor) -> Tensor:  # (out, r) -> (r, out)
    return b.t().contiguous()


# -- norms: LNFit and BitFit ---------------------------------------------------------------------------------


def _effective(own: Tensor | None, member: _Member, name: str, gates: Gates) -> Tensor | None:
    """The norm's own weight (or bias) with the gated one added."""
    if member is None:
        return own
    weight: Tensor = getattr(member[1], name)
    z = _gate(member, gates)
    gated = weight if z is None else weight * z
    return gated if own is None else own + gated


def _layer_norm_forward(target: nn.LayerNorm, scale: _Member, bias: _Member, now: Present) -> Any:
    def forward(x: Tensor) -> Tensor:
        weight = _effective(target.weight, _open(scale, now), "weight", now.z)
        shift = _effective(target.bias, _open(bias, now), "bias", now.z)
        return F.layer_norm(x, target.normalized_shape, weight, shift, target.eps)

    return forward


def _rms_norm_forward(target: Any, scale: _Member, bias: _Member, now: Present, rounded: bool) -> Any:
    def forward(x: Tensor) -> Tensor:
        weight = _effective(target.weight, _open(scale, now), "weight", now.z)
        shift = _effective(None, _open(bias, now), "bias", now.z)
        made: Tensor = _RMSNorm.apply(x, weight, shift, target.variance_epsilon, rounded)
        return made

    return forward


class _RMSNorm(torch.autograd.Function):
    """``x / sqrt(mean(x^2) + eps) * w + b``, the mean square in float32 as transformers takes it.

    Shapes: x (..., d), w (d,), b (d,) or None. `rounded`: x itself is taken in float32 too.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, shift: Any, eps: Any, rounded: bool = False) -> Any:
        rstd = torch.rsqrt(x.to(_SQUARES).square().mean(-1, keepdim=True) + eps)
        normal = _normal(x, rstd, rounded)
        ctx.save_for_backward(x, rstd, weight)
        ctx.rounded = rounded
        return normal * weight if shift is None else torch.addcmul(shift, normal, weight)

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Any) -> Any:
        x, rstd, weight = ctx.saved_tensors
        need_x, need_weight, need_shift, *_ = ctx.needs_input_grad
        d = x.shape[-1]
        normal = _normal(x, rstd, ctx.rounded)
        product = grad * normal
        gx = gweight = gshift = None
        if need_weight:
            gweight = product.reshape(-1, d).sum(0)
        if need_shift:
            gshift = grad.reshape(-1, d).sum(0)
        if need_x:
            mean = (product.reshape(-1, d) @ weight).view(*x.shape[:-1], 1) / d
            gx = (grad * weight).addcmul_(normal, mean, value=-1).mul_(rstd)
        return gx, gweight, gshift, None, None


def _normal(x: Tensor, rstd: Tensor, rounded: bool) -> Tensor:
    return ((x.to(_SQUARES) if rounded else x) * rstd).to(x.dtype)


# -- blocks: LowRankAdapter ----------------------------------------------------------------------------------


def add_low_rank_adapter(h: Tensor, pet: LowRankAdapter, z: Tensor | None) -> Tensor:
    """``h + z delta(h)``, shape (..., d)."""
    made: Tensor = _LowRankAdapter.apply(
        h, pet.down_left, pet.down_right, pet.down_bias, pet.up_left, pet.up_right, pet.up_bias, z
    )
    return made


class _LowRankAdapter(torch.autograd.Function):
    """``h + z (t u_r + u_b)`` with ``t = gelu((h d_l) d_r + d_b) u_l``; never forms the adapter's two matrices.

    Shapes: h (..., d), d_l (d,), d_r and d_b and u_l (k,), u_r and u_b (d,), z () or None for 1.
    """

    @staticmethod
    def forward(ctx: Any, h: Any, dl: Any, dr: Any, db: Any, ul: Any, ur: Any, ub: Any, z: Any) -> Any:
        rows = h.reshape(-1, h.shape[-1])
        inner = rows @ dl
        before = torch.addcmul(db, inner[:, None], dr)
        hidden = F.gelu(before)
        t = hidden @ ul
        gated = t if z is None else t * z
        shift = ub if z is None else ub * z
        made = torch.addmm(rows, torch.stack([gated, torch.ones_like(gated)], 1), torch.stack([ur, shift]))
        ctx.save_for_backward(rows, dl, dr, ul, ur, ub, z, inner, before, hidden, t)
        return _own(made, h.shape)

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Any) -> Any:
        rows, dl, dr, ul, ur, ub, z, inner, before, hidden, t = ctx.saved_tensors
        need_h, need_dl, *_, need_z = ctx.needs_input_grad
        g = grad.reshape(-1, grad.shape[-1])
        both = F.linear(g, torch.stack([ur, ub]))  # (rows, 2): gradients of (z t) and of z's part in the bias
        gz = (both[:, 0] @ t + both[:, 1].sum()) if need_z else None
        gt = both[:, 0] if z is None else both[:, 0] * z
        gbefore = torch.ops.aten.gelu_backward(gt[:, None] * ul, before)
        ginner = gbefore @ dr
        gdl = gdr = gdb = gul = gur = gub = None
        if need_dl:
            summed = torch.stack([t if z is None else t * z, torch.ones_like(t)]) @ g
            gur, gub = summed[0], (summed[1] if z is None else summed[1] * z)
            gul, gdb = gt @ hidden, gbefore.sum(0)
            gdr, gdl = inner @ gbefore, ginner @ rows
        gh = torch.addr(g, ginner, dl).view(grad.shape) if need_h else None
        return gh, gdl, gdr, gdb, gul, gur, gub, gz
