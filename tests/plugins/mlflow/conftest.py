"""What MLflow keeps for a whole process is as it was before each test."""

import os

import pytest

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def mlflow_forgets():
    """Let MLflow forget the servers that a test named: it also leaves them in the environment."""
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID"):
        os.environ.pop(name, None)
