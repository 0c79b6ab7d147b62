"""What a training step costs with eight units a position, against one LoRA of rank 8; processor time, one thread.

python benchmarks/speed/ranks_cost.py
"""

from __future__ import annotations

import statistics
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

from s3pet_viz.backbones import positions
from s3pet_viz.pet import Space, SpaceEntry, candidate_gates, insert

CASES = {"r: 8": {"r": 8}, "ranks: 8": {"ranks": 8}}
ROWS, SOURCE, TARGET, ROUNDS, STEPS = 8, 64, 8, 5, 2


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8}
    config = T5Config(vocab_size=4000, num_layers=3, num_decoder_layers=3, decoder_start_token_id=0, **widths)
    model = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    batch = {"input_ids": torch.randint(0, 4000, (ROWS, SOURCE)), "labels": torch.randint(0, 4000, (ROWS, TARGET))}
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, options in CASES.items():
            gates, _ = candidate_gates(positions(model), Space("all", (SpaceEntry("LoRA", ("*",), options=options),)))
            pets = insert(model, gates)
            z = torch.rand(len(gates), requires_grad=True)
            optimizer = torch.optim.AdamW(pets.parameters(), lr=1e-3)
            for step in range(STEPS + 1):
                if step == 1:
                    begun = time.process_time()
                with pets.gated(z):
                    model(**batch).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            seconds[name].append((time.process_time() - begun) / STEPS)
            pets.detach()
    for name, found in seconds.items():
        print(f"{name:9} {min(found):.3f} s at least, {statistics.median(found):.3f} s in the middle")


if __name__ == "__main__":
    main()
