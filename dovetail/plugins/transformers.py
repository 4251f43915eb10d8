"""A callback for the Transformers ``Trainer`` that registers the adapter it has trained.

::

    from dovetail.plugins.transformers import DovetailCallback

    callback = DovetailCallback("dialogue-summary", input_template="Summarise: {dialogue}")
    trainer = Trainer(model=peft_model, callbacks=[callback], ...)
    trainer.train()
    print(callback.registration.version.reference)

What would stop the registration is looked for before the first step, not after the last one.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dovetail.errors import (
    AdapterNotFound,
    ConflictError,
    DovetailError,
    IncompatibleBaseModel,
    InvalidInput,
)
from dovetail.loader.locate import locate_base
from dovetail.plugins.training_run import (
    active_mlflow_run,
    find_peft_model,
    hyperparameters_of,
    save_adapter,
    scores_of,
    task_of,
)
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.live import check_live_model
from dovetail.registry.manifest import Manifest
from dovetail.registry.metadata import Metadata
from dovetail.registry.payload import read_payload
from dovetail.registry.publishing import Registration
from dovetail.registry.records import BaseModel
from dovetail.registry.reference import check_name
from dovetail.registry.store import Registry

__all__ = ["DovetailCallback"]

logger = logging.getLogger(__name__)

_LEFT_OUT = ("README.md",)  # PEFT's model card, with every line still to be filled in


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What is known at the first step and needed after the last."""

    base: BaseModel
    manifest: Manifest
    task: str | None
    source_run: str | None


