"""Structure files, S3Delta's files, search spaces, studies, task folders, checkpoints with something wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_problems import changed, fuzz, outcome, wrong_file, wrong_json
from hypothesis import given
from hypothesis import strategies as st
from report_problems import write_run

from s3pet_viz import figures
from s3pet_viz.analysis import Study, Transfer
from s3pet_viz.figures._data import view
from s3pet_viz.pet import load_space
from s3pet_viz.resources import find_resource
from s3pet_viz.sources import open_source
from s3pet_viz.structure import Structure, from_s3delta, read_final_alphas
from s3pet_viz.tasks import load_task


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz-files")


# -- structures --------------------------------------------------------------------------------------------


def test_structure_files(root):
    path = root / "structure.json"
    write_run(root / "calm", 6).structure().save(path)

    def use():
        made = Structure.load(path)
        made._repr_html_(), repr(made), made.overlap(made, weighted=True), hash(made)
        view(open_source(path))
        Structure.from_dict(made.to_dict())

    @given(wrong_file(path.read_bytes(), is_json=True))
    @fuzz(100)
    def check(content):
        with changed(path, content):
            outcome("structure file", use, names=path.name)

    check()


def test_structure_files_drawn(root):
    path = root / "drawn.json"
    write_run(root / "calm2", 6).structure().save(path)

    @given(wrong_json(json.loads(path.read_bytes())))
    @fuzz(6)
    def check(content):
        with changed(path, content):
            outcome("structure file, drawn", lambda: figures.heatmap(path).to_json(), names=path.name)

    check()


S3DELTA = [
    {"encoder.block.0.layer.0.SelfAttention.q": {"parallel": {"Lora": {"lora_r": 1, "lora_alpha": 16}}}},
    {"decoder.block.1.layer.2.DenseReluDense": {"sequential": {"LowRankAdapter": {"reduction_factor": 32}}}, "final_layer_norm": {"parallel": {"LNFit": {}}}},
]


@pytest.mark.parametrize("backbone", [None, "t5-small"])
def test_s3delta_files(root, backbone):
    path = root / f"config-{backbone}.json"
    good = S3DELTA if backbone else S3DELTA[:1]
    path.write_text(json.dumps(good))
    from_s3delta(path, backbone=backbone)

    @given(wrong_file(path.read_bytes(), is_json=True))
    @fuzz(50)
    def check(content):
        with changed(path, content):
            outcome("S3Delta config", lambda: from_s3delta(path, backbone=backbone), names=path.name)
            outcome("S3Delta config as a source", lambda: open_source(path), names=path.name)

    check()


@pytest.mark.parametrize("backbone", [None, "t5-small"])
def test_final_alphas(root, backbone):
    path = root / "final_alphas.txt"
    cells = [
        ("encoder.block.0.layer.0.SelfAttention.q", "parallel", "Lora", 1024, "0.12345", "0.90000"),
        ("decoder.block.0.layer.2.DenseReluDense", "sequential", "LowRankAdapter", 2048, "-1.20000", "0.50000"),
    ]
    lines = [f"|{a}|{b}|{c}|{n / 1024**2:.10f}|{x}|{p}" for a, b, c, n, x, p in cells]
    path.write_text("\n".join(["=" * 20, *lines, "=" * 20]) + "\n")
    words = st.sampled_from(["nan", "inf", "-1", "1e400", "", "|", "Lora", "x" * 5000, "0x1", "٣", "1_0", "\x00", "encoder", "="])

    def use():
        table = read_final_alphas(path, backbone=backbone)
        table.structure()
        table.p_at(table.budget)

    use()
    text = path.read_text()

    @st.composite
    def wrong_cell(draw):
        rows = [line.split("|") for line in text.splitlines()]
        row = draw(st.sampled_from(rows[1:-1]))
        row[draw(st.integers(0, len(row) - 1))] = draw(words)
        return "\n".join("|".join(row) for row in rows)

    @given(st.one_of(wrong_cell(), wrong_file(text.encode(), is_json=False)))
    @fuzz(50)
    def check(content):
        with changed(path, content):
            outcome("final_alphas", use, names=path.name)

    check()


# -- search spaces -----------------------------------------------------------------------------------------

SPACE = {
    "name": "mine",
    "gates": [
        {"type": "LoRA", "modules": ["SelfAttn.Q", "SelfAttn.V"], "positions": ["encoder.*"], "options": {"r": 2}},
        {"type": "BitFit", "modules": "FFN.*"},
    ],
}


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_space_files(root, ending):
    path = root / f"space.{ending}"
    path.write_text(json.dumps(SPACE))  # JSON is YAML
    load_space(path)

    @given(wrong_file(path.read_bytes(), is_json=True))
    @fuzz(50)
    def check(content):
        with changed(path, content):
            outcome(f"space.{ending}", lambda: load_space(path), names="space")

    check()


# -- tasks -------------------------------------------------------------------------------------------------

TASK = {
    "name": "mood", "kind": "classification", "fields": ["first", "second"], "label_names": ["bad", "good"],
    "metrics": ["accuracy", "f1"], "prefix": "mood", "max_source_length": 64,
}  # fmt: skip
REGRESSION = {
    "name": "strength", "kind": "regression", "fields": ["first"], "label_range": [0, 5], "label_step": 0.2,
    "metrics": ["pearson"],
}  # fmt: skip


@pytest.fixture(params=["classification", "regression"])
def task(request, tmp_path) -> Path:
    spec = TASK if request.param == "classification" else REGRESSION
    for split, n in (("train", 8), ("validation", 6)):
        rows = [
            {"first": f"{split} {i}", "second": "x", "label": i % 2 if request.param == "classification" else i / 2}
            for i in range(n)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.json").write_text(json.dumps(spec))
    return tmp_path


@st.composite
def wrong_row(draw, good: bytes) -> bytes:
    lines = good.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        row = lines[at]
        if row[:1] == b"{":
            lines[at] = draw(wrong_json(json.loads(row))).encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("name", ["task.json", "train.jsonl", "validation.jsonl"])
def test_task_folders(task, name):
    path = task / name
    good = path.read_bytes()
    files = wrong_file(good, is_json=True) if name == "task.json" else st.one_of(wrong_row(good), wrong_file(good, is_json=False))

    def use():
        for form in ("text", "pair"):
            data = load_task(task, form=form)
            for example in (*data.train, *data.validation, *data.test):
                (example.source + example.target + example.text_a + (example.text_b or "")).encode()
                assert data.task.num_labels == 1 or 0 <= example.label < data.task.num_labels

    use()

    @given(files)
    @fuzz(40)
    def check(content):
        with changed(path, content):
            outcome(f"task folder: {name}", use, names=str(task) if content == "gone" or name != "task.json" else "")

    check()


# -- studies -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(root) -> Path:
    """A part of a recorded study: few cells, so that it reads in no time."""
    source = find_resource("studies", "tiny-t5")
    assert source is not None
    info = json.loads((source / "study.json").read_text())

    def wanted(cell):
        labels = cell["labels"]
        return labels["task"] in ("sentiment", "entailment") and labels["seed"] in (0, 1) and labels["budget"] in ("0.2%", "")

    info["cells"] = [c for c in info["cells"] if wanted(c)]
    folder = root / "study"
    (folder / "cells").mkdir(parents=True)
    lines = {json.loads(line)["key"]: line for line in (source / "cells.jsonl").read_text().splitlines()}
    for cell in info["cells"]:
        (folder / "cells" / f"{cell['key']}.json").write_text(lines[cell["key"]])
    (folder / "study.json").write_text(json.dumps(info))
    return folder


def read_study(folder: Path) -> None:
    made = Study(folder)
    repr(made), made.kind, made.settings, made.status(), made.failed(), made.structures(), made._repr_html_()
    for run in made.runs():
        repr(run)
    rows = made.table()
    if len(rows):
        made.summary(), made.differences(), made.keeps(resamples=99)
        matrix = Transfer(made)
        repr(matrix), matrix.matrix(), matrix.overlap(), matrix.correlation(), matrix._repr_html_()


def test_study_json(study):
    read_study(study)
    path = study / "study.json"

    @given(wrong_file(path.read_bytes(), is_json=True))
    @fuzz(10)
    def check(content):
        with changed(path, content):
            outcome("study.json", lambda: read_study(study))

    check()


@pytest.mark.parametrize("method", ["searched", "random", "search-"])
def test_study_cells(study, method):
    path = next(p for p in sorted((study / "cells").iterdir()) if method in p.name)
    good = json.loads(path.read_bytes())
    if "structure" in good:
        good["structure"]["gates"] = good["structure"]["gates"][:2]
        good["structure"]["n_params"] = sum(g["n_params"] for g in good["structure"]["gates"])

    @given(wrong_file(json.dumps(good).encode(), is_json=True))
    @fuzz(10)
    def check(content):
        with changed(path, content):
            outcome("study cell", lambda: read_study(study))

    check()
