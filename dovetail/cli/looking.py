"""``dovetail list``, ``show`` and ``search``: reading, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import NAME, REFERENCE, help_end, json_option, limit_option
from dovetail.cli.output import (
    moment,
    print_fields,
    print_json,
    print_table,
    say,
    score_text,
    short,
)

if TYPE_CHECKING:
    from dovetail.registry.records import Adapter, AdapterVersion, Evaluation
    from dovetail.registry.store import Registry

_METRIC = re.compile(r"metrics\.`?([A-Za-z][A-Za-z0-9_./-]*)")
_SHOWN = 100
_VERSION_COLUMNS = ("version", "type", "parameters", "base model", "aliases", "created", "by")
_SHORT_TEXT = 60


@click.command(
    "list",
    epilog=help_end(
        "dovetail list",
        "dovetail list dialogue-summary",
        "dovetail list --prefix dialogue- --limit 1000 --json",
        exits=(3, 5, 9),
    ),
)
@click.argument("name", type=NAME, required=False)
@click.option("--deleted", is_flag=True, help="Also list deleted versions.")
@click.option("--prefix", default="", metavar="TEXT", help="Only adapters whose names begin so.")
@limit_option(100, "adapters or versions")
@click.option(
    "--after", metavar="NAME|NUMBER", help="Go on after this adapter, or this version of NAME."
)
@json_option
@pass_connection
def list_command(
    connection: Connection,
    /,
    name: str | None,
    deleted: bool,
    prefix: str,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List adapters, or the versions of one.

    With NAME, its versions are listed from the newest to the oldest.
    """
    with connection.open() as registry:
        if name is not None:
            before = None if after is None else _number(after)
            versions = registry.versions(name, deleted=deleted, limit=limit + 1, before=before)
            _print_versions(versions[:limit], as_json=as_json)
            if len(versions) > limit:
                _say_more(f"--after {versions[limit - 1].number}")
            return
        adapters = registry.adapters(prefix=prefix, limit=limit + 1, after=after or "")
    _print_adapters(adapters[:limit], as_json=as_json)
    if len(adapters) > limit:
        _say_more(f"--after {adapters[limit - 1].name}")


def _number(after: str) -> int:
    if after.isdecimal():
        return int(after)
    raise click.BadParameter(
        f"{after!r} is no version number; write one such as 7", param_hint="--after"
    )


def _say_more(option: str) -> None:
    say(f"there are more; add {option} for the next, or --limit N for more at once")


def _print_adapters(adapters: Sequence[Adapter], *, as_json: bool) -> None:
    if as_json:
        print_json(adapters)
        return
    rows = [
        (
            a.name,
            a.task,
            a.versions,
            f"{a.name}/{a.latest}" if a.latest else "",
            ", ".join(f"{alias} → {number}" for alias, number in a.aliases.items()),
        )
        for a in adapters
    ]
    print_table(("name", "task", "versions", "latest", "aliases"), rows)


@click.command(
    "show",
    epilog=help_end(
        "dovetail show dialogue-summary",
        "dovetail show dialogue-summary@production",
        exits=(3, 5, 9),
    ),
)
@click.argument("what", type=REFERENCE)
@json_option
@pass_connection
def show_command(connection: Connection, /, what: str, as_json: bool) -> None:
    """Show an adapter or a version.

    WHAT is NAME, NAME@ALIAS or NAME/NUMBER.
    """
    with connection.open() as registry:
        if "@" not in what and "/" not in what:
            adapter = registry.adapter(what)
            if as_json:
                print_json(adapter)
                return
            print_fields(
                {
                    "name": adapter.name,
                    "task": adapter.task,
                    "description": adapter.description,
                    "tags": _pairs(adapter.tags),
                    "aliases": _pairs(adapter.aliases),
                    "created": moment(adapter.created_at),
                }
            )
            versions = registry.versions(what, limit=_SHOWN + 1)
            _print_versions(versions[:_SHOWN], as_json=False)
            if len(versions) > _SHOWN:
                say(f"there are more; see them with: dovetail list {what}")
            return
        version = registry.resolve(what)
        evaluations = registry.evaluations(version.reference)
    if as_json:
        print_json({"version": version, "evaluations": evaluations})
        return
    _print_version(version)
    _print_evaluations(evaluations)


