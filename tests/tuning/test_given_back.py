"""A user's model comes back as it was, from everything that works on it and whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import MOOD, mood_data, tiny_model, tokenizer_of
from tiny_families import TINY, tiny_family
from torch import nn
from tuning_problems import BIASES, structure_for

import s3pet_viz as s3
from s3pet_viz.errors import S3PETError
from s3pet_viz.export import Adapter
from s3pet_viz.pet import insert
from s3pet_viz.training.evaluate import evaluate as evaluate_backbone
from s3pet_viz.training.model_state import as_found
from s3pet_viz.tuning import Workbench, one_pass_scores

FAST = {"steps": 2, "batch_size": 8, "progress": False}
GIVEN = {"task": mood_data(24, 8), "load": {"task_spec": MOOD}, "device": "cpu"}


class State:
    """All of a model that its owner can see, taken before; `same` compares."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.before = model, self._look(model)

    @staticmethod
    def _look(model: nn.Module) -> dict[str, Any]:
        modules = dict(model.named_modules())
        configs = {id(m.config): m.config for m in modules.values() if hasattr(m, "config")}
        return {
            "values": {k: v.detach().clone() for k, v in (*model.named_parameters(), *model.named_buffers())},
            "memory": {k: (id(v), v.data_ptr(), v.dtype, v.device) for k, v in model.named_parameters()},
            "flags": {k: p.requires_grad for k, p in model.named_parameters()},
            "grads": {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
            "modes": {k: m.training for k, m in modules.items()},
            "attributes": {k: sorted(vars(m)) for k, m in modules.items()},
            "checkpointing": {k: getattr(m, "gradient_checkpointing", None) for k, m in modules.items()},
            "hooks": {k: [*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks] for k, m in modules.items()},
            "configs": [c.to_dict() for c in configs.values()],
            "attention": [getattr(c, "_attn_implementation", None) for c in configs.values()],
            "generation": getattr(model, "generation_config", None),
        }

    def same(self) -> None:
        now = self._look(self.model)
        for name in ("values", "grads"):
            was, is_ = self.before.pop(name), now.pop(name)
            assert was.keys() == is_.keys()
            for key, value in was.items():
                assert value is is_[key] is None or torch.equal(value, is_[key]), f"{name} of {key}"
        for name, value in now.items():
            assert value == self.before[name], name


def used(form: str, **changes: Any) -> nn.Module:
    """A model in use: in training mode but for a part, half frozen, with gradients and a hook of its owner's."""
    model = tiny_model(form, **{"layers": 1, **changes}).train()
    base = model.base_model.encoder
    base.eval()
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 2 == 0)
        p.grad = torch.full_like(p, 0.5) if i % 4 == 0 else None
    base.register_forward_hook(lambda *_: None)
    return model


def adapter_of(model: nn.Module, form: str) -> Adapter:
    bench = Workbench.open(
        GIVEN["task"], model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu"
    )
    with bench.tuned(structure_for(form), s3.TuneConfig(steps=1, evaluations=1), progress=False) as (scores, pets):
        return bench.adapter(structure_for(form), pets, scores, s3.TuneConfig())


def by_workbench(model: nn.Module, form: str) -> Workbench:
    return Workbench.open(GIVEN["task"], model=model, tokenizer=tokenizer_of(form), task_spec=MOOD, device="cpu")


def _search(**options: Any) -> Any:
    def do(model: nn.Module, form: str) -> None:
        s3.search(**GIVEN, model=model, tokenizer=tokenizer_of(form), budget=200, space=BIASES, **FAST, **options)

    return do


WORK = {
    "search": _search(),
    "search, exact": _search(mode="exact"),
    "search, less memory": _search(gradient_checkpointing=True, accumulation=2, skip_below=1e-3),
    "search, bf16": _search(precision="bf16", eval_every=1),
    "tune": lambda m, f: s3.tune(structure_for(f), **GIVEN, model=m, tokenizer=tokenizer_of(f), **FAST),
    "tune full": lambda m, f: s3.tune("full", **GIVEN, model=m, tokenizer=tokenizer_of(f), train_pooler=True, **FAST),
    "untouched": lambda m, f: s3.tune("untouched", **GIVEN, model=m, tokenizer=tokenizer_of(f), **FAST),
    "explain": lambda m, f: s3.explain(structure_for(f), **GIVEN, model=m, tokenizer=tokenizer_of(f), rows=4, **FAST),
    "evaluate": lambda m, f: s3.evaluate(adapter_of(m, f), **GIVEN, model=m, tokenizer=tokenizer_of(f)),
    "baselines": lambda m, f: s3.baselines(
        workbench=by_workbench(m, f), methods=["untouched", "BitFit", "random", "full", "gradient"], budget=300, seeds=1,
        n_random=1, **FAST,
    ),
    "one-pass scores": lambda m, f: one_pass_scores(by_workbench(m, f), "sensitivity", warm_steps=1, progress=False),
    "merge": lambda m, f: s3.merge(adapter_of(m, f).only(()), m),
    "attach": lambda m, f: adapter_of(m, f).attach(m).detach(),
    "workbench": by_workbench,
}  # fmt: skip


