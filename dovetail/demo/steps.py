"""The steps of the demo: what each shows, the command for it, and the call that does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from dovetail.demo.corpus import DEFAULT_SIZES, make_corpus, write_rows
from dovetail.demo.narrator import Narrator
from dovetail.demo.place import Place, change_one_weight
from dovetail.demo.report import METRICS, Line
from dovetail.demo.train import HASTY, LORA, SOFT_PROMPT, TEMPLATE, Recipe, train_adapter
from dovetail.errors import DovetailError, GateRefused, IncompatibleBaseModel
from dovetail.loader import open_base
from dovetail.plugins.transformers import DovetailCallback
from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation
from dovetail.registry.store import Registry
from dovetail.scoring import ScoreJob, evaluate, score

__all__ = ["NAME", "STEPS", "Plan", "Walk"]

Refusal = TypeVar("Refusal", bound=DovetailError)

NAME = "dialogue-summary"
TASK = "summarization"
GENERATION = {"max_new_tokens": 32}
BASE_NAME = "demo-base"
DATASET = "held-out"
STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much the demo does.

    Attributes:
        good: Recipes whose better version goes to production.
        weak: Recipe whose version is refused.
        required: What production requires of every version.
        rows: Held-out dialogues to measure on.
        fresh: Dialogues to summarise in the end.
    """

    good: tuple[Recipe, ...] = (SOFT_PROMPT, LORA)
    weak: Recipe = HASTY
    required: tuple[str, ...] = ("rougeL >= 0.8", "rougeL > base")
    rows: int = DEFAULT_SIZES["test"]
    fresh: int = DEFAULT_SIZES["fresh"]


