"""Options of the commands that speak to MLflow, and what makes them ready to."""

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


def prepare_mlflow(command: str) -> None:
    """See that MLflow is installed, and keep it from drawing progress bars that nobody sees.

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
