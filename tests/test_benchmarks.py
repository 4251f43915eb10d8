"""The benchmarks run; how long things take is not tested."""

import json

import pytest

pytest.importorskip("mlflow")

# MLflow warns of its own making, which is not what is tested.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize(
    "name", ["registry", "storage", "scale", "fingerprint", "startup", "engine", "mlflow"]
)
def test_a_benchmark_runs_on_little(name, tmp_path, capsys):
    """Each benchmark measures, prints a table, and writes every time to a file."""
    from benchmarks.__main__ import main

    file = tmp_path / "result.json"
    main([name, "--quick", "--json", str(file)])
    (report,) = json.loads(file.read_text())["reports"]
    assert report["name"] == name
    assert all(row["ours_s"] for row in report["rows"])
    assert "goals" in capsys.readouterr().out


def test_an_unknown_benchmark_is_named(capsys):
    """A name that is no benchmark is refused, with those that are."""
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["loader"])
    assert (
        "registry, storage, scale, fingerprint, startup, engine, mlflow" in capsys.readouterr().err
    )
