"""What a page knows of a run's history: packed rows, gaps, thinning; and how rows of gates are arranged."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import widget_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pet_viz.structure import probabilities, solve_shift
from s3pet_viz.viewer import pack
from s3pet_viz.viewer.documents import space_doc
from s3pet_viz.viewer.pack import SCALARS, History, encode

P_ERROR = 5e-4


def unpacked(node, alpha):
    """Rows as the page has them: alpha, and the order of the gates."""
    codes, low, scale = encode(alpha)
    made = [
        node("unpack", {"codes": codes[row], "low": low[row], "scale": scale[row]}) for row in range(len(alpha))
    ]
    return np.array([one["alpha"] for one in made]), np.array([one["order"] for one in made])


# -- codes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 100, 10_000, 32_767])
@pytest.mark.parametrize("tau", [1.0, 0.05])
def test_codes_keep_the_order_exactly_and_p_to_5e_4(node, n, tau):
    rng = np.random.default_rng(n)
    spread = tau * pack._LEVEL * (65_535 - n)  # as far apart as codes are used for
    alpha = rng.normal(0, 1, (3, n)).astype(np.float32)
    alpha[1] = rng.choice(np.float32([-1, -0.0, 0, 1]), n)  # ties
    alpha *= np.float32(0.999 * spread / max(np.ptp(row) for row in alpha))
    held, order = unpacked(node, alpha)
    assert order.tolist() == np.argsort(-alpha.astype(float), axis=1, kind="stable").tolist()
    counts = rng.integers(1, 5000, n)
    for row, true in zip(held, alpha, strict=True):
        for budget in np.geomspace(counts.min(), counts.sum(), 5).astype(int):
            p, exact = (probabilities(a, solve_shift(a, counts, int(budget), tau), tau) for a in (row, true))
            assert np.abs(p - exact).max() <= P_ERROR


@settings(deadline=None, max_examples=150)
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40))
def test_codes_of_any_row(node, values):
    alpha = np.array([values], dtype=np.float32)
    held, order = unpacked(node, alpha)
    assert order[0].tolist() == np.argsort(-alpha[0].astype(float), kind="stable").tolist()
    assert np.abs(held[0] - alpha[0]).max() <= np.ptp(alpha) / (65_535 - len(values)) / 2 * 1.001


# -- the kernel's history ----------------------------------------------------------------------------------


def row_of(step: int, n: int) -> np.ndarray:
    return (step * np.sin(np.arange(n) + 1) / 50).astype(np.float32)


def fed(history: History, steps, n: int) -> None:
    steps = list(steps)
    scalars = np.zeros((len(steps), len(SCALARS) - 2))
    scalars[:, 0] = steps
    history.add(scalars, np.array([row_of(step, n) for step in steps]))


def kept(history: History, node, gates: int):
    about, scalars, values = history.part(0)
    found = node("rows", {"messages": [[about, scalars, bytes(values)]], "gates": gates})
    assert found["gaps"] == [False]
    return about, found


def test_small_histories_are_whole_and_exact(node):
    history = History(10)
    fed(history, range(300), 10)
    about, found = kept(history, node, 10)
    assert (about["wide"], about["stride"], found["n"]) == (True, 1, 300)
    assert found["steps"] == list(range(300))
    assert np.array_equal(np.array(found["alpha"], dtype=np.float32), [row_of(step, 10) for step in range(300)])


def test_beyond_the_limits_history_is_packed_then_thinned_evenly_and_says_so(node, monkeypatch):
    n = 30
    monkeypatch.setattr(pack, "MOST_WIDE", 40 * n * 4)
    monkeypatch.setattr(pack, "MOST", 100 * n * 2)
    history, eras = History(n), set()
    for step in range(0, 1000, 7):
        fed(history, range(step, min(step + 7, 1000)), n)
        eras.add(history.era)
        assert history.size <= pack.MOST
        about, found = kept(history, node, n)
        steps = np.array(found["steps"])
        assert (steps == about["stride"] * np.arange(len(steps))).all(), "even, from the first step on"
        assert steps[-1] > step + 6 - about["stride"] or step >= 993
        for got, order, at in zip(found["alpha"], found["orders"], steps, strict=True):
            true = row_of(int(at), n)
            if about["wide"]:
                assert np.array_equal(np.float32(got), true)
            else:
                assert order == np.argsort(-true, kind="stable").tolist()
                assert np.abs(np.array(got) - true).max() <= np.ptp(true) / 65_000
    assert not about["wide"]
    assert about["stride"] == 16
    assert found["rowOf"] == [0, 0, 0, 0, 0, found["n"] - 1]
    assert len(eras) == 1 + 1 + 4, "wide, packed, and halved four times"


def test_what_a_resume_takes_back_is_forgotten(node, monkeypatch):
    monkeypatch.setattr(pack, "MOST", 64 * 10 * 4)
    history = History(10)
    fed(history, range(100), 10)
    assert history.stride == 2
    for cut in (57, 56, 3, 0):
        era = history.era
        history.cut(cut)
        assert history.era != era, "the page must drop them"
        _, found = kept(history, node, 10)
        assert found["steps"] == list(range(0, cut, 2))
    fed(history, range(5), 10)
    assert kept(history, node, 10)[1]["steps"] == [0, 2, 4]


def test_what_is_on_its_way_does_not_change(monkeypatch):
    """The values are not copied for the page: later rows, thinning and a resume leave a part as it was."""
    n = 50
    for steps, change in (
        (60, lambda h: h.cut(10)), (60, lambda h: h.halve()), (60, lambda h: fed(h, range(60, 400), n)), (400, lambda h: h.cut(1)),
    ):  # fmt: skip
        monkeypatch.setattr(pack, "MOST_WIDE", 100 * n * 4)
        history = History(n)
        fed(history, range(steps), n)
        _, _, values = history.part(0)
        before = bytes(values)
        change(history)
        fed(history, range(9, 40), n)
        assert bytes(values) == before


def test_codes_are_not_used_where_they_are_too_coarse(monkeypatch):
    """tau is small, so alpha is far apart; or it becomes so later."""
    n = 1000
    monkeypatch.setattr(pack, "MOST_WIDE", 20 * n * 4)
    coarse = History(n, tau=0.001)
    fed(coarse, range(60), n)
    assert (coarse.wide, coarse.packs) == (True, False)
    history = History(n, tau=0.02)
    fed(history, range(40), n)
    assert not history.wide
    assert not history.coarse
    fed(history, range(5000, 5002), n)
    assert history.coarse, "who feeds it must begin anew"
    history.packs = False
    history.clear()
    fed(history, range(40), n)
    assert (history.wide, history.coarse, history.n) == (True, False, 40)


def test_too_many_gates_for_codes_are_only_thinned(monkeypatch):
    n = 40_000
    monkeypatch.setattr(pack, "MOST_WIDE", 4 * n * 4)
    monkeypatch.setattr(pack, "MOST", 8 * n * 4)
    history = History(n)
    fed(history, range(12), n)
    assert (history.wide, history.stride, history.n) == (True, 2, 6)


# -- rows in the page --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=120)
@given(
    parts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12), wide=st.booleans(),
    eras=st.lists(st.integers(1, 2), min_size=12, max_size=12),
)  # fmt: skip
def test_rows_with_gaps_and_overlaps(node, parts, wide, eras):
    """Whatever comes: the page holds the first rows without a hole, and says where one would be."""
    alpha = np.array([row_of(step, 3) for step in range(40)])
    codes, low, scale = encode(alpha)
    scalars = np.zeros((40, len(SCALARS)))
    scalars[:, 0], scalars[:, -2], scalars[:, -1] = np.arange(40), low, scale
    values = alpha if wide else codes
    messages, held, era, gaps = [], 0, "", []
    for (a, b), number in zip(parts, eras, strict=False):
        start, end = min(a, b), max(a, b)
        about = {"era": f"e{number}", "from": start, "count": end - start, "wide": wide, "stride": 1}
        messages.append([about, scalars[start:end].tobytes(), values[start:end].tobytes()])
        if era != about["era"]:
            era, held = about["era"], 0
        gaps.append(start > held)
        held = held if start > held else max(held, end)
    found = node("rows", {"messages": messages, "gates": 3})
    assert found["gaps"] == gaps
    assert found["n"] == held
    assert found["steps"] == list(range(held))
    if wide:
        assert np.array_equal(np.array(found["alpha"], dtype=np.float32).reshape(-1, 3), alpha[:held])
    else:
        assert np.abs(np.array(found["alpha"]).reshape(-1, 3) - alpha[:held]).max(initial=0) < 1e-4


def test_many_small_parts_are_joined(node):
    alpha = np.array([row_of(step, 3) for step in range(500)])
    scalars = np.zeros((500, len(SCALARS)))
    scalars[:, 0] = np.arange(500)
    messages = [
        [{"era": "e1", "from": i, "count": 1, "wide": True, "stride": 1}, scalars[i].tobytes(), alpha[i].tobytes()]
        for i in range(500)
    ]
    found = node("rows", {"messages": messages, "gates": 3})
    assert found["parts"] <= 64
    assert found["rowOf"] == [0, 0, 1, 4, 5, 499], "of the steps -1, 0, 1, 4, 5 and of one that is to come"
    assert found["steps"] == list(range(500))
    assert np.array_equal(np.array(found["alpha"], dtype=np.float32), alpha)


# -- rows of the heatmap -----------------------------------------------------------------------------------


@pytest.fixture
def space():
    gates = widget_runs.space(2, 1, 4)  # LoRA and BitFit of Q and K, in two encoder layers and one decoder layer
    return space_doc(gates), np.linspace(0.02, 0.9, len(gates))


def labels(made) -> list[str]:
    return [row["label"] for row in made["rows"]]


def arranged(node, space, p, kept=None, **how):
    return node("arrange", {"space": space, "p": p, "how": how, "kept": kept})


def test_rows_in_the_models_order(node, space):
    doc, p = space
    made = arranged(node, doc, p)
    assert labels(made) == doc["rows"] == ["SelfAttn.Q · LoRA", "SelfAttn.Q · BitFit", "SelfAttn.K · LoRA", "SelfAttn.K · BitFit"]
    assert made["rows"][0]["gates"] == [0, 4, -1, 8], "a gap between the stacks"
    assert made["pale"] == 0


def test_rows_by_p_and_by_parameters(node, space):
    doc, p = space
    sums = {row: sum(p[g] for g in range(12) if doc["rows"][doc["row"][g]] == row) for row in doc["rows"]}
    assert labels(arranged(node, doc, p, sort="p")) == sorted(sums, key=lambda row: -sums[row])
    sizes = {row: sum(p[g] * doc["n"][g] for g in range(12) if doc["rows"][doc["row"][g]] == row) for row in doc["rows"]}
    assert labels(arranged(node, doc, p, sort="params")) == sorted(sizes, key=lambda row: -sizes[row])


@pytest.mark.parametrize(("group", "heads"), [("module", ["SelfAttn.Q", "SelfAttn.K"]), ("type", ["LoRA", "BitFit"])])
def test_groups_have_a_head_and_hold_their_rows(node, space, group, heads):
    doc, p = space
    made = arranged(node, doc, p, group=group)
    assert [row["label"] for row in made["rows"] if row.get("head")] == heads
    for row in made["rows"]:
        if row.get("head"):
            assert len(row["of"]) == 2
            assert all(row["label"] in below["label"] for below in row["of"]), "what the subtotal is of"
    assert len(made["rows"]) == 6


def test_pale_rows_hide_and_are_counted(node, space):
    doc, _ = space
    p = np.full(12, 0.01)
    p[4] = 0.05  # SelfAttn.Q LoRA of the second layer is not pale
    made = arranged(node, doc, p, hidePale=True)
    assert labels(made) == ["SelfAttn.Q · LoRA"]
    assert made["pale"] == 3
    assert arranged(node, doc, np.full(12, 0.01), hidePale=True) == {"rows": [], "pale": 4}


def test_filters_and_what_is_not_known(node, space):
    doc, p = space
    made = arranged(node, doc, p, kept=[g for g in range(12) if doc["type"][g] == "LoRA" and doc["stack"][g] == "decoder"])
    assert labels(made) == ["SelfAttn.Q · LoRA", "SelfAttn.K · LoRA"]
    assert made["rows"][1]["gates"] == [-1, -1, -1, 10]
    p[8:] = np.nan
    assert len(arranged(node, doc, p, sort="likeness")["rows"]) == 4
    assert labels(arranged(node, doc, p, sort="p"))[0] == "SelfAttn.K · BitFit"


def test_a_row_of_gates_that_cannot_help_is_drawn(node):
    gates = widget_runs.space(2, 1, 4)
    inert = [g for g in gates if g.row == "SelfAttn.K · BitFit"]
    others = [g for g in gates if g not in inert]
    doc, p = space_doc(others, inert), np.full(len(others), 0.5)
    assert doc["rows"] == space_doc(gates)["rows"]
    assert (len(doc["n"]), doc["inert"]["row"], doc["inert"]["col"]) == (9, [3, 3, 3], [0, 1, 3])
    for how in ({}, {"sort": "p"}, {"sort": "params"}, {"sort": "likeness"}, {"group": "module"}, {"group": "type"}):
        made = arranged(node, doc, p, **how)
        (row,) = (row for row in made["rows"] if row["label"] == "SelfAttn.K · BitFit")
        assert row["gates"] == [-1] * 4, how
    assert "SelfAttn.K · BitFit" not in labels(arranged(node, doc, p, hidePale=True))
    assert "inert" not in space_doc(gates), "a run without such gates looks as before"


def test_like_rows_stand_together(node):
    """Two kinds of rows, mixed: each kind is contiguous."""
    rng = np.random.default_rng(0)
    kinds = [np.r_[np.full(6, 0.9), np.full(6, 0.1)], np.r_[np.full(6, 0.1), np.full(6, 0.9)]]
    order = rng.permutation(20)
    rows = [(kinds[i % 2] + rng.normal(0, 0.02, 12)).tolist() for i in order]
    rows[3][5] = float("nan")
    found = node("likeness", rows)
    assert sorted(found) == list(range(20))
    kinds_found = [int(order[i] % 2) for i in found]
    assert len(list(itertools.groupby(kinds_found))) == 2


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(1, 5), st.data())
def test_likeness_is_an_order_of_the_rows(node, n, width, data):
    number = st.one_of(st.floats(0, 1), st.just(float("nan")))
    rows = data.draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=n, max_size=n))
    assert sorted(node("likeness", rows)) == list(range(n))


def test_nothing_is_needed_to_load_the_module(node):
    """No page, no network: node has loaded it as it is."""
    names = node("exports")
    assert {"default", "solveShift", "select", "unpack", "Rows", "arrange", "storeOf"} <= set(names)
    assert node("say", [0, 12345678, 0.123456, 1e-7, float("nan")]) == ["0", "12,345,678", "0.1235", "1.000e-7", "–"]


def test_rows_of_pinned_gates_are_drawn(node):
    gates = widget_runs.space(2, 1, 4)
    pinned = [g for g in gates if g.row == "SelfAttn.K · BitFit"]
    others = [g for g in gates if g not in pinned]
    doc, p = space_doc(others, (), pinned[:1], pinned[1:]), np.full(len(others), 0.5)
    assert doc["rows"] == space_doc(gates)["rows"]
    assert (doc["pinned"]["row"], doc["pinned"]["col"], doc["pinned"]["inside"]) == ([3, 3, 3], [0, 1, 3], 1)
    assert [gate["position"] for gate in doc["pinned"]["gates"]] == [gate.position for gate in pinned]
    assert "SelfAttn.K · BitFit" in labels(arranged(node, doc, p))
