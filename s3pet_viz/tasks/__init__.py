"""Tasks: GLUE, SuperGLUE and a user's own, as text-to-text and pair examples, with their metrics."""

from s3pet_viz.tasks import kinds as kinds  # fills `spec.KINDS`
from s3pet_viz.tasks.example import Example
from s3pet_viz.tasks.load import load_task
from s3pet_viz.tasks.metrics import compute_metrics
from s3pet_viz.tasks.published import TASKS
from s3pet_viz.tasks.spec import Task, TaskData
from s3pet_viz.tasks.taskfile import task_from_dict

__all__ = ["TASKS", "Example", "Task", "TaskData", "compute_metrics", "load_task", "task_from_dict"]
