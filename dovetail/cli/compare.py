"""``dovetail compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dovetail.cli.connection import Connection, pass_connection
from dovetail.cli.options import REFERENCE, help_end, json_option
from dovetail.cli.output import print_json, print_table, say, score_text

if TYPE_CHECKING:
    from dovetail.registry.comparison import ScoreComparison


@click.command(
    "compare",
    epilog=help_end(
        "dovetail compare dialogue-summary@production dialogue-summary/7", exits=(3, 5, 8, 9)
    ),
)
@click.argument("first", type=REFERENCE)
@click.argument("second", type=REFERENCE)
@json_option
@pass_connection
def compare_command(connection: Connection, /, first: str, second: str, as_json: bool) -> None:
    """Compare two versions side by side.

    That is scores, hyperparameters and config of the versions FIRST and SECOND. Scores are compared
    only where both were measured on the same dataset in the same way, with the 95 % interval of the
    paired difference; an interval without zero is a real difference.
    """
    with connection.open() as registry:
        found = registry.compare(first, second)
    if as_json:
        print_json(found)
        return
    one, two = str(found.first.reference), str(found.second.reference)
    if found.scores:
        rows = [
            (
                s.dataset,
                s.metric,
                score_text(s.first),
                score_text(s.second),
                _difference(s),
                s.n,
            )
            for s in found.scores
        ]
        print_table(("dataset", "metric", one, two, "difference [95 %]", "n"), rows)
    for reason in found.not_comparable:
        say(f"not compared: {reason}")
    if not found.same_base_model:
        say("note: the two were trained on different base models")
    for title, differing in (
        ("hyperparameters that differ", found.hyperparameters),
        ("config that differs", found.config),
    ):
        if differing:
            rows_of = [(key, str(pair[0]), str(pair[1])) for key, pair in differing.items()]
            print_table((title, one, two), rows_of)


def _difference(score: ScoreComparison) -> str:
    if score.ci_low is None or score.ci_high is None:
        return f"{score.difference:+.4f}"
    return f"{score.difference:+.4f} [{score.ci_low:+.4f}, {score.ci_high:+.4f}]"
