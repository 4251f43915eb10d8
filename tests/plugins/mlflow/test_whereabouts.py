"""How the MLflow server that a registry is behind is named to people."""

import pytest

from dovetail.plugins.mlflow.whereabouts import shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h:5000", "http://h:5000"),
        ("http://h/a@b", "http://h/a@b"),
        ("http://h?team=a@b", "http://h?team=a@b"),
        ("https://ann:s3cret@h/mlflow", "https://h/mlflow"),
        ("https://ann:s3@cret@h/a@b", "https://h/a@b"),
    ],
)
def test_a_server_is_shown_without_its_password(url, words):
    """And with all else that its URL has."""
    assert shown(url) == words
