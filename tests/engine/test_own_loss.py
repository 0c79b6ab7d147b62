"""Searches with batches and a loss of the user's own: every mode, resuming, what a run keeps, what is refused."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch
from own_problems import (
    SPACE,
    TOWER_SPACE,
    Towers,
    accuracy,
    contrastive,
    picture_batches,
    picture_loss,
    pictures,
    tower_batches,
    towers,
    vit,
)
from problems import MOOD, mood_data, tiny_model, tokenizer_of
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.analysis.learned import unlearned
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError, ConfigError, NonFiniteLossError, RunError, S3PETError, TaskError

MODES = ("fast", "paper", "first-order", "single-level", "exact", "prune")


def go(out=None, model=None, **changes):
    """A search of six steps on the ViT's pictures, or what is changed of it."""
    settings = {
        "model": vit() if model is None else model, "loss": picture_loss, "space": TOWER_SPACE if isinstance(model, Towers) else SPACE, "budget": 120, "steps": 6,
        "lr": 1e-2, "second_order_from": 2, "progress": False, "out": out,
    } | ({} if "train" in changes else picture_batches())  # fmt: skip
    return s3.search(**{k: v for k, v in {**settings, **changes}.items() if v is not None})


def same(a, b):
    return np.array_equal(a.alphas(), b.alphas()) and a.structure().keys == b.structure().keys


class Stop(s3.Callback):
    def __init__(self, at):
        self.at = at

    def on_step_end(self, search, step, result):
        if step + 1 == self.at:
            search.request_stop("as the test wants")


# -- modes and models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_moves_alpha_and_leaves_the_model(mode, tmp_path):
    model = towers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = go(
        tmp_path / "run", model, loss=contrastive, train=tower_batches(8, 1), validation=tower_batches(3, 2), budget=60,
        head=["ends", "temperature"], mode=mode, steps=10,
    )  # fmt: skip
    assert run.status == "finished"
    alphas = run.alphas()
    assert np.abs(alphas[-1] - alphas[0]).max() > 0
    losses = run.steps()["train_loss"].to_numpy()
    assert losses[-3:].mean() < losses[:3].mean()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert run.structure().n_params <= 60
    assert {g.position.partition(".")[0] for g in run.gates_list} == {"words", "numbers"}
    assert {g.layer for g in run.gates_list} == {0, 1}  # the towers do not fall together
    assert run.info["head_params"] == 16 * 6 + 6 + 8 * 6 + 6 + 1


def test_paper_mode_s_hypergradient_is_exact_mode_s_direction(tmp_path):
    """Both take the loss several times of one batch: they agree only if it is the same batch."""
    runs = [go(tmp_path / mode, mode=mode, dropout=False, steps=2) for mode in ("first-order", "exact")]
    a, b = (run.alphas()[0] for run in runs)
    assert np.corrcoef(a, b)[0, 1] > 0.9


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return go(tmp_path_factory.mktemp("own") / "run", score=accuracy, steps=12, checkpoint_every=4, eval_every=3)


def test_a_vit_s_own_head_is_trained_beside_the_gates(searched):
    own = searched.info["own"]
    assert own["head"] == ["classifier.weight", "classifier.bias"]
    assert own["train"] == "DataLoader of 6 batches"
    assert (own["loss"], own["score"], own["resumes"]) == ("picture_loss", "accuracy", "bit for bit")
    assert searched.config["task"] == "own loss picture_loss"
    assert searched.info["constant_loss"] is None
    assert searched.info["head_params"] == 2 * 16 + 2


