"""Numbers measured on the published implementation (tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from s3pet_viz.backbones import positions
from s3pet_viz.engine.backbone_problem import BackboneProblem
from s3pet_viz.engine.gates import GateModel, binary_concrete, gate_probabilities
from s3pet_viz.engine.modes import paper_step
from s3pet_viz.engine.state import GATES, State
from s3pet_viz.pet import PRESETS, candidate_gates, insert
from s3pet_viz.structure import select, solve_shift

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = {c["name"]: c for c in json.loads((GOLDEN / "gates.json").read_text())["cases"]}
WRONG_BIAS = {"alphas_pm50", "alphas_all_p50", "budget_gt_total"}


@pytest.mark.parametrize("name", sorted(CASES))
def test_shift_is_the_true_root(name):
    case = CASES[name]
    zeta = solve_shift(case["alphas"], case["counts"], case["budget_params"], tau=case["beta"])
    if case["true_root_brentq"] is None:
        assert zeta == -np.inf
    else:
        assert zeta == pytest.approx(case["true_root_brentq"], abs=1e-8)


@pytest.mark.parametrize("name", sorted(CASES))
def test_selection(name):
    case = CASES[name]
    assert select(case["alphas"], case["counts"], case["budget_params"]).tolist() == sorted(case["selected"])


@pytest.mark.parametrize("competition", [True, False])
@pytest.mark.parametrize("name", sorted(set(CASES) - WRONG_BIAS))
def test_p_z_and_gradients(name, competition):
    case = CASES[name]
    suffix = "" if competition else "_nodetach"
    tensor = lambda key: torch.tensor(case[key], dtype=torch.float32)  # noqa: E731
    alpha, u, cotangent = tensor("alphas").requires_grad_(), tensor("u"), tensor("cotangent")
    p = gate_probabilities(alpha, case["bias"], case["beta"], competition=competition)
    z = binary_concrete(p, u)
    z_tolerance = 1e-6 if name == "budget_eq_total" else 2e-7
    close = torch.testing.assert_close
    close(p.detach(), tensor(f"p_deltas{suffix}"), atol=2e-7, rtol=0)
    (grad_p,) = torch.autograd.grad((cotangent * p).sum(), alpha, retain_graph=True)
    close(grad_p, tensor(f"grad_cot_p{suffix}"), atol=2e-7, rtol=0)
    (grad_z,) = torch.autograd.grad((cotangent * z).sum(), alpha)
    close(grad_z, tensor(f"grad_cot_z{suffix}"), atol=2e-7, rtol=0)
    if competition:
        close(z.detach(), tensor("z_soft_train"), atol=z_tolerance, rtol=0)


class GoldenState(State):
    """Two whole steps with the recorded uniforms."""

    def draw(self, step, purpose=GATES):
        return torch.from_numpy(DATA[f"u/{2 * step + (purpose != GATES)}"])


DATA = dict(np.load(GOLDEN / "tiny_L.npz"))
TINY = json.loads((GOLDEN / "tiny_L.json").read_text())


def _golden_state():
    config = TINY["t5config"]
    model = T5ForConditionalGeneration(T5Config(pad_token_id=0, **config)).double().eval()
    init = {k.removeprefix("init/"): torch.from_numpy(v) for k, v in DATA.items() if k.startswith("init/")}
    backbone = {
        k.replace(".backbone_model.weight", ".weight"): v
        for k, v in init.items()
        if "parallel_" not in k
    }
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    model.requires_grad_(False)
    gates, lacking = candidate_gates(positions(model), PRESETS["S3PET-L"])
    assert not lacking
    assert [(g.position, g.n_params) for g in gates] == [(g["key"], g["num_param"]) for g in TINY["gates"]]
    pets = insert(model, gates)
    golden_names = {n: n.replace(".LoRA.", ".parallel_modules.0.") for n in pets.weights()}
    with torch.no_grad():
        for name, weight in pets.weights().items():
            weight.copy_(init[golden_names[name]])

    def batch(half, step):
        prefix = f"batch/step{step}/{'trn' if half == 'train' else 'val'}/"
        fields = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in DATA.items() if k.startswith(prefix)}
        fields["labels"] = fields["labels"].masked_fill(fields["labels"] == 0, -100)
        return fields

    problem = BackboneProblem(model, pets, batch)
    state = GoldenState(
        problem,
        GateModel([g.n_params for g in gates], TINY["max_num_param_Mi"] * 1024**2),
        lr=TINY["lr"]["w"],
        alpha_lr=TINY["lr"]["alpha"],
        clip=TINY["lr"]["clip"],
    )
    state.alpha = torch.cat([init[f"{g.position}.parallel_alphas.0"] for g in gates])
    names = list(golden_names.values())
    return state, gates, names


def _off(found, expected):
    """Largest difference over the largest value."""
    expected = np.asarray(expected, dtype=np.float64)
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def test_two_steps_of_paper_mode():
    state, gates, names = _golden_state()
    order = [TINY["alpha_names"].index(f"{g.position}.parallel_alphas.0") for g in gates]

    def flat(step, what):
        return np.concatenate([DATA[f"step{step}/{what}/{n}"].reshape(-1) for n in names])

    for step, recorded in enumerate(TINY["steps"]):
        result = paper_step(state, step)
        in_gate_order = lambda key: np.asarray(recorded[key])[order]  # noqa: B023, E731
        assert result.zeta == pytest.approx(recorded["bias_used"][0], abs=1e-6)
        assert _off(result.losses, recorded["losses"]) < 1e-8
        assert _off(result.p, recorded["p"][0]) < 1e-6
        assert _off(result.detail["z"], recorded["z"][0]) < 1e-6
        assert _off(result.detail["virtual"], flat(step, "virtual")) < 1e-6
        assert _off(result.detail["v"], flat(step, "dw")) < 1e-5
        assert _off(result.detail["w_grad"], flat(step, "wgrad_clipped")) < 1e-5
        assert _off(state.w.flat, flat(step, "w_after")) < 1e-6
        assert _off(result.hessian, in_gate_order("hessian")) < 1e-4
        assert _off(result.alpha_grad, in_gate_order("alpha_grad_preclip")) < 1e-5
        assert _off(state.alpha, in_gate_order("alphas_after")) < 1e-6