class Walk:
    """The steps, in order; each leaves in the directory and the registry what the next needs."""

    def __init__(self, place: Place, registry: Registry, narrator: Narrator, plan: Plan) -> None:
        self._narrator = narrator
        self._place = place
        self._registry = registry
        self._plan = plan
        self._corpus = make_corpus()

    def take_base(self) -> BaseModel:
        """Write the dialogues and register the frozen base."""
        tell, place = self._narrator, self._place
        tell.step("A frozen base model, known by the hash of its weights")
        for split in ("train", "validation", "test"):
            write_rows(self._corpus[split], place.data / f"{split}.jsonl")
        write_rows(self._corpus["fresh"], place.data / "fresh.jsonl", columns=("id", "dialogue"))
        tell.command(f"export DOVETAIL_DATABASE_URL='{place.database_url}'")
        tell.command(f"export DOVETAIL_OBJECTS_URL='{place.objects_url}'")
        tell.command(f"cd '{place.directory}'")
        tell.command(f"dovetail base add base --name {BASE_NAME}")
        base = self._registry.register_base(place.base, name=BASE_NAME)
        tell.say(f"{base.architecture}, {base.parameter_count:,} weights, {base.fingerprint}")
        return base

    def train(self, base: BaseModel) -> list[tuple[Recipe, AdapterVersion]]:
        """Train every recipe; the callback registers what comes of it."""
        tell = self._narrator
        tell.step("Train adapters with PEFT and Trainer; a callback registers each")
        tell.code(f"""
            callback = DovetailCallback("{NAME}", task="{TASK}", input_template="{TEMPLATE}")
            Trainer(model=get_peft_model(base, config), callbacks=[callback], ...).train()
        """)
        versions = []
        for recipe in (*self._plan.good, self._plan.weak):
            callback = DovetailCallback(
                NAME,
                registry=self._registry,
                task=TASK,
                input_template=TEMPLATE,
                generation_config=GENERATION,
                description="One sentence that says what a dialogue arranged.",
            )
            with tell.progress(f"training {recipe.title}") as progress:
                train_adapter(
                    self._place.base,
                    recipe,
                    train=self._corpus["train"],
                    validation=self._corpus["validation"],
                    output_dir=self._place.runs,
                    callbacks=[callback],
                    progress=progress,
                )
            if callback.registration is None:
                raise _unexpected("training ended without a registration")
            version = callback.registration.version
            versions.append((recipe, version))
            tell.say(f"{version.reference}: {recipe.title}, {version.parameter_count:,} weights")
        again = self._registry.register_base(self._place.base)
        if again.fingerprint != base.fingerprint:
            raise _unexpected("training changed the base model")
        tell.say("the base model has the same fingerprint as before: only adapters were trained")
        return versions

    def measure(
        self, base: BaseModel, versions: list[tuple[Recipe, AdapterVersion]]
    ) -> tuple[Line, ...]:
        """Measure the bare base and every version on the held-out dialogues."""
        tell = self._narrator
        named = f"--dataset-name {DATASET}"
        tell.step(f"Measure them on {self._plan.rows} dialogues that nothing was trained on")
        tell.command(
            f"dovetail evaluate data/test.jsonl --reference-column summary {named} "
            f"--base {base.name} --template '{TEMPLATE}' "
            f"--max-new-tokens {GENERATION['max_new_tokens']}"
        )
        bare = self._evaluate(None, base=base.fingerprint, template=TEMPLATE)
        lines = [Line(label="", title="bare base", parameters=None, evaluation=bare)]
        for recipe, version in versions:
            tell.command(
                f"dovetail evaluate {version.reference} data/test.jsonl "
                f"--reference-column summary {named}"
            )
            lines.append(
                Line(
                    label=str(version.number),
                    title=recipe.title,
                    parameters=version.parameter_count,
                    evaluation=self._evaluate(str(version.reference)),
                )
            )
        for line in lines:
            found = line.evaluation.scores["rougeL"]
            tell.say(f"{line.title}: ROUGE-L {found.value:.3f}")
        return tuple(lines)

    def promote(self, lines: tuple[Line, ...]) -> tuple[int, tuple[Line, ...]]:
        """Promote the best version through its gate; see the weak one refused."""
        tell, plan = self._narrator, self._plan
        *_, weak = lines
        best = max(lines[1:-1], key=lambda line: line.evaluation.scores["rougeL"].value)
        tell.step("Promote the better one; the gate refuses the hasty one")
        required = " ".join(f"'{text}'" for text in plan.required)
        tell.command(f"dovetail require {NAME} production {required}")
        self._registry.require(NAME, "production", plan.required)
        tell.command(f"dovetail promote {NAME}/{best.label} production")
        promotion = self._registry.promote(f"{NAME}/{best.label}", "production")
        for gate in promotion.gates:
            tell.say(f"met: {gate.message}")
        tell.command(
            f"dovetail promote {NAME}/{weak.label} production --require 'rougeL >= production'"
        )
        refusal = _refused(
            GateRefused,
            lambda: self._registry.promote(
                f"{NAME}/{weak.label}", "production", require=("rougeL >= production",)
            ),
        )
        tell.say(str(refusal), style="yellow")
        outcomes = {best.label: "production", weak.label: "refused"}
        assert promotion.number is not None  # noqa: S101 (for mypy: only dropping an alias leaves no number)
        return promotion.number, tuple(
            replace(line, outcome=outcomes.get(line.label, "")) for line in lines
        )

    def refuse_changed_base(self) -> None:
        """See that the adapter is not attached to a base with one changed weight."""
        tell = self._narrator
        tell.step("Attach it to a base model with one changed weight: refused")
        changed = change_one_weight(self._place)
        tell.say(f"in changed-base, one weight of {changed} is 0.01 larger")
        tell.command(
            f"dovetail score {NAME}@production data/fresh.jsonl --output refused.jsonl "
            "--base changed-base"
        )
        with open_base(self._place.changed_base, registry=self._registry) as base:
            refusal = _refused(IncompatibleBaseModel, lambda: base.attach(f"{NAME}@production"))
        tell.say(str(refusal), style="yellow")

    def score_fresh(self) -> int:
        """Pull the production version and summarise dialogues that have no summary."""
        tell, place = self._narrator, self._place
        tell.step("Pull production by its alias, and summarise new dialogues with it")
        tell.command(f"dovetail pull {NAME}@production pulled")
        self._registry.pull(f"{NAME}@production", to=place.pulled)
        tell.command(f"dovetail score {NAME}@production data/fresh.jsonl --output summaries.jsonl")
        job = ScoreJob(
            input=place.data / "fresh.jsonl",
            output=place.summaries,
            reference=f"{NAME}@production",
            limit=self._plan.fresh,
        )
        with tell.progress("scoring") as progress:
            report = score(
                job,
                registry=self._registry,
                progress=lambda done, total, _: progress(done, total),
            )
        tell.say(f"{report.rows} rows, {report.failed} failed; the first of them:")
        with place.summaries.open(encoding="utf-8") as file:
            first = json.loads(next(file))
        for turn in first["dialogue"].split("\n"):
            tell.say(f"  {turn}")
        tell.say(f"  => {first['prediction']}", style="green")
        return report.rows

    def _evaluate(
        self, reference: str | None, *, base: str | None = None, template: str | None = None
    ) -> Evaluation:
        with self._narrator.progress(f"measuring {reference or 'the bare base'}") as progress:
            return evaluate(
                reference,
                self._place.data / "test.jsonl",
                registry=self._registry,
                reference_column="summary",
                base=base,
                template=template,
                metrics=METRICS,
                dataset_name=DATASET,
                limit=self._plan.rows,
                max_new_tokens=GENERATION["max_new_tokens"],
                batch_size=32,
                progress=lambda done, total, _: progress(done, total),
            )


def _refused(kind: type[Refusal], action: Callable[[], object]) -> Refusal:
    """Return the error that an action must end with."""
    try:
        action()
    except kind as error:
        return error
    raise _unexpected(f"{kind.__name__} was expected, but nothing was refused")


def _unexpected(what: str) -> DovetailError:
    return DovetailError(f"the demo did not go as it should: {what}")