def test_whisper(tmp_path):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    sizes = {f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(d_model=16, vocab_size=30, num_mel_bins=4, max_source_positions=8, max_target_positions=8, **sizes, **tokens)  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    batches = [{"input_features": torch.randn(2, 4, 16, generator=draw), "labels": torch.tensor([[3, 4, 2], [5, 6, 2]])}] * 2
    run = go(
        tmp_path / "run", WhisperForConditionalGeneration(config), train=batches, validation=batches[:1],
        loss=lambda model, batch: model(**batch).loss, space={"gates": [{"type": "LoRA", "modules": ["*.Q", "FFN.W1"]}]}, steps=4, budget=100,
    )  # fmt: skip
    assert run.config["task"] == "own loss"
    assert {g.stack for g in run.gates_list} == {"encoder", "decoder"}
    assert "CrossAttn.Q" in {g.module for g in run.gates_list}
    assert run.info["head_params"] == 0


def test_gates_that_one_batch_does_not_reach_stay(tmp_path):
    """Batches of one tower and of the other in turn."""
    def loss(model, batch):  # fmt: skip
        name, x = batch
        return (getattr(model, f"encode_{name}")(x)[:, 0] - 1).square().mean()

    words = [("words", b["words"]) for b in tower_batches(2, 1)]
    numbers = [("numbers", b["more"][0]) for b in tower_batches(2, 1)]
    turns = [*itertools.chain(*zip(words, numbers, strict=True))]
    run = go(tmp_path / "run", towers(), loss=loss, train=turns, validation=turns[::-1], budget=60, steps=2)
    assert len(run.gates_list) == 6
    assert not run.inert
    one = go(tmp_path / "one", towers(), loss=loss, train=words, validation=words[::-1], budget=30, steps=2)
    assert {g.position.partition(".")[0] for g in one.inert} == {"numbers"}


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 6)) for _ in range(2)])

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def test_statistics_of_batches_stand_still(tmp_path):
    torch.manual_seed(0)
    model = Normed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = list(torch.randn(4, 8, 6))
    space = {"gates": [{"type": "LoRA", "modules": ["FFN.*"], "options": {"r": 1}}]}
    run = go(tmp_path / "run", model, loss=lambda m, x: (m(x) - x.flip(0)).square().mean(), train=batches, validation=batches[:2], space=space, budget=40, steps=4)
    assert run.info["own"]["resumes"] == "bit for bit"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- resuming ----------------------------------------------------------------------------------------------


def test_an_interrupted_search_goes_on_bit_for_bit(searched, tmp_path):
    """The loader shuffles, from torch's random numbers, which are others here."""
    torch.manual_seed(77)
    cut = go(tmp_path / "run", score=accuracy, steps=12, checkpoint_every=4, eval_every=3, callbacks=[Stop(7)])
    assert cut.status == "stopped"
    with pytest.raises(RunError, match="expected model=, loss=, train= and validation= as the search was given them.*loss picture_loss"):
        s3.search(resume=cut)
    torch.manual_seed(5)
    again = s3.search(resume=cut, model=vit(), loss=picture_loss, score=accuracy, progress=False, **picture_batches())
    assert again.status == "finished"
    assert same(again, searched)


def _made(n, seed):
    def make():
        yield from tower_batches(n, seed)

    return make


@pytest.mark.parametrize("how", ["function", "generator"])
def test_other_iterables_resume_too(how, tmp_path):
    """Functions whose length nobody knows, loaders with a generator of their own."""

    def batches():
        if how == "function":
            return {"train": _made(5, 1), "validation": _made(2, 2)}
        return picture_batches(generator=torch.Generator().manual_seed(4))

    more = {"steps": 4, **({"loss": contrastive, "budget": 60} if how == "function" else {})}
    make = towers if how == "function" else vit
    one = go(tmp_path / "one", make(), eval_every=2, **more, **batches())
    go(tmp_path / "two", make(), eval_every=2, **more, **batches(), callbacks=[Stop(3)])
    two = s3.search(resume=tmp_path / "two", model=make(), progress=False, loss=more.get("loss", picture_loss), **batches())
    assert same(one, two)


