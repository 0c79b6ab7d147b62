"""The kinds of task, one file each; `tasks.kind.Kind` says what each of them has to say."""

from s3pet_viz.tasks.kinds.classes import Classification
from s3pet_viz.tasks.kinds.generation import Generation
from s3pet_viz.tasks.kinds.multi_label import MultiLabel
from s3pet_viz.tasks.kinds.numbers import Regression
from s3pet_viz.tasks.kinds.tags import TokenClassification
from s3pet_viz.tasks.spec import KINDS

_ALL = (Classification(), Regression(), Generation(), TokenClassification(), MultiLabel())
KINDS.update({kind.name: kind for kind in _ALL})
