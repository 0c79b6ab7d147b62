"""Each PET type against an independent float64 formula: one abstract case, subclassed once per type."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from problems import assert_same, snapshot, tiny_model
from torch import Tensor, nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

from s3pet_viz.backbones import Position, positions
from s3pet_viz.errors import SpaceError, StructureError
from s3pet_viz.figures import heatmap, heatmap_table, sums_table
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.pet.modules import PET, PET_CLASSES, register
from s3pet_viz.structure import PET_TYPES, Structure, pet_type_order, select


def position(target: nn.Module, kind: str, width_in: int, width_out: int) -> Position:
    return Position("encoder.here", target, "encoder", 0, "SelfAttn", kind, width_in, width_out)  # type: ignore[arg-type]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


class PETCase:
    """Subclasses say where the module sits, how large it is, and what its delta is."""

    pet_type: ClassVar[str]
    kinds: ClassVar[set[str]]
    method: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    n_params: ClassVar[int]
    #: (in, out) of the position
    widths: ClassVar[tuple[int, int]] = (12, 20)

    def target(self) -> nn.Module:
        return nn.Linear(*self.widths)

    def naive(self, pet: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def check_start(self, pet: PET, weights: dict[str, Tensor]) -> None:
        raise NotImplementedError

    # -- what follows is the same for every type ------------------------------------------------------

    @property
    def position(self) -> Position:
        return position(self.target(), PET_CLASSES[self.pet_type].kinds[0], *self.widths)

    def fresh(self, seed: int = 0) -> PET:
        pet = PET_CLASSES[self.pet_type](self.position, self.options)
        pet.reset(torch.Generator().manual_seed(seed))
        return pet

    def scrambled(self, seed: int = 0) -> PET:
        """Float64 and nowhere zero, so that no term of the formula can hide."""
        pet = self.fresh().double()
        generator = torch.Generator().manual_seed(seed)
        for p in pet.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        return pet

    def input(self, *shape: int) -> Tensor:
        width = self.widths[0 if self.method == "parallel" else 1]
        return torch.randn(*shape, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.3

    def test_registered(self):
        cls = PET_CLASSES[self.pet_type]
        assert set(cls.kinds) == self.kinds
        assert cls.method == self.method

    def test_size(self):
        assert PET_CLASSES[self.pet_type].n_params(self.position, self.options) == self.n_params
        assert sum(p.numel() for p in self.fresh().parameters()) == self.n_params

    @torch.no_grad()
    def test_start(self):
        pet = self.fresh()
        self.check_start(pet, dict(pet.named_parameters()))
        size = pet.double().delta(self.input(50), None).abs().max()
        assert size < 0.5 if self.pet_type == "LowRankAdapter" else size < 0.02  # the search starts at the model

    def test_start_is_a_function_of_the_generator(self):
        same, other = self.fresh(0).state_dict(), self.fresh(1).state_dict()
        assert all(torch.equal(same[k], v) for k, v in self.fresh(0).state_dict().items())
        drawn = [k for k, v in same.items() if v.any()]
        assert all(not torch.equal(same[k], other[k]) for k in drawn)

    def test_formula(self):
        pet, x = self.scrambled(), self.input(3, 5)
        expected = self.naive({k: v.detach().numpy() for k, v in pet.named_parameters()}, x.numpy())
        found = pet.delta(x, None).detach().expand(3, 5, self.widths[1])
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-11, atol=1e-11)

    def test_the_gate_scales_the_delta(self):
        pet, x = self.scrambled(), self.input(3, 5)
        plain = pet.delta(x, None)
        for z in (0.0, 0.25, 0.7, 1.0):
            torch.testing.assert_close(
                pet.delta(x, torch.tensor(z, dtype=torch.float64)), z * plain, rtol=1e-11, atol=1e-12
            )

    def test_gradients(self):
        pet, x = self.scrambled(), self.input(2, 2).requires_grad_()
        z = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
        weights = [p.detach().clone().requires_grad_() for p in pet.parameters()]
        names = [n for n, _ in pet.named_parameters()]

        def run(x: Tensor, z: Tensor, *weights: Tensor) -> Tensor:
            swapped = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(_Delta(pet), {f"pet.{n}": w for n, w in swapped.items()}, (x, z))

        assert torch.autograd.gradcheck(run, (x, z, *weights))

    # -- on a backbone: searched for, chosen, inserted, drawn, saved ----------------------------------

    @pytest.mark.parametrize("form", ["t5", "bert"])
    def test_on_a_backbone(self, form, tmp_path):
        model = tiny_model(form).eval()
        ids = torch.tensor([[5, 9, 12, 7]])
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if form == "t5" else {})}
        found = positions(model)
        space = load_space({"gates": [{"type": self.pet_type, "modules": ["*"], "options": self.options}]})
        gates, _ = candidate_gates(found, space)
        assert len(gates) == sum(p.kind in self.kinds for p in found)

        budget = sum(g.n_params for g in gates) // 2
        chosen = [gates[i] for i in select(np.arange(len(gates)), [g.n_params for g in gates], budget)]
        assert 0 < sum(g.n_params for g in chosen) <= budget
        structure = Structure(gates=tuple(chosen))
        structure.save(tmp_path / "structure.json")
        loaded = Structure.load(tmp_path / "structure.json")
        assert loaded.gates == structure.gates
        table = heatmap_table(loaded)
        assert len(table) == len(chosen)
        assert set(sums_table(loaded, by="pet_type")["group"]) == {self.pet_type}
        assert all(row.split(" ")[0] in heatmap(loaded).to_json() for row in {*table["row"], self.pet_type})

        with torch.no_grad():
            before, bare = snapshot(model), model(**inputs).logits
            pets = insert(model, loaded.gates)
            for p in pets.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
            assert sum(p.numel() for p in pets.parameters()) == loaded.n_params
            with pets.gated(torch.zeros(len(chosen))):
                torch.testing.assert_close(model(**inputs).logits, bare, rtol=1e-5, atol=1e-6)
            moved = model(**inputs).logits
            assert (moved - bare).abs().max() > 1e-5
            state = {k: v.clone() for k, v in pets.state_dict().items()}
            pets.detach()
            again = insert(model, loaded.gates, seed=1)
            again.load_state_dict(state)
            assert torch.equal(model(**inputs).logits, moved)
            again.detach()
            assert torch.equal(model(**inputs).logits, bare)
        assert_same(model, before)


class _Delta(nn.Module):
    def __init__(self, pet: PET) -> None:
        super().__init__()
        self.pet = pet

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.pet.delta(x, z)


class TestLoRA(PETCase):
    pet_type, kinds, method = "LoRA", {"linear"}, "parallel"
    options: ClassVar = {"r": 1}
    n_params = 12 + 20
    scale = 16.0

    def naive(self, pet, x):
        return self.scale * (x @ pet["lora_A"].T) @ pet["lora_B"].T

    def check_start(self, pet, weights):
        assert not weights["lora_B"].any()
        a = weights["lora_A"].detach()
        bound = 1 / math.sqrt(12)  # Kaiming uniform with a = sqrt 5: sqrt(6 / ((1 + 5) * in))
        assert a.abs().max() <= bound
        wide = PET_CLASSES["LoRA"](position(nn.Linear(12, 20), "linear", 12, 20), {"r": 500})
        wide.reset(torch.Generator().manual_seed(0))
        assert wide.lora_A.abs().max() == pytest.approx(bound, rel=1e-2)
        assert wide.lora_A.std() == pytest.approx(bound / math.sqrt(3), rel=2e-2)


class TestLoRARank4(TestLoRA):
    options: ClassVar = {"r": 4, "lora_alpha": 2}
    n_params = 4 * (12 + 20)
    scale = 0.5


class TestLoRADefaults(TestLoRA):
    options: ClassVar = {}  # r = 1, lora_alpha = 16


class _Zero(PETCase):
    def check_start(self, pet, weights):
        assert all(not w.any() for w in weights.values())


class TestBitFit(_Zero):
    pet_type, kinds, method = "BitFit", {"linear", "norm"}, "sequential"
    n_params = 20

    def naive(self, pet, x):
        return np.broadcast_to(pet["bias"], (*x.shape[:-1], 20))


class TestLNFit(_Zero):
    pet_type, kinds, method = "LNFit", {"norm"}, "parallel"
    widths = (12, 12)
    n_params = 12
    eps = 1e-5

    def target(self):
        return nn.LayerNorm(12)

    def naive(self, pet, x):
        centred = x - x.mean(-1, keepdims=True)
        return pet["weight"] * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)

    def test_adds_to_the_norms_own_weight(self):
        """LN with weight g, plus LNFit w, is LN with weight g + w; eps is the norm's own."""
        norm, pet = self.target().double(), self.scrambled()
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, 12))
        x = self.input(4)
        both = norm(x) + pet.delta(x, None)
        with torch.no_grad():
            norm.weight.add_(pet.weight)
        torch.testing.assert_close(both, norm(x), rtol=1e-5, atol=1e-5)


