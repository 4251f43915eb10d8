"""Options of the commands that speak to MLflow, and the check that they can."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from dovetail.errors import MissingDependency

tracking_option = click.option(
    "--tracking-uri",
    metavar="URI",
    help="Where MLflow's runs are; MLFLOW_TRACKING_URI if not given.",
)


def needs_mlflow(command: str) -> None:
    """Check that MLflow is installed; where nobody sees them, it draws no progress bars.

    Raises:
        MissingDependency: It is not; the message says how to install it.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise MissingDependency(
            f"'dovetail {command}' needs mlflow; install with: pip install 'dovetail[mlflow]'",
            missing=("mlflow",),
        )
    if not sys.stderr.isatty():
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
