"""AdaLoRA through PEFT: ranks that a training prunes on its way, at the same final number of parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones import Backbone
from s3pet_viz.backbones.position import base_of
from s3pet_viz.backbones.shared import seeded
from s3pet_viz.config.tuning import TuneConfig
from s3pet_viz.errors import BudgetError, ConfigError
from s3pet_viz.export.peft_form import need_peft
from s3pet_viz.structure import Structure
from s3pet_viz.structure.gate import MOST_UNITS
from s3pet_viz.structure.sizes import FORMS
from s3pet_viz.threads import no_warnings
from s3pet_viz.tuning.baselines import lora_gates

NAME = "AdaLoRA"
_ADAPTER = "default"

#: Ranks at the start over those at the end, as its authors' "initial budget".
_START = 1.5
#: Of the steps: before the first rank goes, and after the last went. The learning rates fall to 0 over all of them.
_BEFORE, _AFTER = 0.1, 0.3


class AdaLoRA:
    """One training of AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) by `peft.AdaLoraModel`, on every linear layer.

    PEFT's allocator counts ranks, whatever they cost. Until its last step it goes by the number of ranks that fill the
    budget at their mean size; at the last one it keeps as many of the most important as fit the budget.

    A rank has in + out parameters, as any LoRA's: its singular value can be multiplied into B, and is not counted. The
    scale of a rank is that of the others here, lora_alpha 16, not divided by the number of ranks.

    Attributes:
        since: steps after which the ranks stand still; weights of an earlier evaluation are not kept.
    """

    def __init__(self, backbone: Backbone, budget: int, config: TuneConfig) -> None:
        """Check what can be wrong before anything is trained.

        Args:
            budget: in parameters.

        Raises:
            MissingExtraError: PEFT is not installed. ConfigError: ``auto`` steps, or less than two.
            BudgetError: below rank 1 at the widest layer, or so large that a position would start above 64 ranks.
        """
        self._peft = need_peft(NAME)
        if backbone.form == "own":
            raise ConfigError(
                f"methods: expected none of {NAME} with a loss of your own: it adds to a model's own loss"
            )
        if config.steps == "auto" or int(config.steps) < 2:
            raise ConfigError(
                f"steps: expected a number of at least 2 for {NAME}, whose ranks go by the steps that are left, "
                f"found {config.steps}"
            )
        self._backbone, self.budget, self._config = backbone, budget, config
        self._steps = int(config.steps)
        self._gates = {gate.position: gate for gate in lora_gates(backbone, r=1)}
        sizes = [gate.n_params for gate in self._gates.values()]
        if budget < max(sizes):
            raise BudgetError(
                f"budget: {budget:,} parameters is below rank 1 at the widest layer ({max(sizes):,} parameters), which "
                f"{NAME} may keep alone"
            )
        self._target = budget * len(sizes) / sum(sizes)  # ranks
        self._first = max(2, math.ceil(_START * self._target / len(sizes)))
        if self._first > MOST_UNITS:
            raise BudgetError(
                f"budget: {NAME} would begin with rank {self._first}, above the {MOST_UNITS} of a structure"
            )
        self._units = lora_gates(backbone, ranks=self._first)
        self.since = self._steps - max(1, round(_AFTER * self._steps))
        self._tuner: Any = None
        self._pattern: dict[str, list[bool]] = {}

    def attach(self, model: nn.Module, seed: int) -> list[nn.Parameter]:
        """Put PEFT's layers into a model, in place, and give their weights. `model_state.as_found` takes them off."""
        base = base_of(model)
        sites = {id(base.get_submodule(name)): name for name in self._gates}
        self._names = {name: sites[id(module)] for name, module in model.named_modules() if id(module) in sites}
        with no_warnings(), seeded(seed):
            config = self._peft.AdaLoraConfig(
                target_modules=list(self._names),
                init_r=self._first,
                target_r=1,  # set below: it need not be a whole number of ranks a layer
                lora_alpha=FORMS["LoRA"].defaults["lora_alpha"] * self._first,
                tinit=min(round(_BEFORE * self._steps), self.since - 1),
                tfinal=self._steps - self.since,
                total_step=self._steps,
            )
            self._tuner = self._peft.AdaLoraModel(model, config, _ADAPTER)
        allocator = self._tuner.rankallocator
        allocator.target_bgt = max(1, min(round(self._target), allocator.init_bgt - 1))
        model.register_forward_hook(self._add_orthogonality)
        return [p for p in self._own(model).values() if p.requires_grad]

    def stepped(self, step: int) -> None:
        """To be called after each step of the optimiser, while gradients are there."""
        if step == self.since:
            self._tuner.rankallocator.target_bgt = self._fitting()
        self._tuner.update_and_allocate(step)
        if step == self.since:
            self._pattern = dict(self._tuner.peft_config[_ADAPTER].rank_pattern)

    @property
    def structure(self) -> Structure:
        """The ranks that are left, as units."""
        kept = self._ranks(self._pattern)
        gates = [gate for gate in self._units if (gate.unit or 0) < kept[gate.position]]
        source = {"baseline": NAME, "seed": self._config.seed, "steps": self.since + 1, "first_rank": self._first}
        return Structure(tuple(gates), self._backbone.name, self._backbone.n_params, self.budget, source)

    # -- inside ----------------------------------------------------------------------------------------

    def _own(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {n: p for n, p in model.named_parameters() if ".lora_" in n and n.endswith(f".{_ADAPTER}")}

    def _add_orthogonality(self, model: nn.Module, args: Any, output: Any) -> None:
        """What `peft.AdaLoraModel.forward` adds to the loss while it trains; a held-out loss is the task's alone."""
        if not model.training:
            return
        parts: list[Tensor] = []
        for name, p in self._own(model).items():
            if "lora_E" not in name:
                square = p @ p.T if "lora_A" in name else p.T @ p
                parts.append(torch.linalg.matrix_norm(square - torch.eye(len(square), dtype=p.dtype, device=p.device)))
        weight = self._tuner.peft_config[_ADAPTER].orth_reg_weight
        output.loss = output.loss + weight * torch.stack(parts).mean()

    def _ranks(self, pattern: dict[str, list[bool]]) -> dict[str, int]:
        """By position."""
        return {self._names[name.rsplit(".lora_E", 1)[0]]: sum(kept) for name, kept in pattern.items()}

    def _size(self, pattern: dict[str, list[bool]]) -> int:
        return sum(rank * self._gates[name].n_params for name, rank in self._ranks(pattern).items())

    def _fitting(self) -> int:
        """How many of the most important ranks fit the budget, as the allocator orders them."""
        model, allocator = self._tuner.model, self._tuner.rankallocator
        values = {n: p for n, p in self._own(model).items() if "lora_E" in n}
        kept = {n: p.detach().clone() for n, p in values.items()}
        low, high = 0, allocator.init_bgt - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._size(allocator.mask_to_budget(model, middle)) <= self.budget:
                low = middle
            else:
                high = middle - 1
        with torch.no_grad():
            for name, p in values.items():
                p.copy_(kept[name])
        return low