class TestLNFitOtherEps(TestLNFit):
    eps = 0.25

    def target(self):
        return nn.LayerNorm(12, eps=0.25)


class TestLNFitT5(TestLNFit):
    """No mean is taken off, no bias, and T5's own eps."""

    def target(self):
        return T5LayerNorm(12, eps=0.3)

    def naive(self, pet, x):
        return pet["weight"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.3)


class TestAdapter(PETCase):
    pet_type, kinds, method = "Adapter", {"block"}, "sequential"
    options: ClassVar = {"bottleneck": 6}
    n_params = 2 * 20 * 6 + 6 + 20

    def naive(self, pet, x):
        return gelu(x @ pet["down"].T + pet["down_bias"]) @ pet["up"].T + pet["up_bias"]

    def check_start(self, pet, weights):
        assert not weights["down_bias"].any()
        assert not weights["up_bias"].any()
        wide = PET_CLASSES["Adapter"](position(nn.Identity(), "block", 512, 512), {})
        wide.reset(torch.Generator().manual_seed(0))
        assert sum(p.numel() for p in wide.parameters()) == 2 * 512 * 24 + 24 + 512  # published k = 24
        for weight in (wide.down, wide.up):
            assert weight.std() == pytest.approx(0.01, rel=0.05)
            assert abs(weight.mean()) < 5e-4


