"""Pretrains the embedded backbone from nothing: tokenizer, T5 model, mixture, one seeded one-thread run.

    python tools/pretrain_tiny_t5.py

The vocabulary is the lexicon itself (one piece per word) plus single characters for anything else, so
sequences are short and a run of a few thousand steps takes minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import string
import time
from pathlib import Path

import tokenizers
import torch
import transformers
from skills import MIXTURE, VOCABULARY, Grammar, split_words, stream
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = [f"<extra_id_{i}>" for i in range(32)]
# Field names and prefixes of the package's T5 text form, kept whole.
FIELD_WORDS = ["text:", "sentence1:", "sentence2:", "premise:", "hypothesis:", "question:", "context:"]
FIELD_WORDS += ["sentence:", "label:", "true", "false", "yes", "no", "sentence", "text"]
SIZES = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 512, "num_layers": 4, "num_decoder_layers": 4}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A Unigram tokenizer whose pieces are known words, then characters; appends ``</s>``."""
    seen = dict.fromkeys(VOCABULARY + FIELD_WORDS)
    for _, source, target in stream(random.Random("vocabulary"), 20000):
        for word in split_words(f"{source} {target}"):
            if not word.startswith("<extra"):
                seen.setdefault(word)
    chars = [c for c in string.printable if not c.isspace()]
    words = [w for w in seen if len(w) > 1]
    pieces = [(PAD, 0.0), (EOS, 0.0), (UNK, 0.0), ("▁", -12.0)]
    pieces += [(c, -12.0) for c in chars] + [(f"▁{c}", -11.0) for c in string.ascii_lowercase + string.digits]
    pieces += [(f"▁{w}", -9.0) for w in words]
    core = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    core.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    core.add_special_tokens([AddedToken(s, lstrip=True, special=True) for s in SENTINELS])
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=SENTINELS,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_model(vocab: int) -> T5ForConditionalGeneration:
    """T5 v1.0 in miniature.  Dropout is off, as T5 1.1 did for pretraining: no example is seen twice."""
    config = T5Config(
        vocab_size=vocab,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        **SIZES,
    )
    model = T5ForConditionalGeneration(config)
    start_structured(model)
    return model


@torch.no_grad()
def start_structured(model: T5ForConditionalGeneration) -> None:
    """Starts attention where trained transformers end up, so that minutes of training are enough.

    As in mimetic initialisation (Trockman and Kolter, 2023): queries and keys agree, so heads find equal words;
    cross-attention passes words on unchanged, so copying is possible from the first step; one head looks one
    word back, another one word ahead; and two encoder heads look for the same word elsewhere, not at themselves,
    and subtract what they find, so a word that has a partner can be told from one that has none.
    """
    width, head = SIZES["d_model"], SIZES["d_kv"]
    for side in (model.encoder, model.decoder):
        bias = side.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        bias[1, 0] += 4.0
        if side is model.encoder:
            bias[17, 1] += 4.0
            bias[0, 2:] -= 6.0
        for block in side.block:
            for layer in block.layer:
                attention = getattr(layer, "SelfAttention", None) or getattr(layer, "EncDecAttention", None)
                if attention is None:
                    continue
                for h in range(SIZES["num_heads"]):
                    rows = slice(h * head, (h + 1) * head)
                    basis = torch.linalg.qr(torch.randn(width, head))[0].T
                    strength = 0.45 if h >= 2 or hasattr(layer, "EncDecAttention") else 0.1
                    attention.q.weight[rows] = strength * basis
                    attention.k.weight[rows] = strength * basis
                    if side is model.encoder and h >= 2:
                        attention.v.weight[rows] = basis
                        attention.o.weight[:, rows] = -0.5 * basis.T
                if hasattr(layer, "EncDecAttention"):
                    turn = torch.linalg.qr(torch.randn(width, width))[0]
                    attention.v.weight.copy_(turn)
                    attention.o.weight.copy_(0.5 * turn.T)


def batches(tok: PreTrainedTokenizerFast, rng: random.Random, size: int, stage: int):  # type: ignore[no-untyped-def]
    """Endless (inputs, labels) of similar length, so that little is spent on padding."""
    core = tok.backend_tokenizer
    while True:
        rows = stream(rng, size * 40, stage)
        sources = [e.ids for e in core.encode_batch([s for _, s, _ in rows])]
        targets = [e.ids for e in core.encode_batch([t for _, _, t in rows])]
        order = sorted(range(len(rows)), key=lambda i: len(sources[i]) + rng.random() * 3)
        starts = list(range(0, len(order), size))
        rng.shuffle(starts)
        for start in starts:
            chosen = order[start : start + size]
            yield pad([sources[i] for i in chosen], 0), pad([targets[i] for i in chosen], -100)


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of ids as one tensor."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