def test_a_search_that_cannot_go_on_the_same_says_so(tmp_path):
    class Unseeded(IterableDataset):
        def __iter__(self):
            rng = np.random.default_rng()
            for batch in tower_batches(3, 1):
                yield {**batch, "words": batch["words"] * 0 + int(rng.integers(20))}

    source = Unseeded()
    with pytest.warns(UserWarning, match="resuming: .* two readings of train= began with other batches"):
        run = go(tmp_path / "run", towers(), loss=contrastive, train=source, validation=tower_batches(2, 2), budget=60, max_rows=18, callbacks=[Stop(2)])
    assert run.info["own"]["resumes"].startswith("two readings of train=")
    with pytest.warns(UserWarning, match="two readings of train="):
        run = s3.search(resume=run, model=towers(), loss=contrastive, train=source, validation=tower_batches(2, 2), progress=False)
    assert run.status == "finished"


def test_a_resumed_search_is_the_same_search(tmp_path):
    parts = {"train": tower_batches(3, 1), "validation": tower_batches(2, 2)}
    run = go(tmp_path / "run", towers(), loss=contrastive, budget=60, callbacks=[Stop(2)], **parts)
    with pytest.raises(RunError, match="loss of the first training batch was .* when the search began, and is"):
        s3.search(resume=run, model=towers(), loss=lambda m, b: 2 * contrastive(m, b), **parts)
    with pytest.raises(RunError, match="data was .* when the search began|loss of the first training batch"):
        s3.search(resume=run, model=towers(), loss=contrastive, **{**parts, "train": tower_batches(3, 7)})
    with pytest.raises(RunError, match="validation rows was"):
        s3.search(resume=run, model=towers(), loss=contrastive, **{**parts, "validation": tower_batches(2, 7)})
    with pytest.raises(ConfigError, match="resume: a resumed search keeps its own options; 'budget'"):
        s3.search(resume=run, model=towers(), loss=contrastive, budget=90, **parts)


def test_a_task_s_batches_given_as_own_ones_make_the_same_search(tmp_path):
    """There is one path: bit for bit, whoever made the batches."""
    from s3pet_viz.engine.split_batches import SplitBatches
    from s3pet_viz.training.device import Device
    from s3pet_viz.training.pair import load_pair
    from s3pet_viz.training.processes import Processes

    model, tokenizer, task = tiny_model("t5"), tokenizer_of("t5"), mood_data()
    given = {"model": model, "space": {"gates": [{"type": "LoRA", "modules": ["*.Q", "*.V"]}]}, "budget": 600, "steps": 5, "second_order_from": 2, "progress": False}
    run = s3.search(task=task, load={"task_spec": MOOD}, tokenizer=tokenizer, batch_size=8, out=tmp_path / "task", **given)
    made, data = load_pair(task, model=model, tokenizer=tokenizer, task_spec=MOOD)
    halves = SplitBatches(data, made, s3.SearchConfig.from_dict(run.config), Device(torch.device("cpu")), Processes())
    train, val = ([halves.batch(half, k) for k in range(5)] for half in ("train", "val"))
    own = s3.search(loss=lambda m, batch: m(**batch, use_cache=False).loss, train=train, validation=val, out=tmp_path / "own", **given)
    assert same(run, own)
    assert np.array_equal(run.steps()["train_loss"], own.steps()["train_loss"])


# -- what a run keeps --------------------------------------------------------------------------------------


def test_a_run_is_read_as_any_other(searched):
    run = s3.open_run(searched.path)
    assert run.structure().n_params <= 120
    assert s3.figures.heatmap_table(run) is not None
    shown = CliRunner().invoke(app, ["show", str(run.path)])
    assert shown.exit_code == 0, shown.output
    assert "FFN.W1 LoRA" in shown.output
    for words in (["tune", str(run.path)], ["explain", str(run.path)]):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 2
        assert "expected model=, loss=, train= and validation=" in said.output
    (said,) = unlearned(run)
    assert said.endswith("what one answer to every row would have is not known of a loss of your own")
    assert "not-learned" not in {finding.code for finding in s3.health(run)}


