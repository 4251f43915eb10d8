"""The registry-store protocol for adapters, over `dovetail.Registry`.

The methods are those of MLflow's ``AbstractStore`` and have their names; `DovetailStore` calls them
when a name is an adapter's. Reading goes past `Registry` by way of `dovetail.registry.catalogue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from mlflow.entities.model_registry import (
    ModelVersion,
    ModelVersionTag,
    RegisteredModel,
    RegisteredModelTag,
)
from mlflow.entities.model_registry.model_version_stages import STAGE_NONE, get_canonical_stage
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_version,
    _validate_model_version_tag,
    _validate_registered_model_tag,
    _validate_tag_name,
)

from dovetail.errors import AliasNotFound, ConflictError, InvalidReference
from dovetail.plugins.mlflow.problems import missing, refusal
from dovetail.plugins.mlflow.store.connecting import Connection
from dovetail.plugins.mlflow.store.entities import (
    check_free,
    download_uri,
    model_version,
    registered_model,
)
from dovetail.registry import catalogue
from dovetail.registry.catalogue import ListedVersion
from dovetail.registry.reference import LATEST, Reference

_ATTEMPTS = 10
_MOST = 2**31 - 1

T = TypeVar("T")


class Adapters:
    """Adapters, as MLflow's server asks for them.

    Args:
        connection: The registry.
    """

    def __init__(self, connection: Connection) -> None:
        self._registry = connection.registry
        self._database = connection.database

    def has(self, name: Any) -> bool:
        """Tell whether there is an adapter with this name."""
        if not _may_be_kept(name):
            return False
        with self._database.asking() as connection:
            return catalogue.is_adapter(connection, name)

    def among(self, names: Sequence[str]) -> set[str]:
        """Return those names that adapters have."""
        if not names:
            return set()
        with self._database.reading() as connection:
            return catalogue.adapters_among(connection, names)

    # Registered models

    def find_registered_model(self, name: Any) -> RegisteredModel | None:
        """Return an adapter, or None if there is none with this name."""
        if not _may_be_kept(name):
            return None
        with self._database.reading() as connection:
            found = catalogue.list_adapter(connection, name)
        return None if found is None else registered_model(found)

    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return an adapter."""
        return _there(self.find_registered_model(name), name)

    def update_registered_model(
        self,
        name: str,
        description: str | None,
        deployment_job_id: str | None = None,  # noqa: ARG002 (MLflow passes it; for Databricks' own store)
    ) -> RegisteredModel:
        """Change an adapter's description."""
        self._registry.edit_adapter(name, description=description or "")
        return self.get_registered_model(name)

    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Refuse: references in jobs, and the history, have the name."""
        raise refusal(
            f"adapter {name!r} cannot be renamed to {new_name!r}: references to it and its history "
            "carry the name; register its versions under the new name instead"
        )

    def delete_registered_model(self, name: str) -> None:
        """Hide an adapter and all of its versions."""
        self._registry.delete_adapter(name, reason="deleted through MLflow")

    def get_latest_versions(
        self, name: str, stages: Sequence[str] | None = None
    ) -> list[ModelVersion]:
        """Return the version with the highest number, unless it is only asked for stages."""
        wanted = {get_canonical_stage(stage) for stage in stages or ()}
        if wanted and STAGE_NONE not in wanted:
            return []
        with self._database.reading() as connection:
            found = catalogue.list_version(connection, name)
        return [model_version(found)] if found is not None else []

    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Set a tag of an adapter."""
        _validate_registered_model_tag(tag.key, tag.value)
        check_free(tag.key)
        self._registry.edit_adapter(name, tags={tag.key: tag.value or ""})

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Take a tag of an adapter away, if it is there."""
        _validate_tag_name(key)
        check_free(key)
        self._registry.edit_adapter(name, remove_tags=[key])

    # Model versions

    def find_model_version(self, name: Any, version: str | int) -> ModelVersion | None:
        """Return a version of an adapter, or None if there is no adapter with this name.

        Raises:
            MlflowException: The adapter has no such version.
        """
        found, is_ours = self._find(name, number=_number(version))
        if found is None and is_ours:
            self._reference(name, version)  # which says so, if it is no number
            raise missing(f"Model Version (name={name}, version={version}) not found")
        return None if found is None else model_version(found)

    def get_model_version(self, name: str, version: str | int) -> ModelVersion:
        """Return a version."""
        return _there(self.find_model_version(name, version), name)

    def get_model_version_download_uri(self, name: str, version: str | int) -> str:
        """Return the URI under which the artifact plugin has the version as an MLflow model."""
        return download_uri(name, self.get_model_version(name, version).version)

    def update_model_version(
        self, name: str, version: str | int, description: str | None = None
    ) -> ModelVersion:
        """Change a version's description."""
        reference = self._reference(name, version)
        self._registry.edit_version(reference, description=description or "")
        return self.get_model_version(name, version)

    def transition_model_version_stage(
        self,
        name: str,
        version: str | int,
        stage: str,
        archive_existing_versions: bool,  # noqa: ARG002 (MLflow passes it; it is refused anyway)
    ) -> ModelVersion:
        """Refuse: MLflow gave stages up, and adapters never had them."""
        raise refusal(
            f"{name}/{version} cannot have the stage {stage!r}: adapters have aliases; set the "
            f"alias {stage.lower()!r} to version {version} instead"
        )

    def delete_model_version(self, name: str, version: str | int) -> None:
        """Hide a version; one that an alias points to is refused."""
        self._registry.delete(self._reference(name, version), reason="deleted through MLflow")

    def set_model_version_tag(self, name: str, version: str | int, tag: ModelVersionTag) -> None:
        """Set a tag of a version."""
        _validate_model_version(version)
        _validate_model_version_tag(tag.key, tag.value)
        reference = self._reference(name, version)
        check_free(tag.key)
        self._registry.edit_version(reference, tags={tag.key: tag.value})

    def delete_model_version_tag(self, name: str, version: str | int, key: str) -> None:
        """Take a tag of a version away, if it is there."""
        _validate_model_version(version)
        _validate_tag_name(key)
        reference = self._reference(name, version)
        check_free(key)
        self._registry.edit_version(reference, remove_tags=[key])

    # Aliases

    def set_registered_model_alias(self, name: str, alias: str, version: str | int) -> None:
        """Promote a version, through the alias's gate."""
        _validate_model_alias_name(alias)
        _validate_model_alias_name_reserved(alias)
        reference = self._reference(name, version)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._registry.promote(reference, alias, reason="set through MLflow")
            except ConflictError:  # moved by somebody else in between; the last one counts
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Take an alias away, if it is set."""
        _validate_model_alias_name(alias)
        try:
            self._registry.drop_alias(name, alias, reason="deleted through MLflow")
        except (AliasNotFound, InvalidReference):
            return  # as in MLflow's own store

    def find_model_version_by_alias(self, name: Any, alias: str) -> ModelVersion | None:
        """Return the version that an alias points to, or None if the name is no adapter's.

        Raises:
            MlflowException: The adapter has no such alias.
        """
        try:
            _validate_model_alias_name(alias)
        except MlflowException:
            if self.has(name):
                raise
            return None
        is_latest = alias.lower() == LATEST
        found, is_ours = self._find(name, alias=None if is_latest else alias)
        if found is None and is_ours:
            if is_latest:
                raise missing(f"Latest version not found for model {name}.")
            raise refusal(f"Registered model alias {alias} not found.")
        return None if found is None else model_version(found)

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points to."""
        return _there(self.find_model_version_by_alias(name, alias), name)

    def _find(
        self, name: Any, *, number: int | None = None, alias: str | None = None
    ) -> tuple[ListedVersion | None, bool]:
        """Return a version, and whether there is an adapter with this name; in one transaction."""
        if not _may_be_kept(name):
            return None, False
        with self._database.reading() as connection:
            found = catalogue.list_version(connection, name, number=number, alias=alias)
            return found, found is not None or catalogue.is_adapter(connection, name)

    def _reference(self, name: str, version: str | int) -> Reference:
        number: int = _validate_model_version(version)
        if not 1 <= number <= _MOST:
            raise missing(f"Model Version (name={name}, version={version}) not found")
        return Reference(name=name, number=number)


def _may_be_kept(name: Any) -> bool:
    """Tell whether a database can be asked for a name at all."""
    return isinstance(name, str) and "\0" not in name


def _number(version: str | int) -> int:
    """Return a version's number; zero, which none has, for what is no number."""
    try:
        number: int = _validate_model_version(version)
    except MlflowException:
        return 0
    return number if 1 <= number <= _MOST else 0


def _there(found: T | None, name: str) -> T:
    if found is None:
        raise missing(f"Registered Model with name={name} not found")
    return found