@torch.no_grad()
def skill_report(
    model: T5ForConditionalGeneration, tok: PreTrainedTokenizerFast, seed: int
) -> dict[str, dict[str, float]]:
    """Loss and exact-match (teacher forced) per skill on fresh examples."""
    model.eval()
    report: dict[str, dict[str, float]] = {}
    for name, (make, *_) in MIXTURE.items():
        g = Grammar(random.Random(f"report-{name}-{seed}"), plain=True)
        pairs = [make(g) for _ in range(200)]
        core = tok.backend_tokenizer
        x = pad([core.encode(s).ids for s, _ in pairs], 0)
        y = pad([core.encode(t).ids for _, t in pairs], -100)
        out = model(input_ids=x, attention_mask=(x != 0).long(), labels=y)
        hit = (out.logits.argmax(-1) == y) | (y == -100)
        report[name] = {
            "loss": round(float(out.loss), 4),
            "exact": round(float(hit.all(1).float().mean()), 3),
        }
    model.train()
    return report


def train(args: argparse.Namespace) -> None:
    """Both stages; the second starts a new optimizer, so it can also continue a saved first stage."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    transformers.logging.disable_progress_bar()
    tok = build_tokenizer()
    model = build_model(len(tok))
    total = sum(p.numel() for p in model.parameters())
    print(f"vocabulary {len(tok)}, parameters {total}", flush=True)
    stages: list[dict[str, object]] = []
    if args.first is not None:
        model = T5ForConditionalGeneration.from_pretrained(args.first)
        stages = json.loads((args.first / "training.json").read_text(encoding="utf-8"))["stages"][:1]
    for stage in range(len(stages) + 1, 3):
        stages.append(run_stage(args, tok, model, stage))
        skills = skill_report(model, tok, args.seed)
        save(args, tok, model, {"parameters": total, "stages": stages, "skills": skills})
        print(json.dumps(skills), flush=True)


def run_stage(
    args: argparse.Namespace, tok: PreTrainedTokenizerFast, model: T5ForConditionalGeneration, stage: int
) -> dict[str, object]:
    """One pass over a fresh stream with its own warm-up and decay."""
    steps, lr = (args.steps, args.lr) if stage == 1 else (args.second_steps, args.second_lr)
    shared = [model.shared.weight]
    queries = [p for n, p in model.named_parameters() if n.endswith(".q.weight")]
    apart = {id(p) for p in shared + queries}
    rest = [p for p in model.parameters() if id(p) not in apart]
    # Adam moves every entry by about the rate, so the rate has to fit the size entries start with: T5 draws
    # embeddings with deviation 1 and queries with 1 / sqrt(d_model * d_kv), other matrices in between.
    groups = [{"params": shared, "lr": lr * args.embed_lr}, {"params": rest, "lr": lr}]
    groups.append({"params": queries, "lr": lr * args.query_lr})
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def rate(step: int) -> float:
        done = min(1.0, step / steps)
        return min(1.0, (step + 1) / args.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    name = f"pretrain-{args.seed}" if stage == 1 else f"pretrain-{args.seed}-{stage}"
    source = batches(tok, random.Random(name), args.batch, stage)
    model.train()
    begun, window, history = time.time(), [], []
    for step in range(1, steps + 1):
        x, y = next(source)
        loss = model(input_ids=x, attention_mask=(x != 0).long(), labels=y).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        window.append(float(loss.detach()))
        if step % args.log == 0:
            mean = sum(window) / len(window)
            history.append({"step": step, "loss": round(mean, 4)})
            window.clear()
            print(f"stage {stage} step {step} loss {mean:.4f} {time.time() - begun:.0f}s", flush=True)
        if step % args.report == 0 and step < steps:
            print(json.dumps(skill_report(model, tok, args.seed)), flush=True)
            if args.checkpoint is not None:
                model.save_pretrained(args.checkpoint)
                tok.save_pretrained(args.checkpoint)
    seconds = round(time.time() - begun)
    return {"steps": steps, "learning_rate": lr, "seconds": seconds, "loss": history}


def save(
    args: argparse.Namespace,
    tok: PreTrainedTokenizerFast,
    model: T5ForConditionalGeneration,
    measured: dict[str, object],
) -> None:
    """Model, tokenizer and how they came to be."""
    model.eval()
    model.save_pretrained(args.out)
    tok.save_pretrained(args.out)
    note = {
        "objective": "span corruption and a supervised mixture, cross-entropy",
        "start": "T5 initialisation with structured attention (start_structured)",
        "seed": args.seed,
        "batch": args.batch,
        "embedding_rate_multiple": args.embed_lr,
        "query_rate_multiple": args.query_lr,
        "warmup": args.warmup,
        "optimizer": "AdamW, cosine decay, no weight decay, gradient norm clipped at 1",
        "dropout": 0.0,
        "vocabulary": len(tok),
        "mixture": {name: list(weights) for name, (_, *weights) in MIXTURE.items()},
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        **measured,
    }
    (args.out / "training.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "data" / "backbones" / "tiny-t5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--second-steps", type=int, default=2400)
    parser.add_argument("--second-lr", type=float, default=1e-3)
    parser.add_argument("--first", type=Path, help="continue from this saved first stage")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--embed-lr", type=float, default=6.0, help="embedding rate, as a multiple of --lr")
    parser.add_argument("--query-lr", type=float, default=0.5, help="query rate, as a multiple of --lr")
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path, help="also keep the unfinished model here")
    parser.add_argument("--log", type=int, default=100)
    parser.add_argument("--report", type=int, default=500)
    train(parser.parse_args())
