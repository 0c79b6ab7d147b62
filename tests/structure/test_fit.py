"""Structures carried between backbones: the identity on the same one, order in depth, and a budget that always holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import tiny_model
from typer.testing import CliRunner

import s3pet_viz as s3
from s3pet_viz.backbones.listing import sized
from s3pet_viz.cli import app
from s3pet_viz.errors import BackboneError, BudgetError, ConfigError, StructureError
from s3pet_viz.pet import candidate_gates, insert, load_space
from s3pet_viz.pet.carry import counterparts
from s3pet_viz.structure.structure import gates_by_index

MODELS = {
    "small": tiny_model("t5"),
    "large": tiny_model("t5", num_layers=5, num_decoder_layers=3, d_model=48),
    "gated": tiny_model("gated"),
    "bert": tiny_model("bert"),
}
PLACES = {name: sized(model) for name, model in MODELS.items()}


def structure(name, chosen, space="S3PET-M", budget=None):
    here = PLACES[name]
    gates, _ = candidate_gates(here.positions, load_space(space))
    picked = gates_by_index(gates, sorted({i % len(gates) for i in chosen}))
    return s3.Structure(picked, name, here.n_params, budget and sum(g.n_params for g in picked) + budget, {"task": "x"})


def carried(made, to, *rest, **more):
    return made.fit_to(MODELS[to], *rest, origin=MODELS[made.backbone], **more)


CHOSEN = st.lists(st.integers(0, 10**6), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_layers_by_relative_depth(before, after):
    owner = {t: layer for layer in range(before) for t in counterparts(layer, before, after)}
    assert sorted(owner) == list(range(after))  # each has one
    ordered = [owner[t] for t in range(after)]
    assert ordered == sorted(ordered)
    assert all(abs((t + 0.5) / after - (owner[t] + 0.5) / before) <= 0.5 / before + 1e-12 for t in owner)
    if before == after:
        assert ordered == list(range(before))
    assert counterparts(-1, before, after) == [-1]
    assert counterparts(before, before, after) == [after]  # a final norm


@settings(max_examples=15, deadline=None)
@given(CHOSEN, st.sampled_from(["S3PET-M", "S3PET-L", "LoRA-ranks"]), st.sampled_from([None, 1, 500]), st.sampled_from(["keep", "scale"]))
def test_the_same_backbone_is_the_identity(chosen, space, budget, ranks):
    before = structure("small", chosen, space, budget)
    made = carried(before, "small", ranks=ranks)
    assert made == before
    assert made.budget == (before.budget or (before.n_params if ranks == "scale" else None))
    assert made.source["fit"]["left_out"] == {}


@settings(max_examples=25, deadline=None)
@given(CHOSEN, st.integers(40, 4000), st.sampled_from(["keep", "scale"]), st.sampled_from(["S3PET-M", "LoRA-ranks"]))
def test_a_budget_is_never_exceeded(chosen, budget, ranks, space):
    before = structure("small", chosen, space)
    if budget < min(g.n_params for g in carried(before, "large").gates):
        with pytest.raises(StructureError, match="over the budget"):
            carried(before, "large", budget, ranks=ranks)
        return
    made = carried(before, "large", budget, ranks=ranks)
    assert made.n_params <= made.budget == budget
    kept = {g.place for g in made.gates}
    assert kept <= {g.place for g in carried(before, "large").gates}


def test_each_layer_has_what_the_layer_at_its_depth_has():
    before = structure("small", range(10**3), "S3PET-L")
    made = carried(before, "large")
    assert {(g.stack, g.layer) for g in made.gates} == {("encoder", t) for t in range(5)} | {("decoder", t) for t in range(3)}
    alone = s3.Structure(tuple(g for g in before.gates if (g.stack, g.layer) == ("encoder", 1)), "small", before.backbone_params)
    assert {g.layer for g in carried(alone, "large").gates} == {2, 3, 4}
    insert(MODELS["large"], made.gates).detach()  # the sizes are those of the new widths


def test_a_share_stays_a_share_and_the_nearest_come_first():
    before = structure("small", [3, 40], "S3PET-M", budget=1)
    made = carried(before, "large")
    assert made.budget == before.budget * PLACES["large"].n_params // before.backbone_params
    assert carried(before, "large", "1%").budget == PLACES["large"].n_params // 100
    lora = next(g for g in structure("small", range(200), "S3PET-L").gates if (g.stack, g.layer) == ("encoder", 0))
    one = s3.Structure((lora,), "small", before.backbone_params)
    both = carried(one, "large")
    assert ([g.layer for g in both.gates], both.budget) == ([0, 1], None)
    assert [g.layer for g in carried(one, "large", both.n_params - 1).gates] == [1]  # the nearer
    assert list(carried(one, "large", both.n_params - 1).source["fit"]["left_out"].values()) == [
        f"over the budget of {both.n_params - 1:,} parameters"
    ]


def test_ranks_grow_by_one_factor():
    before = structure("small", range(10**3), "LoRA-ranks")
    half = s3.Structure(before.gates[: len(before) // 2], "small", before.backbone_params, None)
    made, kept = carried(half, "large", "30%", ranks="scale"), carried(half, "large", "30%")
    ranks = lambda s: {p: sum(g.position == p for g in s.gates) for p in {g.position for g in s.gates}}  # noqa: E731
    assert kept.n_params < made.n_params <= made.budget
    assert set(ranks(made)) == set(ranks(kept))
    assert all(ranks(made)[p] >= ranks(kept)[p] for p in ranks(kept))


def test_what_has_no_counterpart_is_listed():
    before = structure("small", range(10**3))
    made = carried(before, "bert")
    left = made.source["fit"]["left_out"]
    assert {reason.split(": ")[-1] for name, reason in left.items() if name.startswith("decoder")} == {"no decoder"}
    assert any(reason.endswith("no Final.LN in its encoder") for reason in left.values())
    assert len(made) + len(left) == len(before)
    assert made.source["task"] == "x"
    assert s3.Structure.from_dict(made.to_dict()) == made
    down = carried(structure("large", range(10**3), "S3PET-L"), "small").source["fit"]["left_out"]
    assert {r for r in down.values() if "fewer layers" in r}
    assert np.isfinite(made.fraction)


def test_what_is_refused():
    before = structure("small", [1, 2, 3])
    with pytest.raises(BackboneError, match="expected a name, a folder or a model, found int"):
        before.fit_to(5)
    with pytest.raises(ConfigError, match="ranks: expected one of keep, scale, found 'grow'"):
        carried(before, "large", ranks="grow")
    with pytest.raises(BudgetError, match="over 100 %"):
        carried(before, "large", 10**9)
    with pytest.raises(StructureError, match="origin: .*give the backbone that the structure is for as origin="):
        s3.Structure(before.gates, "./gone").fit_to(MODELS["large"])
    with pytest.raises(StructureError, match="origin: .* has no position 'encoder.block"):
        before.fit_to(MODELS["large"], origin=MODELS["bert"])
    with pytest.raises(StructureError, match="nothing of it can be carried .*over the budget of 3 parameters"):
        carried(before, "large", 3)
    decoder = s3.Structure(tuple(g for g in structure("small", range(999)).gates if g.stack == "decoder"), "small", 10)
    with pytest.raises(StructureError, match="nothing of it can be carried to .*: no decoder"):
        carried(decoder, "bert")


def test_on_the_command_line(tmp_path, tiny_folder):
    out = tmp_path / "fit.json"
    said = CliRunner().invoke(app, ["fit", "sentiment-0.2pct-s0", "--backbone", "tiny-t5", "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert s3.Structure.load(out) == s3.open_run("data/runs/sentiment-0.2pct-s0").structure()
    said = CliRunner().invoke(app, ["fit", "sentiment-0.2pct-s0", "--backbone", str(tiny_folder("bert")), "--out", str(out)])
    assert (said.exit_code, "exists already" in said.output) == (2, True)
    with torch.device("meta"):
        assert sized(tiny_model("t5")).n_params == PLACES["small"].n_params
