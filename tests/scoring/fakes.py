"""Stand-ins for the registry and the model, and a program that kills jobs at every step.

Run as a program, ``python fakes.py DIRECTORY FORMAT [COLUMN]``, it runs one job undisturbed, then
again and again, each time in a child process that sends itself SIGKILL one step later than the
last, and resumes it in another child. It prints what came of each as JSON. With a column, that
one names the adapters, of several base models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Imported here so that each forked child does not do it again.
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dovetail.errors import BaseModelNotFound, ConflictError, VersionNotFound
from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation
from dovetail.registry.reference import Reference
from dovetail.scoring.batch import score_with
from dovetail.scoring.engine import Prediction
from dovetail.scoring.job import ScoreJob

BASE = f"sha256:{'b' * 64}"
OTHER_BASE = f"sha256:{'c' * 64}"
THIRD_BASE = f"sha256:{'d' * 64}"
NOW = datetime(2025, 1, 1, tzinfo=UTC)


def make_version(name="summary", number=1, *, base=BASE, template="Sum: {text}", **changes):
    """Make the record of a version that nothing is stored for."""
    values: dict[str, Any] = {
        "task": "summarization",
        "base_model_name": "tiny",
        "peft_type": "LORA",
        "config": {},
        "hyperparameters": {},
        "parameter_count": 1,
        "payload_digest": f"sha256:{hashlib.sha256(f'{name}/{number}'.encode()).hexdigest()}",
        "generation_config": {},
        "source_run": None,
        "created_by": "tester",
        "created_at": NOW,
        "updated_at": NOW,
        "deleted_at": None,
    }
    return AdapterVersion(
        name=name,
        number=number,
        base_model=base,
        input_template=template,
        **{**values, **changes},
    )


@dataclass
class FakeRegistry:
    """Versions, and aliases that can be moved."""

    location: str
    versions: dict[str, AdapterVersion] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    recorded: list[dict[str, Any]] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)

    def add(self, version, *aliases):
        """Add a version and point aliases at it."""
        self.versions[str(version.reference)] = version
        for alias in aliases:
            self.aliases[f"{version.name}@{alias}"] = str(version.reference)
        return self

    def resolve(self, reference):
        """Look a reference up."""
        given = str(Reference.parse(str(reference)))
        found = self.versions.get(self.aliases.get(given, given))
        if found is None:
            raise VersionNotFound(f"there is no {given}", reference=given)
        return found

    def pull_many(self, references):
        """Pretend that files are there."""
        self.pulled += references
        return [SimpleNamespace(path=Path(self.location)) for _ in references]

    def base_model(self, wanted):
        """Return one of the base models, which are all in one place."""
        fingerprint = {"tiny": BASE}.get(wanted, wanted)
        if fingerprint not in (BASE, OTHER_BASE, THIRD_BASE):
            raise BaseModelNotFound(f"there is no base model {wanted}")
        return BaseModel(
            fingerprint=fingerprint,
            name="tiny",
            location=self.location,
            revision=None,
            architecture=None,
            model_type=None,
            hidden_size=None,
            parameter_count=1,
            dtype="F32",
            tokenizer_digest=None,
            manifest_digest=BASE,
            created_at=NOW,
        )

    def record_evaluation(self, **given):
        """Keep what is recorded."""
        self.recorded.append(given)
        version = None if given["reference"] is None else self.resolve(given["reference"])
        return Evaluation(
            name=None if version is None else version.name,
            number=None if version is None else version.number,
            base_model=given["base_model"],
            kind="measured",
            dataset_name=given["dataset_name"],
            dataset_digest=given["dataset_digest"],
            settings=given["settings"],
            library=given["library"],
            n=given["n"],
            scores=given["scores"],
            examples_digest=BASE,
            created_by="tester",
            created_at=NOW,
        )


class StoppedError(Exception):
    """The model was told to stop here."""


@dataclass
class FakeModel:
    """Writes a text that depends on prompt, adapter and nothing else.

    The adapters of ``by_reference`` run by another path than the rest.
    """

    stop_after: int | None = None
    by_reference: frozenset[str] = frozenset()
    fingerprint: str = BASE
    seen: int = 0
    is_open: bool = False
    requests: list[Any] = field(default_factory=list)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    weights: dict[str, str] = field(
        default_factory=lambda: {OTHER_BASE: OTHER_BASE, THIRD_BASE: THIRD_BASE}
    )

    def predict(self, prompts, *, offset, tick):  # noqa: ARG002 - part of the protocol
        """Reverse each prompt; prompts that say so fail."""
        self.calls.append(tuple(prompt.text for prompt in prompts))
        for prompt in prompts:
            assert prompt.adapter is None or prompt.adapter in self.requests[-1].adapters
            sys.audit("fakes.predict", ".partial")
            if self.stop_after is not None and self.seen >= self.stop_after:
                raise StoppedError
            self.seen += 1
            if "too long" in prompt.text:
                made = Prediction(None, "the prompt is too long")
            else:
                made = Prediction(
                    f"{prompt.adapter}|{prompt.text[::-1]}",
                    by_reference=prompt.adapter in self.by_reference,
                )
            tick(made)
            yield made

    @contextlib.contextmanager
    def open(self, request):
        """Be the opener of a job: one base model at a time, that which is expected."""
        assert not self.is_open
        self.is_open = True
        self.requests.append(request)
        own = self.fingerprint
        self.fingerprint = self.weights.get(request.expected, own)
        try:
            yield self
        finally:
            self.fingerprint, self.is_open = own, False


STEPS = {"open", "os.rename", "os.truncate", "os.mkdir", "os.remove", "os.rmdir", "fakes.predict"}


def kill_at(step: int) -> None:
    """Make this process kill itself at one of the steps that change what lies on the disk."""
    left = step

    def hook(event, args):
        nonlocal left
        if event in STEPS and ".partial" in str(args[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_child(
    job: ScoreJob, registry: FakeRegistry, step: int | None = None, *, quiet: bool = False
) -> int:
    """Run a job in a child process; return how it ended, as waitpid says it."""
    child = os.fork()
    if child == 0:
        if step is not None:
            kill_at(step)
        try:
            with contextlib.suppress(ConflictError if quiet else ()):
                score_with(job, registry=registry, opener=FakeModel().open)
        except BaseException:  # noqa: BLE001 - a child must never get back into its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def many_bases(location: str) -> FakeRegistry:
    """Return a registry with adapters of three base models."""
    registry = FakeRegistry(location).add(make_version(), "production")
    registry.add(make_version("other", base=OTHER_BASE))
    return registry.add(make_version("third", base=THIRD_BASE))


def kill_everywhere(directory: Path, suffix: str, column: str | None = None) -> dict[str, Any]:
    """Kill a job at each step in turn, resume it, and report the results."""
    registry = many_bases(str(directory))

    def job(name: str, *, resume: bool = False) -> ScoreJob:
        return ScoreJob(
            input=directory / f"rows.{suffix}",
            output=directory / f"{name}.{suffix}",
            reference=None if column else "summary@production",
            adapter_column=column,
            prefix="x_",
            checkpoint_every=3,
            resume=resume,
        )

    pa.array([""])  # makes pyarrow import pandas, if it is there
    ends, results, left_over = [], [], []
    assert in_child(job("whole"), registry) == 0
    for step in range(1_000):
        end = in_child(job("torn"), registry, step)
        if end == 0:
            break
        ends.append(os.WTERMSIG(end))
        partial = directory / f".torn.{suffix}.partial"
        for name in ("rows", "base-0", "base-1", "base-2"):
            if (partial / name).exists():
                with (partial / name).open("ab") as stream:
                    stream.write(b'{"torn": "li')
        output = directory / f"torn.{suffix}"
        # A job killed while it tidies up is done: resuming it is a conflict, and tidies up.
        done = output.exists() and not (partial / "job.json").exists()
        again = in_child(job("torn", resume=True), registry, quiet=done)
        found = hashlib.sha256(output.read_bytes()).hexdigest() if output.exists() else None
        results.append(found if done or again == 0 else again)
        left_over.append(sorted(path.name for path in directory.glob(".*")))
        output.unlink(missing_ok=True)
    whole = hashlib.sha256((directory / f"whole.{suffix}").read_bytes()).hexdigest()
    return {"whole": whole, "ends": ends, "results": results, "left_over": left_over}


if __name__ == "__main__":
    json.dump(kill_everywhere(Path(sys.argv[1]), *sys.argv[2:]), sys.stdout)
