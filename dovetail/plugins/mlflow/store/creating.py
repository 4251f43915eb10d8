"""Creating model versions: which of them become versions of adapters.

A model is empty when it is created, and nobody knows yet what it will hold. Its first version
decides: with an adapter as its source it becomes one of Dovetail's, with anything else it stays one
of MLflow's own.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.prompt.registry_utils import has_prompt_tag
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.validation import _validate_model_name, _validate_model_version_tag
from sqlalchemy.exc import DBAPIError

from dovetail.plugins.mlflow.problems import refusal
from dovetail.plugins.mlflow.store.adapters import Adapters
from dovetail.plugins.mlflow.store.connecting import Connection
from dovetail.plugins.mlflow.store.entities import registered_version
from dovetail.plugins.mlflow.store.others import Others
from dovetail.plugins.mlflow.store.registering import Request, reference_in, register

_logger = logging.getLogger(__name__)
_OURS = 500  # statuses from here are not the caller's fault, and a client tries again


class Creating:
    """Creates model versions in the store that they belong to.

    Args:
        connection: The registry.
        adapters: Tells which names are adapters'.
        others: MLflow's own store.
    """

    def __init__(self, connection: Connection, adapters: Adapters, others: Others) -> None:
        self._connection = connection
        self._adapters = adapters
        self._others = others

    def create(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None,
        tags: Sequence[ModelVersionTag],
        run_link: str | None,
        description: str | None,
        local_model_path: str | None,
        model_id: str | None,
    ) -> ModelVersion:
        """Add a version; the arguments are those of ``AbstractStore.create_model_version``."""
        _validate_model_name(name)
        for tag in tags:
            _validate_model_version_tag(tag.key, tag.value)
        request = Request(
            name=name,
            source=source,
            location=local_model_path or self._location(source),
            run_id=run_id or None,
            tags={tag.key: tag.value for tag in tags},
            run_link=run_link or None,
            description=description,
            model_id=model_id or None,
        )
        try:
            return self._create(request, tags)
        except MlflowException as error:
            if not _is_missing(error) or not self._adapters.has(name):
                raise
            # Another client's version came first and made an adapter of the empty model.
            return self._create(request, tags)

    def _create(self, request: Request, tags: Sequence[ModelVersionTag]) -> ModelVersion:
        name = request.name
        with self._connection.database.asking() as connection:
            is_adapter, is_kept = self._others.look_up(connection, name)
        model = None if is_adapter or is_kept else self._others.find_model(name)
        # A model that has no version yet may become an adapter; a prompt may not.
        if not is_adapter and (model is None or has_prompt_tag(tags)):
            return self._keep(request, tags)
        registered = register(self._connection, request, model=model)
        if registered is not None:
            if model is not None:
                self._remove_empty_model(name)
            version = registered.registration.version
            if registered.registration.created:
                return registered_version(version, registered.reported)
            return self._adapters.get_model_version(name, version.number)
        if is_adapter:
            raise refusal(
                f"source {request.source!r} holds no adapter that PEFT saved, or cannot be read, "
                f"and {name!r} is an adapter; register other models under another name"
            )
        return self._keep(request, tags)

    def _remove_empty_model(self, name: str) -> None:
        """Remove the model that an adapter took the place of, which is there by now."""
        try:
            self._others.remove_empty_model(name)
        except DBAPIError as error:  # nobody sees it until the adapter is deleted, and it goes then
            _logger.warning("the empty model %r could not be removed: %s", name, error)

    def _keep(self, request: Request, tags: Sequence[ModelVersionTag]) -> ModelVersion:
        """Let MLflow's own store keep a version by its source."""
        reference = reference_in(request.source)
        is_copy = reference is not None and self._adapters.has(reference.name)
        try:
            return self._others.store.create_model_version(
                request.name,
                request.location if is_copy else request.source,
                run_id=request.run_id,
                tags=list(tags),
                run_link=request.run_link,
                description=request.description,
                model_id=request.model_id,
            )
        except MlflowException as error:
            cause = error.__cause__ or error.__context__
            if not isinstance(cause, MlflowException) or cause.get_http_status_code() >= _OURS:
                raise
            raise refusal(error.message) from error  # a source that is not there

    def _location(self, source: str) -> str:
        """Return where the files of a source lie, if it is a version of this registry."""
        reference = reference_in(source)
        if reference is None:
            return source
        try:
            if self._adapters.has(reference.name):
                if reference.number is None:
                    alias = str(reference.alias)
                    found = self._adapters.get_model_version_by_alias(reference.name, alias)
                    reference = type(reference)(name=reference.name, number=found.version)
                return self._adapters.get_model_version_download_uri(
                    reference.name, reference.number or 0
                )
            if not self._others.exist or reference.number is None:
                return source
            uri: str = self._others.store.get_model_version_download_uri(
                reference.name, reference.number
            )
        except MlflowException as error:
            raise refusal(f"source {source!r} cannot be read: {error.message}") from error
        return uri


def _is_missing(error: MlflowException) -> bool:
    return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))
