"""Webhooks: MLflow's server sends them, and asks the store which there are."""

from __future__ import annotations

from mlflow.entities.webhook import Webhook, WebhookEvent, WebhookStatus
from mlflow.store.entities.paged_list import PagedList

from dovetail.plugins.mlflow.problems import answers_mlflow
from dovetail.plugins.mlflow.store.others import Others


class Webhooks:
    """The part of the store that keeps webhooks, in MLflow's own."""

    _others: Others

    @answers_mlflow
    def create_webhook(
        self,
        name: str,
        url: str,
        events: list[WebhookEvent],
        description: str | None = None,
        secret: str | None = None,
        status: WebhookStatus | None = None,
    ) -> Webhook:
        """Add a webhook."""
        return self._others.store.create_webhook(name, url, events, description, secret, status)

    @answers_mlflow
    def get_webhook(self, webhook_id: str) -> Webhook:
        """Return a webhook."""
        return self._others.store.get_webhook(webhook_id)

    @answers_mlflow
    def list_webhooks(
        self, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList[Webhook]:
        """Return webhooks, the newest first."""
        if not self._others.exist:
            return PagedList([], None)
        return self._others.store.list_webhooks(max_results, page_token)

    @answers_mlflow
    def list_webhooks_by_event(
        self,
        event: WebhookEvent,
        max_results: int | None = None,
        page_token: str | None = None,
    ) -> PagedList[Webhook]:
        """Return the webhooks that want to know of an event."""
        if not self._others.exist:
            return PagedList([], None)
        return self._others.store.list_webhooks_by_event(event, max_results, page_token)

    @answers_mlflow
    def update_webhook(
        self,
        webhook_id: str,
        name: str | None = None,
        description: str | None = None,
        url: str | None = None,
        events: list[WebhookEvent] | None = None,
        secret: str | None = None,
        status: WebhookStatus | None = None,
    ) -> Webhook:
        """Change a webhook."""
        return self._others.store.update_webhook(
            webhook_id, name, description, url, events, secret, status
        )

    @answers_mlflow
    def delete_webhook(self, webhook_id: str) -> None:
        """Delete a webhook."""
        self._others.store.delete_webhook(webhook_id)
