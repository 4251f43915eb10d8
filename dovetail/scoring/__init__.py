"""Batch jobs over files of rows: score them with adapters, or evaluate an adapter on them."""

from dovetail.registry.template import InputTemplate
from dovetail.scoring.batch import score
from dovetail.scoring.engine import ADDED_COLUMNS, Progress
from dovetail.scoring.evaluate import dataset_digest, evaluate
from dovetail.scoring.job import ScoreJob, ScoreReport

__all__ = [
    "ADDED_COLUMNS",
    "InputTemplate",
    "Progress",
    "ScoreJob",
    "ScoreReport",
    "dataset_digest",
    "evaluate",
    "score",
]