@click.command(
    "search",
    epilog=help_end(
        'dovetail search "metrics.rougeL > 0.4 AND params.r = 16"',
        "dovetail search \"task = 'summarization'\" --order-by 'metrics.rougeL DESC'",
        "dovetail search \"alias = 'production' AND tags.team = 'support'\" --json",
        exits=(5, 9),
    ),
)
@click.argument("query", default="")
@click.option("--order-by", multiple=True, metavar="FIELD [DESC]", help="Order of the results.")
@click.option("--limit", type=int, default=100, show_default=True, help="Most versions to show.")
@click.option("--page-token", help="Token that the page before printed.")
@json_option
@pass_connection
def search_command(
    connection: Connection,
    /,
    query: str,
    order_by: tuple[str, ...],
    limit: int,
    page_token: str | None,
    as_json: bool,
) -> None:
    """Find versions by scores, parameters and tags.

    QUERY is a filter such as "metrics.rougeL > 0.4"; without one, every version is found. Fields:
    name, number, task, peft_type, base_model, alias, created_by, created_at, updated_at,
    source_run, payload, metrics.NAME, params.NAME, tags.NAME, version_tags.NAME, adapter_tags.NAME.
    Operators:
    = != < <= > >= LIKE ILIKE IN IS NULL, AND, OR, NOT and brackets.
    """
    with connection.open() as registry:
        page = registry.search(query, order_by=order_by, limit=limit, page_token=page_token)
        if as_json:
            print_json(page)
            return
        metrics = dict.fromkeys(_METRIC.findall(" ".join([query, *order_by])))
        scores = {metric: _newest(registry, page.versions, metric) for metric in metrics}
    _print_versions(page.versions, as_json=False, scores=scores)
    if page.next_page_token:
        say(f"there are more; add --page-token {page.next_page_token}")


def _newest(registry: Registry, versions: Sequence[AdapterVersion], metric: str) -> list[str]:
    """Return each version's newest score of a metric, as text."""
    found = []
    for version in versions:
        evaluations = registry.evaluations(version.reference)
        scores = (e.scores[metric] for e in evaluations if metric in e.scores)
        found.append(next(map(score_text, scores), ""))
    return found


def _print_versions(
    versions: Sequence[AdapterVersion],
    *,
    as_json: bool,
    scores: Mapping[str, Sequence[str]] | None = None,
) -> None:
    if as_json:
        print_json(versions)
        return
    added = scores or {}
    # Most versions say nothing of themselves, and an empty column would only take room.
    told = {name: value for name, value in _TOLD.items() if any(map(value, versions))}
    rows = [
        (
            f"{v.reference}{' (deleted)' if v.deleted_at else ''}",
            v.peft_type,
            v.parameter_count,
            v.base_model_name,
            ", ".join(v.aliases),
            moment(v.created_at),
            v.created_by,
            *(value(v) for value in told.values()),
            *(column[index] for column in added.values()),
        )
        for index, v in enumerate(versions)
    ]
    print_table((*_VERSION_COLUMNS, *told, *added), rows)


def _print_version(version: AdapterVersion) -> None:
    print_fields(
        {
            "version": version.reference,
            "aliases": ", ".join(version.aliases),
            "task": version.task,
            "description": version.description,
            "tags": _pairs(version.tags),
            "type": version.peft_type,
            "parameters": f"{version.parameter_count:,}",
            "base model": f"{version.base_model_name} ({short(version.base_model)})",
            "payload": version.payload_digest,
            "template": version.input_template,
            "generation": _pairs(version.generation_config),
            "hyperparameters": _pairs(version.hyperparameters),
            "run": version.source_run,
            "created": f"{moment(version.created_at)} by {version.created_by}",
            "findings": "; ".join(version.findings),
            "files": ", ".join(f"{file.path} ({file.size:,} B)" for file in version.files),
        }
    )


def _print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    rows = [
        (e.kind, e.dataset_name, short(e.dataset_digest), e.n, score.metric, score_text(score))
        for e in evaluations
        for score in e.scores.values()
    ]
    if rows:
        print_table(("scores", "dataset", "digest", "n", "metric", "value [95 % interval]"), rows)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT_TEXT else f"{line[: _SHORT_TEXT - 1]}…"


_TOLD: dict[str, Callable[[AdapterVersion], str]] = {
    "tags": lambda version: _pairs(version.tags),
    "description": lambda version: _beginning(version.description),
}
