"""Batches of the user's own are read again: each is a function of its number and the seed, whatever was read before."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, default_collate
from transformers import BatchEncoding

from s3pet_viz.errors import TaskError
from s3pet_viz.training.batch_contents import moved, rows_of
from s3pet_viz.training.own_batches import OwnBatches, Reading
from s3pet_viz.training.random_numbers import Numbers

CPU = torch.device("cpu")
SEED = [3, 20]


def numbers(batches):
    """The rows of each batch, as lists."""
    return [torch.as_tensor(b[0] if isinstance(b, (list, tuple)) else b).flatten().tolist() for b in batches]


class Stream(IterableDataset):
    """Rows in an order that NumPy's and Python's random numbers decide."""

    def __init__(self, n=None):
        self.n = n

    def __iter__(self):
        rows = list(range(self.n)) if self.n else itertools.count()
        if self.n:
            np.random.shuffle(rows)  # noqa: NPY002 - as users' datasets do
            random.shuffle(rows)
        return iter(torch.tensor([row]) for row in rows)


class Rows(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.tensor([i]) + 0 * torch.randint(2, (1,))


def shuffling(n=10, **how):
    return DataLoader(TensorDataset(torch.arange(n)), batch_size=4, shuffle=True, **how)


def by_hand():
    order = torch.randperm(10)
    yield from order.split(4)


SOURCES = {
    "loader": lambda: OwnBatches("train", shuffling()),
    "loader with a generator": lambda: OwnBatches("train", shuffling(generator=torch.Generator().manual_seed(8))),
    "loader with a sampler": lambda: OwnBatches(
        "train", DataLoader(Rows(10), batch_size=4, sampler=RandomSampler(Rows(10), generator=torch.Generator()))
    ),
    "list": lambda: OwnBatches("train", [(torch.arange(10)[i : i + 4],) for i in (0, 4, 8)]),
    "function": lambda: OwnBatches("train", by_hand),
    "rows": lambda: OwnBatches("train", Rows(10), default_collate),
    "list of rows": lambda: OwnBatches("train", [{"x": i} for i in range(10)], lambda rows: torch.tensor([r["x"] for r in rows])),
    "stream of rows": lambda: OwnBatches("train", Stream(10), default_collate),
    "endless stream": lambda: OwnBatches("train", Stream(), default_collate, max_rows=10),
    "stream of batches": lambda: OwnBatches("train", DataLoader(Stream(10), batch_size=4), max_rows=8),
}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


def test_a_batch_is_a_function_of_its_number(source):
    torch.manual_seed(1)
    drawn = source().drawn(4, SEED, CPU)
    steps = numbers([drawn(k) for k in range(9)])
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    again = source().drawn(4, SEED, CPU)
    order = [7, 7, 2, 3, 8, 0, 1, 4, 5, 6, 8, 7]
    assert numbers([again(k) for k in order]) == [steps[k] for k in order]


def test_every_pass_has_other_orders_and_all_rows(source):
    given = source()
    drawn = given.drawn(4, SEED, CPU)
    length = 2 if given.collate or given.max_rows else 3
    steps = numbers([drawn(k) for k in range(3 * length)])
    passes = [list(itertools.chain(*steps[at : at + length])) for at in range(0, len(steps), length)]
    assert all(len(set(rows)) == len(rows) >= 8 for rows in passes)
    if (not isinstance(given.given, list) or given.collate) and given.max_rows != 10:
        assert passes[0] != passes[1]
    others = source().drawn(4, [4, 20], CPU)
    if given.indexed or "DataLoader" in given.words:
        assert numbers([others(k) for k in range(len(steps))]) != steps


def test_looks_are_the_same_each_time_and_hold_every_row(source):
    looks = source().looked(4, CPU)
    first = numbers(looks)
    assert numbers(looks) == first
    assert looks.count() == len(first)
    order = [k for k in (2, 0, 1) if k < len(first)]
    assert numbers([looks.at(k) for k in order]) == [first[k] for k in order]
    rows = list(itertools.chain(*first))
    assert len(set(rows)) == len(rows) == (8 if source().max_rows == 8 else 10)
    assert source().probe()[1] == source().probe()[1] is not None


def test_nobody_s_random_numbers_are_moved(source):
    generator = torch.Generator().manual_seed(8)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)

    def drawn():
        return torch.rand(1).item(), np.random.rand(), random.random(), torch.rand(1, generator=generator).item()  # noqa: NPY002

    state = torch.get_rng_state(), np.random.get_state(), random.getstate(), generator.get_state()  # noqa: NPY002
    expected = drawn()
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    random.setstate(state[2])
    generator.set_state(state[3])
    given = source()
    if isinstance(given.given, DataLoader) and given.given.generator is not None:
        given.given.generator = given.given.sampler.generator = generator
    draw = given.drawn(4, SEED, CPU)
    for k in (0, 5, 1):
        draw(k)
    numbers(given.looked(4, CPU))
    assert drawn() == expected


def test_workers_that_are_kept_are_new_in_each_pass():
    loader = shuffling(num_workers=1, persistent_workers=True)
    plain = OwnBatches("train", shuffling()).drawn(4, SEED, CPU)
    drawn = OwnBatches("train", loader).drawn(4, SEED, CPU)
    order = [0, 4, 0, 5]
    assert numbers([drawn(k) for k in order]) == numbers([plain(k) for k in order])
    assert loader.persistent_workers
    assert loader._iterator is None


def test_several_processes_share_the_batches():
    one, two = (OwnBatches("train", shuffling()).drawn(4, SEED, CPU, rank, 2) for rank in (0, 1))
    alone = OwnBatches("train", shuffling()).drawn(4, SEED, CPU)
    assert numbers([one(0), two(0), one(1), two(1)]) == numbers([alone(k) for k in range(4)])
    rows = [OwnBatches("train", Rows(16), default_collate).drawn(4, SEED, CPU, rank, 2) for rank in (0, 1)]
    both = list(itertools.chain(*numbers([draw(k) for k in (0, 1) for draw in rows])))
    assert sorted(both) == list(range(16))


def test_a_long_source_is_not_read_from_its_start_where_its_length_is_known():
    opened = []

    class Counted(list):
        def __iter__(self):
            opened.append(0)
            for batch in super().__iter__():
                opened[-1] += 1
                yield batch

    reading = Reading(OwnBatches("train", Counted(torch.arange(12).split(4))), 1, SEED)
    assert reading.at(301).tolist() == [4, 5, 6, 7]
    assert opened == [2]
    assert reading.at(302).tolist() == [8, 9, 10, 11]
    assert opened == [3]


def test_a_source_that_gives_less_than_it_says_is_named():
    class Short(list):
        def __len__(self):
            return 5

    drawn = OwnBatches("train", Short(torch.arange(12).split(4))).drawn(4, SEED, CPU)
    with pytest.raises(TaskError, match="train: Short of 5 batches: expected batches, found 3 of the 5 that it says it has"):
        drawn(3)
    with pytest.raises(TaskError, match="max_rows: expected batches whose rows can be counted, found set"):
        numbers(OwnBatches("train", [{1, 2}], max_rows=2).looked(4, CPU))


Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        (torch.zeros(3, 2), 3),
        (np.zeros((4, 2)), 4),
        ({"a": "text", "x": torch.zeros(5)}, 5),
        ([torch.zeros(()), (torch.zeros(2, 2), 7)], 2),
        ([{"text": "a"}, {"text": "b"}, {"text": "c"}], 3),
        (["a", "b"], 2),
        (BatchEncoding({"input_ids": torch.zeros(6, 2)}), 6),
        (Pair(torch.zeros(2), 1), 2),
        (torch.zeros(()), None),
        ({"n": 3}, None),
    ],
)
def test_rows_of_a_batch(batch, rows):
    assert rows_of(batch) == rows


def test_tensors_are_moved_however_they_are_nested():
    batch = OrderedDict(a=[torch.zeros(1), (torch.ones(1), "text")], b=Pair(torch.zeros(2), None), c=BatchEncoding({"x": torch.zeros(3)}))
    meta = torch.device("meta")
    made = moved(batch, meta)
    assert type(made) is OrderedDict
    assert made["a"][1][0].device == made["b"].x.device == made["c"]["x"].device == meta
    assert made["a"][1][1] == "text"
    assert batch["a"][0].device.type == "cpu"
    encoded = BatchEncoding({"x": torch.zeros(3)})
    moved(encoded, meta).pop("x")
    assert encoded["x"].device.type == "cpu"


def test_numbers_go_on_where_they_ended():
    whole, parts = Numbers([5]), Numbers([5])
    with whole.part():
        expected = [(torch.rand(1).item(), random.random()) for _ in range(2)]
    found = []
    for _ in range(2):
        with parts.part():
            found.append((torch.rand(1).item(), random.random()))
    assert found == expected


@pytest.mark.parametrize("given", [list(range(9)), lambda: iter(range(9))])
def test_rows_that_make_no_batch_are_named(given):
    def collate(rows):
        return torch.tensor([1 / (row - 5) for row in rows])

    looks = OwnBatches("train", given, collate).looked(4, torch.device("cpu"))
    with pytest.raises(TaskError, match=r"train: no batch can be made of the rows 4, 5, 6, 7 \(ZeroDivisionError: division by zero\)"):
        list(looks)


def test_a_source_that_may_have_no_end_is_said(monkeypatch):
    monkeypatch.setattr("s3pet_viz.training.own_batches._MANY", 3)
    looks = OwnBatches("validation", lambda: iter([torch.ones(2)] * 4)).looked(4, torch.device("cpu"))
    with pytest.warns(UserWarning, match=r"validation: .*: 3 batches were read, and no end yet; max_rows says"):
        assert looks.count() == 4