class DovetailCallback(TrainerCallback):
    """Registers the adapter of a ``PeftModel`` when ``Trainer.train`` ends.

    Before the first step it checks that the registry can be written, that the adapter is of a
    kind that can be registered, and that the model's frozen weights are those of the base
    checkpoint. After the last it checks the weights again, saves the adapter, and registers it
    with its hyperparameters and the scores of the evaluation that belongs to its weights. With
    ``load_best_model_at_end`` that is the best checkpoint and its evaluation. Only the main process
    registers. Models whose weights are split over processes (FSDP, ZeRO-3) are not supported.

    Args:
        name: Adapter name to register under.
        registry: Registry to register in; None opens the one that the environment names, when it
            is needed and no longer.
        base: Directory or hub name of the base model; None takes what the PEFT configuration, or
            else the model, says. Looked up offline.
        revision: Revision of the hub name.
        task: Pipeline tag; None takes what follows from PEFT's ``task_type``, if anything does.
        input_template: Template that the training inputs were made with.
        generation_config: Generation defaults such as ``{"max_new_tokens": 32}``.
        hyperparameters: More than the callback finds by itself; these go first.
        tags: Free key-value pairs of the adapter.
        description: Free text about the adapter.
        allow_base_mismatch: Train and register even if the live weights are not those of the
            checkpoint, as after quantising; the hyperparameters then say how they differ.

    Raises:
        InvalidInput: A name, task, tag or setting is not allowed.
    """

    def __init__(
        self,
        name: str,
        *,
        registry: Registry | None = None,
        base: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        task: str | None = None,
        input_template: str | None = None,
        generation_config: Mapping[str, Any] | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
        allow_base_mismatch: bool = False,
    ) -> None:
        self.name = check_name(name)
        self.allow_base_mismatch = allow_base_mismatch
        self._registry = registry
        self._base = base
        self._revision = revision
        self._metadata = Metadata.checked(
            task=task,
            description=description,
            tags=tags,
            hyperparameters=hyperparameters,
            input_template=input_template,
            generation_config=generation_config,
            scores=None,
            source_run=None,
        )
        self._run: _Run | None = None
        self._registration: Registration | None = None

    @property
    def registration(self) -> Registration | None:
        """What registering gave, or None before the end of training and on other processes."""
        return self._registration

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002 - the Trainer's signature
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the Trainer's signature
        model: Any = None,
        **_: Any,
    ) -> None:
        """Check all that would stop the registration.

        Raises:
            InvalidInput: The model is no ``PeftModel``, or does not say what its base is.
            BaseModelNotFound: The base is not on this machine.
            IncompatibleBaseModel: The live weights are not those of the base checkpoint.
            InvalidPayload: The adapter is of a kind that cannot be registered.
            ConflictError: The name is for another task.
            StorageError: The registry cannot be written.
        """
        self._run, self._registration = None, None
        if not state.is_world_process_zero:
            return
        peft_model = find_peft_model(model)
        config = peft_model.peft_config[peft_model.active_adapter]
        task = self._metadata.task or task_of(config)
        directory, name = self._locate(peft_model, config)
        with self._open_registry() as registry:
            _check_name_is_free(registry, self.name, task)
            revision = None if name else self._revision  # a hub snapshot's path has its commit
            base = registry.register_base(directory, name=name, revision=revision)
            manifest = registry.base_manifest(base.fingerprint)
        self._check_weights(peft_model, manifest)
        _rehearse(peft_model, base, manifest)
        self._run = _Run(base=base, manifest=manifest, task=task, source_run=active_mlflow_run())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the Trainer's signature
        model: Any = None,
        **_: Any,
    ) -> None:
        """Save the adapter and register it.

        Raises:
            DovetailError: It cannot be registered; the message says where the adapter is kept.
        """
        if self._run is None:
            return
        peft_model = find_peft_model(model)
        output = Path(args.output_dir or ".")
        output.mkdir(parents=True, exist_ok=True)
        kept = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=output))
        adapter = save_adapter(peft_model, kept)
        try:
            self._registration = self._register(peft_model, adapter, args, state, self._run)
        except DovetailError as error:
            text = f"{error}. {self._where(adapter, self._run)}"
            raise type(error)(text, **{**error.data, "adapter": str(adapter)}) from error
        except Exception as error:
            error.add_note(self._where(adapter, self._run))
            raise
        shutil.rmtree(kept)
        logger.info("registered %s", self._registration.version.reference)

    def _register(
        self,
        model: PeftModel,
        adapter: Path,
        args: TrainingArguments,
        state: TrainerState,
        run: _Run,
    ) -> Registration:
        mismatch = self._check_weights(model, run.manifest)
        config = model.peft_config[model.active_adapter]
        found = hyperparameters_of(args, state, config)
        if mismatch is not None:
            found["base_mismatch"] = mismatch
        given = self._metadata
        with self._open_registry() as registry:
            return registry.register(
                self.name,
                adapter,
                base=run.base.fingerprint,
                task=run.task,
                description=given.description,
                tags=given.tags,
                hyperparameters={**found, **given.hyperparameters},
                input_template=given.input_template,
                generation_config=given.generation_config,
                scores=scores_of(args, state),
                source_run=run.source_run or active_mlflow_run(),
                exclude=_LEFT_OUT,
            )

    def _where(self, adapter: Path, run: _Run) -> str:
        """Say where the trained adapter is kept, and how to register it by hand."""
        command = ["dovetail", "register", self.name, str(adapter)]
        command += ["--base", run.base.location or run.base.fingerprint]
        for option, value in (("--task", run.task), ("--template", self._metadata.input_template)):
            command += [option, value] if value else []
        return f"The trained adapter is kept in {adapter}; register it with: {shlex.join(command)}"

    def _open_registry(self) -> AbstractContextManager[Registry]:
        return Registry.open() if self._registry is None else nullcontext(self._registry)

    def _locate(self, model: PeftModel, config: Any) -> tuple[Path, str | None]:
        """Find the base's directory, and its name if it has one on the hub."""
        given = self._base or config.base_model_name_or_path or model.base_model.name_or_path
        if not given:
            raise InvalidInput(
                "neither the PEFT configuration nor the model says which base model it is; "
                "pass base=DIRECTORY to DovetailCallback"
            )
        directory = locate_base(given, revision=self._revision or config.revision)
        return directory, None if Path(given).is_dir() else os.fspath(given)

    def _check_weights(self, model: PeftModel, manifest: Manifest) -> str | None:
        """Compare the live weights with the checkpoint's; return a difference that is allowed."""
        config = model.peft_config[model.active_adapter]
        replaced = getattr(config, "modules_to_save", None) or ()
        try:
            check_live_model(model, manifest, ignore=replaced)
        except IncompatibleBaseModel as error:
            if not self.allow_base_mismatch:
                raise
            logger.warning("%s; allowed by allow_base_mismatch=True", error)
            return str(error)
        return None


def _rehearse(model: PeftModel, base: BaseModel, manifest: Manifest) -> None:
    """Save the untrained adapter and check it as registering will check the trained one."""
    with tempfile.TemporaryDirectory(prefix="dovetail-") as place:
        payload = read_payload(save_adapter(model, Path(place)), exclude=_LEFT_OUT)
        check_against_base(
            payload, manifest, hidden_size=base.hidden_size, model_type=base.model_type
        )


def _check_name_is_free(registry: Registry, name: str, task: str | None) -> None:
    try:
        taken = registry.adapter(name).task
    except AdapterNotFound:
        return
    if task and taken and task != taken:
        raise ConflictError(
            f"adapter {name!r} is for the task {taken!r}, not {task!r}; "
            "train under another name, or pass task= to DovetailCallback",
            name=name,
            task=taken,
        )
