"""How long commands take from the shell, against MLflow's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.measuring import interleave
from benchmarks.ours import Ours
from benchmarks.report import Report, Row


def run(*, quick: bool) -> Report:
    """Measure; quickly and on little, or properly."""
    versions, rounds = (100, 1) if quick else (2_000, 15)
    scripts = Path(sys.executable).parent
    with tempfile.TemporaryDirectory(prefix="dovetail-bench-") as name:
        ours = Ours(Path(name), versions)
        ours.close()
        env = os.environ | {
            "DOVETAIL_DATABASE_URL": ours.url,
            "DOVETAIL_OBJECTS_URL": ours.objects_url,
        }

        def call(program: str, *arguments: str) -> None:
            command = [str(scripts / program), *arguments]
            subprocess.run(command, check=True, capture_output=True, env=env)

        times = interleave(
            {
                "help": lambda: call("dovetail", "--help"),
                "show": lambda: call("dovetail", "show", "adapter-0000"),
                "version": lambda: call("dovetail", "show", "adapter-0000@production"),
                "python": lambda: call("python", "-c", "pass"),
                "mlflow": lambda: call("mlflow", "--help"),
            },
            rounds=rounds,
        )
    peer, theirs = "mlflow --help", times["mlflow"]
    show = "dovetail show NAME, 100 versions"
    return Report(
        name="startup",
        setting=f"Wall time of a subprocess, files in the page cache; the registry holds "
        f"{versions:,} versions.",
        rows=[
            Row(what="dovetail --help", ours=times["help"], peer=peer, theirs=theirs, below=0.150),
            Row(what=show, ours=times["show"], peer=peer, theirs=theirs, below=0.450),
            Row(
                what="dovetail show NAME@ALIAS",
                ours=times["version"],
                peer=peer,
                theirs=theirs,
                below=0.450,
            ),
            Row(what="python -c pass, for comparison", ours=times["python"]),
        ],
        versions={"mlflow": version("mlflow")},
    )
