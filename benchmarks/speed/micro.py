"""The single operations behind benchmarks/NOTES.md, one thread, the best of several rounds.

    python benchmarks/speed/micro.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from s3pet_viz.pet.dropout import attend, quick_mask

ROWS = 512


def best(f: Callable[[], Any], rounds: int = 15, calls: int = 20) -> float:
    """Milliseconds a call, in the quickest round: other work on the machine can only add."""
    f()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            f()
        times.append((time.perf_counter() - began) / calls)
    return min(times) * 1e3


def linear(width_in: int, width_out: int) -> None:
    """A frozen linear layer and the products of a LoRA of rank 1 beside it."""
    x, grad = torch.randn(ROWS, width_in), torch.randn(ROWS, width_out)
    weight, y = torch.randn(width_out, width_in), torch.randn(ROWS, width_out)
    a, b = torch.randn(1, width_in), torch.randn(width_out, 1)
    column, pair = torch.randn(ROWS, 1), torch.randn(ROWS, 2)
    row, rows = column.t().contiguous(), pair.t().contiguous()
    three = torch.randn(3, width_in)
    print(f"linear {width_in} -> {width_out}, {ROWS} rows (ms)")
    for name, f in {
        "forward, x W^T": lambda: x @ weight.t(),
        "gradient of the input, g W": lambda: grad @ weight,
        "down, u = x A^T": lambda: x @ a.t(),
        "down, three in one": lambda: x @ three.t(),
        "up, y += u B^T": lambda: y.addmm_(column, b.t()),
        "gradient of B as g^T u": lambda: grad.t() @ column,
        "gradient of B as u^T g": lambda: row @ grad,
        "of B and bias as g^T [u 1]": lambda: grad.t() @ pair,
        "of B and bias as [u 1]^T g": lambda: rows @ grad,
    }.items():
        print(f"  {name:28s} {best(f):7.3f}")


def dropout() -> None:
    x = torch.randn(8, 64, 2048)
    print(f"dropout of {x.numel():,} elements (ms)")
    print(f"  torch                        {best(lambda: torch.nn.functional.dropout(x, 0.1), calls=5):7.3f}")
    print(f"  quick_mask and product       {best(lambda: x * quick_mask(x, 0.1), calls=5):7.3f}")
    kept = torch.rand_like(x) > 0.1
    print(f"  truth values to floats       {best(lambda: kept.to(x.dtype), calls=5):7.3f}")
    print(f"  the same bytes to floats     {best(lambda: kept.view(torch.uint8).to(x.dtype), calls=5):7.3f}")


def attention() -> None:
    """Forward and backward, 8 rows, 8 heads, 64 tokens of width 64."""
    tensors = [torch.randn(8, 8, 64, 64, requires_grad=True) for _ in range(3)]
    mask = torch.ones(8, 1, 64, 64, dtype=torch.bool)
    weights = torch.randn(8, 8, 64, 64)
    print("attention with dropout, forward and backward (ms)")
    for name, f in {"torch": torch.nn.functional.scaled_dot_product_attention, "attend": attend}.items():

        def both(f: Callable[..., Any] = f) -> Any:
            return torch.autograd.grad((f(*tensors, attn_mask=mask, dropout_p=0.1) * weights).sum(), tensors)

        print(f"  {name:28s} {best(both, calls=3):7.3f}")



def adamw(tensors: int = 464, width: int = 512) -> None:
    print(f"AdamW step on {tensors} tensors of {width} (ms)")
    for name, options in (("default", {}), ("fused", {"fused": True})):
        weights = [torch.randn(width, requires_grad=True) for _ in range(tensors)]
        for w in weights:
            w.grad = torch.randn(width)
        optimizer = torch.optim.AdamW(weights, **options)  # type: ignore[arg-type]
        print(f"  {name:28s} {best(optimizer.step, calls=3):7.3f}")


def main() -> None:
    torch.set_num_threads(1)
    linear(512, 512)
    linear(512, 2048)
    dropout()
    attention()
    adamw()


if __name__ == "__main__":
    main()
