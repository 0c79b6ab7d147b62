"""Options of a study that costs little."""

SMALL = {
    "steps": 2, "tune_steps": 2, "evaluations": 1, "device": "cpu", "load": {"max_rows": 16}, "batch_size": 8, "progress": False,
}  # fmt: skip
