"""The registry-store plugin: ``mlflow server --registry-store-uri dovetail+sqlite:///registry.db``.

Adapters are kept in Dovetail's own tables and nowhere else, so what the command line does is seen
in MLflow at once, and the other way round. What is no adapter, other models, prompts and webhooks,
is kept by MLflow's own store beside them. A name is either an adapter's or not, and that decides
who answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities.model_registry import (
    ModelVersion,
    ModelVersionTag,
    RegisteredModel,
    RegisteredModelTag,
)
from mlflow.prompt.registry_utils import handle_resource_already_exist_error, has_prompt_tag
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry import (
    SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT,
    SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT,
)
from mlflow.store.model_registry.abstract_store import AbstractStore
from mlflow.utils.validation import _validate_model_name

from dovetail.plugins.mlflow.problems import answers_mlflow, missing, speaking_mlflow
from dovetail.plugins.mlflow.store.adapters import Adapters
from dovetail.plugins.mlflow.store.connecting import Connection
from dovetail.plugins.mlflow.store.creating import Creating
from dovetail.plugins.mlflow.store.entities import download_uri
from dovetail.plugins.mlflow.store.others import Others
from dovetail.plugins.mlflow.store.searching import Search
from dovetail.plugins.mlflow.store.webhooks import Webhooks

__all__ = ["DovetailStore"]


class DovetailStore(Webhooks, AbstractStore):  # type: ignore[misc]  # mlflow has no types, so its class is Any
    """MLflow's model registry, kept by Dovetail.

    Args:
        store_uri: Which registry; see `dovetail.plugins.mlflow.store.connecting`.
        tracking_uri: Where MLflow's runs are.

    Raises:
        MlflowException: The registry cannot be opened.
    """

    def __init__(self, store_uri: str | None = None, tracking_uri: str | None = None) -> None:
        super().__init__(store_uri, tracking_uri)
        with speaking_mlflow():
            connection = Connection.open(store_uri)
        self._connection = connection
        self._adapters = Adapters(connection)
        self._others = Others(connection.database)
        self._search = Search(connection.database, self._adapters, self._others)
        self._creating = Creating(connection, self._adapters, self._others)

    def close(self) -> None:
        """Close all connections to databases."""
        self._others.close()
        self._connection.registry.close()

    # Registered models

    @answers_mlflow
    def create_registered_model(
        self,
        name: str,
        tags: Sequence[RegisteredModelTag] | None = None,
        description: str | None = None,
        deployment_job_id: str | None = None,
    ) -> RegisteredModel:
        """Create an empty model; its first version decides what it is."""
        if self._adapters.has(name):
            handle_resource_already_exist_error(name, False, bool(has_prompt_tag(tags)))
        return self._others.store.create_registered_model(
            name, tags, description, deployment_job_id
        )

    @answers_mlflow
    def update_registered_model(
        self, name: str, description: str | None, deployment_job_id: str | None = None
    ) -> RegisteredModel:
        """Change a model's description."""
        return self._of(name).update_registered_model(name, description, deployment_job_id)

    @answers_mlflow
    def rename_registered_model(self, name: str, new_name: str) -> RegisteredModel:
        """Rename a model; an adapter is refused."""
        home = self._of(name)
        if home is not self._adapters and self._adapters.has(new_name):
            home.get_registered_model(name)  # which may not be there, either
            handle_resource_already_exist_error(new_name, False, False)
        return home.rename_registered_model(name, new_name)

    @answers_mlflow
    def delete_registered_model(self, name: str) -> None:
        """Delete a model; an adapter is hidden, and its numbers stay taken."""
        home = self._of(name)
        home.delete_registered_model(name)
        if home is self._adapters and self._others.exist:
            self._others.remove_empty_model(name)  # it would be seen again

    @answers_mlflow
    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[RegisteredModel]:
        """Find models."""
        if max_results is None:
            max_results = SEARCH_REGISTERED_MODEL_MAX_RESULTS_DEFAULT
        return self._search.models(filter_string, max_results, order_by, page_token)

    @answers_mlflow
    def get_registered_model(self, name: str) -> RegisteredModel:
        """Return a model."""
        found = self._adapters.find_registered_model(name)
        return self._elsewhere(name).get_registered_model(name) if found is None else found

    @answers_mlflow
    def get_latest_versions(
        self, name: str, stages: Sequence[str] | None = None
    ) -> list[ModelVersion]:
        """Return the latest version of each stage; adapters have none but ``None``."""
        latest: list[ModelVersion] = self._of(name).get_latest_versions(name, stages)
        return latest

    @answers_mlflow
    def set_registered_model_tag(self, name: str, tag: RegisteredModelTag) -> None:
        """Set a tag of a model."""
        self._of(name).set_registered_model_tag(name, tag)

    @answers_mlflow
    def delete_registered_model_tag(self, name: str, key: str) -> None:
        """Delete a tag of a model."""
        self._of(name).delete_registered_model_tag(name, key)

    # Model versions

    @answers_mlflow
    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Sequence[ModelVersionTag] | None = None,
        run_link: str | None = None,
        description: str | None = None,
        local_model_path: str | None = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        """Add a version: an adapter's, if that is what the source holds."""
        return self._creating.create(
            name,
            source,
            run_id=run_id,
            tags=tags or (),
            run_link=run_link,
            description=description,
            local_model_path=local_model_path,
            model_id=model_id,
        )

    @answers_mlflow
    def update_model_version(
        self, name: str, version: str | int, description: str | None = None
    ) -> ModelVersion:
        """Change a version's description."""
        return self._of(name).update_model_version(name, version, description)

    @answers_mlflow
    def transition_model_version_stage(
        self,
        name: str,
        version: str | int,
        stage: str,
        archive_existing_versions: bool,
    ) -> ModelVersion:
        """Change a version's stage; adapters have aliases instead."""
        return self._of(name).transition_model_version_stage(
            name, version, stage, archive_existing_versions
        )

    @answers_mlflow
    def delete_model_version(self, name: str, version: str | int) -> None:
        """Delete a version."""
        self._of(name).delete_model_version(name, version)

    @answers_mlflow
    def get_model_version(self, name: str, version: str | int) -> ModelVersion:
        """Return a version."""
        found = self._adapters.find_model_version(name, version)
        return self._elsewhere(name).get_model_version(name, version) if found is None else found

    @answers_mlflow
    def get_model_version_download_uri(self, name: str, version: str | int) -> str:
        """Return where a version can be downloaded from."""
        found = self._adapters.find_model_version(name, version)
        if found is not None:
            return download_uri(name, found.version)
        uri: str = self._elsewhere(name).get_model_version_download_uri(name, version)
        return uri

    @answers_mlflow
    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[ModelVersion]:
        """Find versions; the filter may ask for ``metrics.…``, ``params.…``, ``alias`` and more."""
        if max_results is None:
            max_results = SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT
        return self._search.versions(filter_string, max_results, order_by, page_token)

    @answers_mlflow
    def set_model_version_tag(self, name: str, version: str | int, tag: ModelVersionTag) -> None:
        """Set a tag of a version."""
        self._of(name).set_model_version_tag(name, version, tag)

    @answers_mlflow
    def delete_model_version_tag(self, name: str, version: str | int, key: str) -> None:
        """Delete a tag of a version."""
        self._of(name).delete_model_version_tag(name, version, key)

    # Aliases

    @answers_mlflow
    def set_registered_model_alias(self, name: str, alias: str, version: str | int) -> None:
        """Set an alias; an adapter's passes the gate that is stored for it."""
        self._of(name).set_registered_model_alias(name, alias, version)

    @answers_mlflow
    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        """Delete an alias."""
        self._of(name).delete_registered_model_alias(name, alias)

    @answers_mlflow
    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """Return the version that an alias points to."""
        found = self._adapters.find_model_version_by_alias(name, alias)
        if found is None:
            return self._elsewhere(name).get_model_version_by_alias(name, alias)
        return found

    def _await_model_version_creation(self, mv: ModelVersion, await_creation_for: int) -> None:
        """Do nothing: a version that was created is ready."""

    def _of(self, name: Any) -> Any:
        """Return who answers for a name."""
        return self._adapters if self._adapters.has(name) else self._elsewhere(name)

    def _elsewhere(self, name: Any) -> Any:
        """Return who answers for a name that is no adapter's."""
        if not self._others.exist:  # to look for what is not there is no reason to make tables
            _validate_model_name(name)
            raise missing(f"Registered Model with name={name} not found")
        return self._others.store