class TestLowRankAdapter(PETCase):
    pet_type, kinds, method = "LowRankAdapter", {"block"}, "sequential"
    widths = (64, 64)
    n_params = 2 * (64 + 2) + 2 + 64

    def naive(self, pet, x):
        down = np.outer(pet["down_left"], pet["down_right"])
        up = np.outer(pet["up_left"], pet["up_right"])
        return gelu(x @ down + pet["down_bias"]) @ up + pet["up_bias"]

    def check_start(self, pet, weights):
        for name, n in (("down_left", 64), ("down_right", 2), ("up_left", 2), ("up_right", 64)):
            assert 0 < weights[name].abs().max() <= math.sqrt(6 / (n + 1))
        assert not weights["down_bias"].any()
        assert not weights["up_bias"].any()
        wide = PET_CLASSES["LowRankAdapter"](position(nn.Identity(), "block", 4096, 4096), {})
        wide.reset(torch.Generator().manual_seed(0))
        assert wide.up_right.std() == pytest.approx(math.sqrt(2 / 4097), rel=0.05)  # Glorot
        assert wide.up_right.abs().max() == pytest.approx(math.sqrt(6 / 4097), rel=0.01)

    def test_a_narrow_block_keeps_one_unit(self):
        assert PET_CLASSES["LowRankAdapter"].n_params(position(nn.Identity(), "block", 8, 8), {}) == 2 * 9 + 1 + 8


class TestCompacter(PETCase):
    pet_type, kinds, method = "Compacter", {"block"}, "sequential"
    widths = (128, 128)  # bottleneck 8 = 4 * 2
    n_params = 2 * (4**3 + 128 + 8) + 8 + 128

    def matrix(self, pet, side):
        parts = [torch.from_numpy(pet[f"{side}_{part}"]) for part in ("rule", "left", "right")]
        return sum(torch.kron(a, torch.outer(s, t)) for a, s, t in zip(*parts, strict=True)).numpy()

    def naive(self, pet, x):
        down, up = self.matrix(pet, "down"), self.matrix(pet, "up")
        assert down.shape == (128, 8)
        assert up.shape == (8, 128)
        return gelu(x @ down + pet["down_bias"]) @ up + pet["up_bias"]

    def check_start(self, pet, weights):
        assert not weights["down_bias"].any()
        assert not weights["up_bias"].any()
        for side, left, right in (("down", 32, 2), ("up", 2, 32)):
            assert weights[f"{side}_rule"].std() == pytest.approx(0.01, rel=0.3)
            assert weights[f"{side}_left"].shape == (4, left)
            assert weights[f"{side}_right"].shape == (4, right)
            assert 0 < weights[f"{side}_left"].abs().max() <= math.sqrt(6 / (left + 1))
            assert 0 < weights[f"{side}_right"].abs().max() <= math.sqrt(6 / (right + 1))

    def test_the_width_has_to_be_a_multiple_of_n(self):
        with pytest.raises(SpaceError, match=r"Compacter at encoder\.here: width 30 is not a multiple of n = 4"):
            PET_CLASSES["Compacter"].n_params(position(nn.Identity(), "block", 30, 30), {})


