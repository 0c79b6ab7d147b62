"""Signal to noise of the alpha gradient: is it above its noise, and what does the second-order term add?

    python benchmarks/noise/alpha_noise.py --task path/to/datasets/sst2 --backbone minilm --warm 60

After some steps of a search w and alpha are frozen, and the alpha gradient (its two terms apart) is drawn many
times, each time with fresh batches, gates and masks. Prints norms and the share of gates whose mean is more than
2 standard errors from zero.
"""

from __future__ import annotations

import argparse

import torch

from s3pet_viz.backbones import positions
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.gates import GateModel
from s3pet_viz.engine.modes import MODES
from s3pet_viz.engine.state import State
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.structure import parse_budget
from s3pet_viz.training.batches import Features, shuffled
from s3pet_viz.training.pair import load_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--space", default="S3PET-M")
    parser.add_argument("--budget", default="0.0139%")
    parser.add_argument("--mode", default="fast")
    parser.add_argument("--warm", type=int, default=60)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone, data = load_pair(args.task, args.backbone)
    gates, _ = candidate_gates(positions(backbone.model), load_space(args.space))
    pets = insert(backbone.model, gates)
    features = Features(data.train, backbone, data.task)
    streams = {h: shuffled(features.lengths, 32, [0, k]) for k, h in enumerate(("train", "val"))}
    problem = BackboneProblem(
        backbone.model, pets, lambda half, step: features.batch(streams[half](step), "cpu"), head=backbone.head
    )
    backbone.model.train()
    counts = [g.n_params for g in gates]
    gate_model = GateModel(counts, parse_budget(args.budget, backbone.n_params))
    state = State(problem, gate_model, lr=args.lr, second_order_cap=None)
    for step in range(args.warm):
        MODES[args.mode](state, step)

    w, alpha, moments = state.w.flat.clone(), state.alpha.clone(), state.w_opt.state()
    alpha_moments = state.alpha_opt.state()
    direct, second = [], []
    for step in range(args.warm, args.warm + args.draws):
        state.w.set(w)
        state.alpha = alpha.clone()
        state.w_opt.load(moments)
        state.alpha_opt.load(alpha_moments)
        result = MODES[args.mode](state, step)
        term = torch.zeros_like(alpha) if result.hessian is None else args.lr * result.hessian
        direct.append(result.alpha_grad + term)
        second.append(term)
    for name, draws in (("dL_val/dalpha", direct), ("xi H", second)):
        stack = torch.stack(draws)
        mean, error = stack.mean(0), stack.std(0) / len(draws) ** 0.5
        ratio = mean.abs() / error.clamp(min=1e-30)
        print(
            f"{name:>14}: norm of a draw {stack.norm(dim=1).median():.2e} "
            f"(from {stack.norm(dim=1).min():.1e} to {stack.norm(dim=1).max():.1e}), norm of the mean {mean.norm():.2e}, "
            f"gates with |mean| > 2 standard errors: {float((ratio > 2).double().mean()):.0%}"
        )


if __name__ == "__main__":
    main()
