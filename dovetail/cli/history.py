"""The command ``history``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import NAME, help_end, json_option, limit_option
from dovetail.cli.output import count_progress, moment, print_json, print_table, say

if TYPE_CHECKING:
    from dovetail.registry.records import Event
    from dovetail.registry.store import Registry


@click.command(
    "history",
    epilog=help_end(
        "dovetail history dialogue-summary",
        "dovetail history --limit 1000 --json",
        "dovetail history --verify",
        exits=(3, 5, 8, 9),
    ),
)
@click.argument("name", type=NAME, required=False)
@limit_option(50, "events, the newest")
@click.option("--before", type=int, metavar="POSITION", help="Only events before this one.")
@click.option("--verify", is_flag=True, help="Check that no event was changed or removed.")
@json_option
@pass_connection
def history_command(
    connection: Connection,
    /,
    name: str | None,
    limit: int,
    before: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Show what happened, by whom and why.

    The newest events, from the oldest of them to the newest; with NAME, only those of this
    adapter. --verify checks the whole chain of events, from the first on, whatever is shown.
    """
    with connection.open() as registry:
        events = registry.history(name, limit=limit + 1, before=before)
        if verify:
            _verify_history(registry)
    shown = events[-limit:]
    if as_json:
        print_json(shown)
    else:
        rows = [
            (e.position, moment(e.time), e.actor, e.action, _happened(e), e.reason) for e in shown
        ]
        print_table(("#", "time", "who", "what", "on", "why"), rows)
    if len(events) > limit:
        say(
            f"there are older ones; add --before {shown[0].position} for them, or --limit N for "
            "more at once"
        )


def _verify_history(registry: Registry) -> None:
    from dovetail.errors import DigestMismatch

    with count_progress("checking events") as progress:
        broken = registry.broken_history(progress=progress)
    if broken is not None:
        raise DigestMismatch(
            f"the history was changed: {broken}; compare with a backup",
            position=broken.position,
            problem=broken.problem,
        )
    newest = registry.history(limit=1)
    say(f"{newest[0].position if newest else 0:,} events, the chain is whole")


def _happened(event: Event) -> str:
    if event.action in _SPECIAL:
        return f"{event.name}@{event.alias}{_SPECIAL[event.action](event)}"
    if event.alias and event.number:
        before = f" (was {event.previous})" if event.previous else ""
        return f"{event.name}@{event.alias} → {event.number}{before}"
    if event.alias:
        requirements = event.details.get("requirements", [])
        return f"{event.name}@{event.alias}: {'; '.join(requirements) or 'nothing'}"
    if event.name:
        return f"{event.name}/{event.number}" if event.number else event.name
    return str(event.details.get("base_model_name") or event.details.get("dataset") or "")


def _url(event: Event) -> str:
    return f": {event.details.get('url', '')}"


_SPECIAL: dict[str, Callable[[Event], str]] = {
    "promotion-refused": lambda event: f": {event.number} refused",
    "drop-alias": lambda event: f" dropped (was {event.previous})",
    "notified": _url,
    "notify-failed": _url,
}
