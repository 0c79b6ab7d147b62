"""Choose c of fast mode's one-sided difference, eps = c / ||v||, by measuring its two errors.

    python benchmarks/noise/fast_eps.py --backbone minilm --task sentiment

At a state some way into a search, H is computed by double backward in float64 and by the one-sided difference
in float64 (truncation alone) and in float32 (truncation and rounding), for a range of c. Prints relative errors
of H in alpha, the median over several steps.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from s3pet_viz.backbones import positions
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.modes import first_order_step, one_sided_difference
from s3pet_viz.engine.state import TRAIN_MASKS, VAL_MASKS, State
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.structure import parse_budget
from s3pet_viz.training.batches import Features, shuffled
from s3pet_viz.training.pair import load_pair

CS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


def make_state(args: argparse.Namespace, dtype: torch.dtype) -> State:
    backbone, data = load_pair(args.task, args.backbone, dtype=dtype)
    backbone.model.set_attn_implementation("eager")  # type: ignore[operator]  # double backward needs it
    gates, _ = candidate_gates(positions(backbone.model), load_space(args.space))
    pets = insert(backbone.model, gates)
    features = Features(data.train, backbone, data.task)
    streams = {half: shuffled(features.lengths, 16, [0, k]) for k, half in enumerate(("train", "val"))}

    def batch(half: str, step: int) -> dict[str, torch.Tensor]:
        made = features.batch(streams[half](step), "cpu")
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in made.items()}

    problem = BackboneProblem(backbone.model, pets, batch, head=backbone.head)
    counts = [g.n_params for g in gates]
    backbone.model.train()
    return State(problem, GateModel(counts, parse_budget(args.budget, backbone.n_params)), lr=args.lr)


def reference(state: State, step: int, z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """d2L_train/(dz dw) . v by double backward."""
    gate = z.detach().to(state.w.flat).requires_grad_()
    with state.masks(step, TRAIN_MASKS):
        loss = state.problem.loss(state.problem.batch("train", step), gate)
    grads = torch.autograd.grad(loss, state.w.parameters, create_graph=True, allow_unused=True)
    parts = zip(grads, state.w.split(v), strict=True)
    product = torch.stack([(g * d).sum() for g, d in parts if g is not None]).sum()
    return torch.autograd.grad(product, gate)[0].double()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--space", default="S3PET-M")
    parser.add_argument("--budget", default="0.1%")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warm", type=int, default=30, help="first-order steps before measuring")
    parser.add_argument("--steps", type=int, default=3, help="steps measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    single, double = make_state(args, torch.float32), make_state(args, torch.float64)
    for step in range(args.warm):
        first_order_step(single, step)
    double.w.set(single.w.flat.double())
    double.alpha = single.alpha.clone()
    double.w_opt.load({k: v.double() if v.is_floating_point() else v for k, v in single.w_opt.state().items()})

    errors: dict[tuple[str, float], list[float]] = {}
    for step in range(args.warm, args.warm + args.steps):
        sample = double.sample(step)
        v = double.w_opt.slope() * double.run("val", step, sample.z, VAL_MASKS).dw
        expected = sample.pull_back(reference(double, step, sample.z, v))
        for name, state in (("float64", double), ("float32", single)):
            base = state.run("train", step, sample.z, TRAIN_MASKS)
            at, direction = state.w.flat.clone(), v.to(state.w.flat)
            for c in CS:
                dz, _ = one_sided_difference(state, step, sample.z, at, base, direction, c)
                error = (sample.pull_back(dz) - expected).norm() / expected.norm()
                errors.setdefault((name, c), []).append(float(error))
        print(f"step {step}: ||H|| = {float(expected.norm()):.3g}, ||v_bar|| = {float(v.norm()):.3g}", flush=True)
    print(f"\n{'c':>8} {'truncation':>12} {'in float32':>12}   (relative error of H, median of {args.steps} steps)")
    for c in CS:
        print(f"{c:8.0e} {np.median(errors['float64', c]):12.2e} {np.median(errors['float32', c]):12.2e}")


if __name__ == "__main__":
    main()