class TestIA3(_Zero):
    pet_type, kinds, method = "IA3", {"linear"}, "sequential"
    n_params = 20

    def naive(self, pet, x):
        return x * pet["weight"]

    @torch.no_grad()
    @pytest.mark.parametrize("order", [("LoRA", "BitFit", "IA3"), ("IA3", "BitFit", "LoRA")])
    @pytest.mark.parametrize("gates", [None, (0.3, 0.6, 0.9)])
    def test_it_scales_the_layer_and_lora_and_not_bitfit(self, order, gates):
        """``z_i w (W x + c + z_l lora) + z_b b`` on top of ``W x + c + z_l lora``, in any order of the gates."""
        model = tiny_model("bert").double().eval()
        entries = [{"type": t, "modules": ["SelfAttn.Q"], "positions": ["encoder.layer.0.*"]} for t in order]
        found, _ = candidate_gates(positions(model), load_space({"gates": entries}))
        found = sorted(found, key=lambda g: order.index(g.pet_type))
        assert [g.pet_type for g in found] == list(order)
        target = model.base_model.get_submodule(found[0].position)
        weight, bias = target.weight.numpy(), target.bias.numpy()
        x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        bare = target(x)
        pets = insert(model, found)
        assert torch.equal(target(x), bare)  # unchanged at the start, to the bit
        for p in pets.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel() + 7), dtype=p.dtype))
        z = dict(zip(order, gates or (1.0, 1.0, 1.0), strict=True))
        with pets.gated(None if gates is None else torch.tensor(gates, dtype=torch.float64)):
            scaled = target(x).numpy()
        pet = {g.pet_type: {k: v.numpy() for k, v in p.named_parameters()} for g, p in zip(found, pets, strict=True)}
        lora = 16 * (x.numpy() @ pet["LoRA"]["lora_A"].T) @ pet["LoRA"]["lora_B"].T
        h = x.numpy() @ weight.T + bias + z["LoRA"] * lora
        expected = h * (1 + z["IA3"] * pet["IA3"]["weight"]) + z["BitFit"] * pet["BitFit"]["bias"]
        np.testing.assert_allclose(scaled, expected, rtol=1e-10, atol=1e-10)
        pets.detach()
        assert torch.equal(target(x), bare)


def _cases(base: type[PETCase]) -> set[type[PETCase]]:
    return {base}.union(*map(_cases, base.__subclasses__()))


def test_every_type_has_a_case():
    assert {c.pet_type for c in _cases(PETCase) if "pet_type" in dir(c)} == set(PET_CLASSES)


def test_a_name_is_registered_once():
    with pytest.raises(SpaceError, match="expected a new name of at most 40 characters, found 'LoRA'"):
        register(type("LoRA", (PET,), {}))
    with pytest.raises(SpaceError, match="found 'Long"):
        register(type("Long" * 11, (PET,), {}))
    assert list(PET_CLASSES)[: len(PET_TYPES)] == list(PET_TYPES)


def test_a_type_that_is_not_installed_is_drawn_and_not_inserted(tmp_path):
    """A run of a colleague who has one PET type more can be read here; training it is refused by name."""
    model = tiny_model("t5")
    gates, _ = candidate_gates(positions(model), load_space("S3PET-L"))
    foreign = Structure(gates=(gates[0], replace(gates[1], pet_type="Elsewhere")))
    foreign.save(tmp_path / "structure.json")
    loaded = Structure.load(tmp_path / "structure.json")
    assert set(heatmap_table(loaded)["pet_type"]) == {"LoRA", "Elsewhere"}
    assert pet_type_order(["Zeta", "Elsewhere", "BitFit", "LoRA"]) == ["LoRA", "BitFit", "Elsewhere", "Zeta"]
    with pytest.raises(StructureError, match="expected a PET type among LoRA, .*, found 'Elsewhere'"):
        insert(model, loaded.gates)
