"""``dovetail promote``, ``rollback`` and ``require``: moving aliases through their gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.exits import NOT_NOTIFIED
from dovetail.cli.options import NAME, REFERENCE, help_end, json_option
from dovetail.cli.output import print_json, say

if TYPE_CHECKING:
    from dovetail.registry.promotion import Promotion

_notify_option = click.option(
    "--notify",
    multiple=True,
    metavar="URL",
    help="Tell this URL when the alias has moved; signed with DOVETAIL_NOTIFY_SECRET.",
)


@click.command(
    "promote",
    epilog=help_end(
        "dovetail promote dialogue-summary/7 production --require 'rougeL >= 0.40' \\",
        "    --require 'rougeL >= production'",
        "dovetail promote dialogue-summary/7 production --force --reason 'hot fix'",
        "dovetail promote dialogue-summary/7 production --notify https://deploy.example.org/hook",
        exits=(3, 4, 5, 7, 9, NOT_NOTIFIED),
    ),
)
@click.argument("reference", type=REFERENCE)
@click.argument("alias")
@click.option(
    "--require",
    "requirements",
    multiple=True,
    metavar="REQUIREMENT",
    help="Condition for this once, such as 'rougeL >= 0.40' or 'rougeL > production'.",
)
@click.option("--force", is_flag=True, help="Move the alias even if a requirement fails.")
@click.option("--reason", help="Why; kept in the history. --force needs it.")
@_notify_option
@json_option
@pass_connection
def promote_command(
    connection: Connection,
    /,
    reference: str,
    alias: str,
    requirements: tuple[str, ...],
    force: bool,
    reason: str | None,
    notify: tuple[str, ...],
    as_json: bool,
) -> int:
    """Move an alias to a version, through its gate.

    ALIAS points to the version REFERENCE afterwards, if that meets every requirement. Requirements
    stored for the alias (see 'dovetail require') are checked too. '>= ALIAS' holds unless the
    version is measurably worse than that alias's version, '> ALIAS' only if it is measurably
    better: both by a paired bootstrap over the same examples.

    --notify sends a signed JSON document about the move, and tries again if that fails. What became
    of it is in the history. A URL that cannot be told undoes nothing.
    """
    with connection.open() as registry:
        promotion = registry.promote(
            reference, alias, require=requirements, force=force, reason=reason, notify=notify
        )
    if as_json:
        print_json(promotion)
    else:
        _print_promotion(promotion)
    return _say_notified(promotion)


def _print_promotion(promotion: Promotion) -> None:
    alias = promotion.alias
    for gate in promotion.gates:
        say(f"{'met' if gate.passed else 'NOT MET'}: {gate.requirement}: {gate.message}")
    if not promotion.moved:
        click.echo(f"{promotion.name}@{alias} is {promotion.name}/{promotion.number} already")
        return
    before = f" (was {promotion.previous})" if promotion.previous else ""
    forced = ", forced" if promotion.forced else ""
    click.echo(
        f"{promotion.name}@{alias} is now {promotion.name}/{promotion.number}{before}{forced}"
    )


@click.command(
    "rollback",
    epilog=help_end(
        "dovetail rollback dialogue-summary production --reason 'wrong names in summaries'",
        exits=(3, 4, 5, 9, NOT_NOTIFIED),
    ),
)
@click.argument("name", type=NAME)
@click.argument("alias")
@click.option("--reason", help="Why; kept in the history.")
@_notify_option
@json_option
@pass_connection
def rollback_command(
    connection: Connection,
    /,
    name: str,
    alias: str,
    reason: str | None,
    notify: tuple[str, ...],
    as_json: bool,
) -> int:
    """Move an alias back to where it was.

    ALIAS of adapter NAME points to what it did before its last promotion. A second rollback goes
    back by one more. --notify is as for 'promote'.
    """
    with connection.open() as registry:
        moved = registry.rollback(name, alias, reason=reason, notify=notify)
    if as_json:
        print_json(moved)
    else:
        click.echo(f"{name}@{alias} is back at {name}/{moved.number} (was {moved.previous})")
    return _say_notified(moved)


def _say_notified(promotion: Promotion) -> int:
    """Say what became of telling others; return the exit code."""
    for each in promotion.notifications:
        tries = f"{each.attempts} attempt{'s' if each.attempts > 1 else ''}"
        if each.delivered:
            say(f"notified {each.url} ({tries})")
        else:
            say(f"could not notify {each.url} ({tries}): {each.error}; the alias has moved")
    return 0 if all(each.delivered for each in promotion.notifications) else NOT_NOTIFIED


@click.command(
    "require",
    epilog=help_end(
        "dovetail require dialogue-summary production 'rougeL >= 0.40' 'rougeL >= production'",
        "dovetail require dialogue-summary production          # show them",
        "dovetail require dialogue-summary production --clear",
        exits=(3, 5, 9),
    ),
)
@click.argument("name", type=NAME)
@click.argument("alias")
@click.argument("requirements", nargs=-1)
@click.option("--clear", is_flag=True, help="Require nothing any more.")
@click.option("--reason", help="Why; kept in the history.")
@json_option
@pass_connection
def require_command(
    connection: Connection,
    /,
    name: str,
    alias: str,
    requirements: tuple[str, ...],
    clear: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Set or show what an alias requires.

    Every version that is promoted to ALIAS of adapter NAME must meet the REQUIREMENTS; they replace
    those that are stored.
    """
    if clear and requirements:
        raise click.UsageError("give requirements or --clear, not both")
    with connection.open() as registry:
        if requirements or clear:
            stored = registry.require(name, alias, requirements, reason=reason)
        else:
            stored = registry.requirements(name, alias)
    if as_json:
        print_json({"name": name, "alias": alias, "requirements": stored})
        return
    for requirement in stored:
        click.echo(requirement)
    if not stored:
        say(f"{name}@{alias} requires nothing")
