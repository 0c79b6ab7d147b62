"""Does an export compute what the adapter computes? Outputs on a few random inputs, before and after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s3pet_viz.backbones.position import known_tokens
from s3pet_viz.errors import ExportError

#: Largest difference of two outputs over the largest output, by the backbone's type. Sums are taken in another order;
#: and norms such as Gemma's are taken in float32 whatever the type.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_INPUTS, _LENGTH = 3, 12


@torch.no_grad()
def outputs(model: nn.Module) -> list[Tensor]:
    """The logits on a few random inputs (the same ones for the same vocabulary), in evaluation mode."""
    whole: Any = model
    size = known_tokens(model) or _LENGTH  # CANINE reads any number
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    modes = [(m, m.training) for m in model.modules()]
    made = []
    model.eval()
    try:
        for _ in range(_INPUTS):
            # One row at a time: a head that looks for padding must not need a padding token.
            ids = torch.randint(0, size, (2, 1, _LENGTH), generator=generator).to(device)
            more = {"decoder_input_ids": ids[1]} if getattr(whole.config, "is_encoder_decoder", False) else {}
            if more and not whole.can_generate():  # a head that reads the text's end
                ids[:, :, -1] = whole.config.eos_token_id
            made.append(whole(input_ids=ids[0], attention_mask=torch.ones_like(ids[0]), **more).logits.detach().cpu())
    finally:
        for module, mode in modes:
            module.training = mode
    return made


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference of two outputs over the largest output."""
    scale = max(float(e.double().abs().max()) for e in expected)
    gap = max(float((e.double() - f.double()).abs().max()) for e, f in zip(expected, found, strict=True))
    return gap / scale if scale else gap


def check_same(expected: list[Tensor], found: list[Tensor], what: str) -> float:
    """The difference of two outputs, where it is no more than rounding. Raises ExportError: it is more."""
    gap = difference(expected, found)
    most = TOLERANCE.get(expected[0].dtype, 1e-4)
    if not gap <= most:  # NaN, too
        raise ExportError(
            f"{what} was loaded back and computes something else: expected logits within {most:g} of the adapter's "
            f"(relative to the largest), found {gap:.3g}; nothing was written"
        )
    return gap