@pytest.mark.parametrize("form", ["t5", "bert"])
@pytest.mark.parametrize("work", WORK)
def test_it_comes_back(work, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = used(form)
    state = State(model)
    WORK[work](model, form)
    state.same()


@pytest.mark.parametrize("name", [t.name for t in TINY if t.name not in ("t5", "bert")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_comes_back(name, dtype, tmp_path):
    """In half precision what is trained is float32, and the model is what it was all the same."""
    tiny = tiny_family(name)
    model, tokenizer = tiny.model(layers=1).to(dtype).train(), tiny.make_tokenizer()
    state = State(model)
    given = {**GIVEN, "model": model, "tokenizer": tokenizer, "budget": 400, **FAST}
    run = s3.search(**given, out=tmp_path / "run")
    s3.tune("full", **{k: v for k, v in given.items() if k != "budget"}, evaluations=1)
    assert run.status == "finished"
    state.same()


def test_several_threads_of_attention_and_checkpointing_of_its_own(tmp_path):
    """A reentrant checkpoint knows nothing of torch.autograd.grad: it is off inside, and on again afterwards."""
    model = used("t5")
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": True})
    state = State(model)
    s3.search(**GIVEN, model=model, tokenizer=tokenizer_of("t5"), budget=300, out=tmp_path / "run", **FAST)
    state.same()


class Stop(s3.Callback):
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def on_step_end(self, search: Any, step: int, result: Any) -> None:
        raise self.error


@pytest.mark.parametrize("form", ["t5", "bert"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_it_comes_back_from_an_error_in_a_search(form, error, tmp_path):
    model = used(form)
    state = State(model)
    with pytest.raises(error):
        s3.search(
            **GIVEN, model=model, tokenizer=tokenizer_of(form), budget=300, out=tmp_path / "run",
            callbacks=[Stop(error)], gradient_checkpointing=True, **FAST,
        )  # fmt: skip
    state.same()


@pytest.mark.parametrize("method", ["structure", "full"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_comes_back_from_an_error_in_a_training(method, error):
    model = used("bert")
    state, bench = State(model), by_workbench(model, "bert")

    def stop(*_: Any) -> None:
        raise error

    with pytest.raises(error):
        bench.run(structure_for("bert") if method == "structure" else method, s3.TuneConfig(steps=2), progress=False, on_step=stop)
    state.same()


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": {"train": [], "validation": []}}, {"load": {"task_spec": {**MOOD, "label_names": ["a", "b", "c"]}}},
        {"budget": 1}, {"space": {"name": "x", "gates": [{"type": "LoRA", "modules": ["none"]}]}}, {"head": "lm"},
    ],
)  # fmt: skip
def test_it_comes_back_from_what_is_refused(wrong, tmp_path):
    model = used("bert")
    state = State(model)
    with pytest.raises(S3PETError):
        s3.search(
            **{**GIVEN, "budget": 300, **FAST, **wrong}, model=model, tokenizer=tokenizer_of("bert"), out=tmp_path / "run"
        )
    state.same()


def test_an_owners_gradients_are_not_added_to_a_training():
    clean, dirty = tiny_model("bert"), tiny_model("bert")
    for p in dirty.parameters():
        p.grad = torch.full_like(p, 50.0)
    a, b = (by_workbench(m, "bert").run("full", s3.TuneConfig(steps=3), progress=False) for m in (clean, dirty))
    assert a.history == b.history


def test_a_handle_of_the_owners_still_works():
    model, calls = tiny_model("bert"), []
    handle = model.bert.register_forward_hook(lambda *_: calls.append(1))
    by_workbench(model, "bert").run("untouched", s3.TuneConfig(steps=1), progress=False)
    assert calls
    handle.remove()
    calls.clear()
    by_workbench(model, "bert")
    assert not calls


def test_modules_attached_inside_are_gone_afterwards():
    model = tiny_model("bert")
    before = State(model)
    with as_found(model):
        insert(model, structure_for("bert").gates)
        model.to(torch.float64)
        model.config.hidden_size = 7
    before.same()


def test_the_workbench_stays_usable():
    """Each piece of work begins from the same model."""
    bench = by_workbench(used("t5"), "t5")
    first, second = (bench.run(structure_for("t5"), s3.TuneConfig(steps=2), progress=False) for _ in range(2))
    assert first.history == second.history
    with bench.working():
        assert not bench.backbone.model.training
        evaluate_backbone(bench.backbone, bench.splits.data.task, bench.splits.test)
