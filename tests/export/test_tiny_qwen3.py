"""The path of most people, on the embedded language model: decoder-only, LoRA with ranks, PEFT out, no network."""

from __future__ import annotations

import pytest
import torch
from export_problems import gap
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import s3pet_viz as s3
from s3pet_viz.tasks.forms import ANSWER_CUE

NAME = "tiny-qwen3"
FOLDER = s3.resources.find_resource("backbones", NAME)
ROW = "entailment premise: the dog saw the cat. hypothesis: the cat was seen by the dog." + ANSWER_CUE
SHORT = {"steps": 3, "batch_size": 8, "progress": False, "device": "cpu"}

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return s3.search(
        backbone=NAME, task="entailment", space="LoRA-ranks", budget="0.3%", max_rows=48, seed=0,
        out=tmp_path_factory.mktemp("qwen") / "run", **SHORT,
    )  # fmt: skip


def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


def tokens():
    return AutoTokenizer.from_pretrained(FOLDER)([ROW, "sentiment text: bad" + ANSWER_CUE], return_tensors="pt", padding=True)


def ranks(structure) -> dict[str, int]:
    found: dict[str, int] = {}
    for gate in structure.gates:
        found[gate.position] = found.get(gate.position, 0) + 1
    return found


def test_a_searched_structure_as_a_config_of_peft(run):
    """PEFT takes the config as it is: LoRA of the chosen ranks on the chosen layers, and nothing changed by it yet."""
    made = s3.to_peft(run)
    assert not made.dropped
    chosen = ranks(run.structure())
    peft = get_peft_model(model(), made.config)
    sizes = {
        name.removeprefix("base_model.model.model.").removesuffix(".lora_A.default.weight"): weight.shape[0]
        for name, weight in peft.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }
    assert {name.removeprefix("base_model.model."): r for name, r in sizes.items()} == chosen
    assert made.config.task_type == "CAUSAL_LM"
    assert sum(p.numel() for p in peft.parameters() if p.requires_grad) == run.structure().n_params
    with torch.no_grad():
        assert gap(peft.eval()(**tokens()).logits, model()(**tokens()).logits) < 1e-5


def test_a_tuned_structure_computes_the_same_in_peft(run, tmp_path):
    s3.tune(
        run.structure(), task="entailment", backbone=NAME, evaluations=1, lr=0.02, load={"max_rows": 16},
        save=tmp_path / "adapter", **SHORT,
    )  # fmt: skip
    adapter = s3.Adapter.from_pretrained(tmp_path / "adapter")
    assert s3.to_peft(adapter, folder=tmp_path / "peft").held
    backbone = adapter.load_backbone()
    with torch.no_grad():
        plain = backbone.model(**tokens()).logits
        with adapter.attach(backbone):
            ours = backbone.model(**tokens()).logits
        theirs = PeftModel.from_pretrained(model(), str(tmp_path / "peft")).eval()(**tokens()).logits
    assert gap(ours, plain) > 1e-3
    assert gap(theirs, ours) < 1e-5


def test_where_its_gates_can_be():
    found = s3.positions(NAME)
    table = found.table()
    layers = table[table["module"] != "Final.LN"]
    modules = {"SelfAttn", "FFN", "FFN.W1", "FFN.W1.gate", "FFN.W2", "FFN.LN"}
    modules |= {f"SelfAttn.{part}" for part in ("Q", "K", "V", "O", "LN", "Q.LN", "K.LN")}
    assert set(layers["module"]) == modules
    assert len(layers) == 6 * len(modules) == len(table) - 1


def test_a_chat_is_two_messages_and_what_comes_next():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    user, assistant = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    asked = {"role": "user", "content": "opposite of big"}
    said = {"role": "assistant", "content": "small"}
    words, answer = (tokenizer(m["content"]).input_ids for m in (asked, said))
    prompt = [user, *words, tokenizer.eos_token_id, assistant]
    give = {"tokenize": True, "return_dict": False}
    assert tokenizer.apply_chat_template([asked], add_generation_prompt=True, **give) == prompt
    assert tokenizer.apply_chat_template([asked, said], **give) == [*prompt, *answer, tokenizer.eos_token_id]
    assert tokenizer.unk_token_id not in prompt
    assert tokenizer.decode(prompt, skip_special_tokens=True).split() == ["opposite", "of", "big"]
