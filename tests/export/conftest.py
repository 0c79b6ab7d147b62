"""A LoRA-only structure that was searched and tuned on the embedded backbone, made once."""

from __future__ import annotations

import pytest

import s3pet_viz as s3


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory):
    """The folder of the adapter, its structure and its scores."""
    folder = tmp_path_factory.mktemp("searched")
    run = s3.search(
        task="sentiment", backbone="tiny-t5", budget="0.2%", space="S3PET-L", steps=4, batch_size=8, seed=0,
        max_rows=48, out=folder / "run", progress=False,
    )  # fmt: skip
    structure = run.structure()
    scores = s3.tune(
        structure, task="sentiment", backbone="tiny-t5", steps=40, batch_size=8, evaluations=2, progress=False,
        load={"max_rows": 48}, save=folder / "adapter",
    )  # fmt: skip
    return folder / "adapter", structure, scores