def test_prune_hands_out_what_it_trained(tmp_path):
    run = go(tmp_path / "run", score=accuracy, mode="prune", steps=30, save=tmp_path / "adapter")
    scores = run.scores()
    assert scores["metrics"]["score"] > 0.5
    model = vit().eval()
    before = accuracy(model, DataLoader(pictures(16, 3), batch_size=8))
    with torch.no_grad(), s3.Adapter.from_pretrained(tmp_path / "adapter").attach(model):
        assert accuracy(model, DataLoader(pictures(16, 3), batch_size=8)) == scores["metrics"]["score"]
    assert accuracy(model, DataLoader(pictures(16, 3), batch_size=8)) == before


# -- what is refused ---------------------------------------------------------------------------------------

BATCHES = tower_batches(3, 1)


class Endless(IterableDataset):
    def __iter__(self):
        return itertools.cycle(tower_batches(3, 1))


def bare(model, batch):
    return contrastive(model, batch).detach()


def halved(model, batch):
    batch["more"][0].mul_(0.5)
    return contrastive(model, batch)


OTHER = Towers()
REFUSED = {
    "no loss": ({"loss": None}, ConfigError, r"loss: expected a function loss\(model, batch\) beside train="),
    "no validation": ({"validation": None}, ConfigError, "validation: expected an iterable of batches"),
    "a task too": ({"task": "sentiment"}, ConfigError, "expected a task, or batches and a loss of your own, found both"),
    "a backbone's name": ({"backbone": "tiny-t5"}, ConfigError, "backbone: expected none with a loss of your own, found 'tiny-t5'"),
    "a tokenizer": ({"tokenizer": object()}, ConfigError, "tokenizer: expected none with a loss of your own"),
    "a text's length": ({"max_source_length": 8}, ConfigError, "max_source_length: .*cut texts where the batches are made"),
    "a split": ({"split": "holdout"}, ConfigError, "split: expected none with a loss of your own, found 'holdout'"),
    "a task's spec": ({"load": {"task_spec": {}}}, ConfigError, "task_spec: expected none"),
    "a batch size": ({"batch_size": 8}, ConfigError, "batch_size: expected none .*collate= makes them of rows"),
    "parts of a batch": ({"accumulation": 2}, ConfigError, "accumulation: .*a loss may depend on the whole batch"),
    "checkpointed layers": ({"gradient_checkpointing": True}, ConfigError, "gradient_checkpointing: expected a model of transformers"),
    "a generator": ({"train": (b for b in BATCHES)}, ConfigError, "train: expected batches that can be read again, found a generator"),
    "an iterator": ({"validation": iter(BATCHES)}, ConfigError, "validation: .*found a list_iterator, which can be read once"),
    "a function with arguments": ({"train": lambda n: BATCHES}, ConfigError, "train: expected a function without arguments"),
    "a class": ({"train": Endless}, ConfigError, "train: expected an iterable of batches"),
    "splits": ({"train": {"train": BATCHES}}, ConfigError, "train: expected an iterable of batches .*found dict"),
    "a tensor": ({"train": torch.ones(3)}, ConfigError, "train: .*found Tensor"),
    "rows": ({"train": pictures(8, 1)}, ConfigError, "train: expected batches, found a TensorDataset of rows; give collate="),
    "collate twice": ({"train": DataLoader(pictures(8, 1)), "collate": default_collate}, ConfigError, "collate: expected none with a DataLoader"),
    "none": ({"train": []}, TaskError, "train: list of 0 batches: expected at least one batch, found none"),
    "none of a function": ({"validation": lambda: iter(())}, TaskError, "validation: .*expected batches, found none"),
    "an endless stream": ({"train": Endless()}, TaskError, "train: Endless of batches: expected max_rows, the rows of one pass"),
    "an endless loader": ({"validation": DataLoader(Endless(), batch_size=None)}, TaskError, "validation: DataLoader of batches: expected max_rows"),
    "numbers": ({"train": [1, 2]}, TaskError, "train: list of 2 batches: expected batches of tensors .*found 1"),
    "a loader that fails": ({"train": DataLoader([object()])}, TaskError, "train: .*first batch cannot be read .TypeError"),
    "a number": ({"loss": lambda m, b: 0.5}, ConfigError, "loss: expected a scalar tensor .*found float, through which no gradient flows"),
    "losses": ({"loss": lambda m, b: m.encode_words(b["words"])}, ConfigError, "loss: .*found a tensor of 6 x 6 .float32."),
    "nothing": ({"loss": lambda m, b: None}, ConfigError, "loss: .*found NoneType"),
    "another model": ({"loss": lambda m, b: contrastive(OTHER, b)}, ConfigError, "loss: expected a scalar that follows from the weights"),
    "a changed batch": ({"loss": halved, "train": tower_batches(2, 1)}, ConfigError, "loss: expected it to leave a batch as it is"),
    "no gradient": ({"loss": bare}, ConfigError, "loss: expected a scalar with a gradient, found one without"),
    "NaN": ({"loss": lambda m, b: contrastive(m, b) * float("nan")}, NonFiniteLossError, "first batch of train=, found nan"),
    "a loss that fails": ({"loss": lambda m, b: b["labels"]}, ConfigError, "loss: the first batch of train= ends in KeyError: 'labels'"),
    "a loss with weights": ({"loss": nn.Linear(2, 2)}, ConfigError, "loss: .*found Linear with some; make them a part of the model"),
    "a score that is none": ({"score": 5}, ConfigError, "score: expected a function score"),
    "no module": ({"model": "vit"}, BackboneError, "model: expected a torch module that loss= is of, found str"),
    "no layers": ({"model": nn.Conv2d(3, 4, 2)}, BackboneError, "found no numbered layers with linear layers in Conv2d; family="),
    "parallel": ({"model": nn.DataParallel(Towers())}, BackboneError, "model: expected a plain module, found DataParallel"),
    "half": ({"model": Towers().half()}, BackboneError, "model: expected weights in float32 or bfloat16, found float16"),
    "another's head": ({"head": ["end"]}, ConfigError, "head: expected modules or parameters of Towers, found 'end'; near it are ends"),
    "a head's kind": ({"head": "lm"}, ConfigError, "head: expected auto or names of modules of the model with loss=, found 'lm'"),
    "all in the head": ({"head": ["words", "numbers"]}, BackboneError, "head: expected a part of Towers that leaves layers"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_before_anything_is_written(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, kind, words = REFUSED[case]
    given = {"model": towers(), "train": BATCHES, "validation": tower_batches(2, 2), "loss": contrastive, "budget": 60, "space": TOWER_SPACE, "steps": 2, "out": "run"}
    with pytest.raises(S3PETError, match=words) as raised:
        s3.search(**{name: value for name, value in {**given, **change}.items() if value is not None})
    assert type(raised.value) is kind
    assert not list(tmp_path.iterdir())


def test_a_loss_may_take_entries_out_of_a_batch(tmp_path):
    def popping(model, batch):
        return contrastive(model, {name: batch.pop(name) for name in [*batch]})

    runs = [go(tmp_path / f.__name__, towers(), loss=f, train=BATCHES, validation=BATCHES[::-1], budget=60, steps=3) for f in (contrastive, popping)]
    assert same(*runs)


def test_a_task_s_search_takes_no_names_for_a_head():
    with pytest.raises(ConfigError, match="head: expected one of auto, lm, classification, found"):
        s3.search(task="sentiment", backbone="tiny-t5", budget=300, head=["x"])


def test_the_same_rows_twice_are_said(tmp_path):
    with pytest.warns(UserWarning, match="validation: the same as train: alpha and the best weights follow rows"):
        go(tmp_path / "run", towers(), loss=contrastive, train=BATCHES, validation=BATCHES, budget=60, steps=2)
    rows = TensorDataset(torch.zeros(4, 3), torch.zeros(4))
    parts = {name: DataLoader(rows) for name in ("train", "validation")}
    with pytest.warns(UserWarning, match="the same as train"), pytest.raises(ConfigError, match="ends in"):
        go(None, towers(), loss=functools.partial(contrastive), budget=60, **parts)
