"""``dovetail demo``."""

from __future__ import annotations

import click

from dovetail.cli.model_options import needs_loader
from dovetail.cli.options import help_end, json_option
from dovetail.cli.output import print_json


@click.command("demo", epilog=help_end("dovetail demo --directory /tmp/demo", exits=(4, 9)))
@click.option(
    "--directory",
    type=click.Path(),
    default="dovetail-demo",
    show_default=True,
    help="Where to work; what an earlier demo left there is replaced.",
)
@json_option
def demo_command(directory: str, as_json: bool) -> None:
    """Run the whole main job on a small model.

    The model comes with the package. Trains a soft prompt and a LoRA adapter, registers, measures
    and promotes them, sees a bad one refused, and scores new rows. Needs no network, takes about a
    minute, and keeps its registry in the directory.
    """
    needs_loader("demo")
    import os

    from rich.console import Console

    # Everything is there already; nothing may be looked up.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Waiting threads that spin make a small model many times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dovetail.demo.walk import run_demo

    result = run_demo(
        directory,
        console=Console(stderr=True, highlight=False),
        output=Console(highlight=False, quiet=as_json),
    )
    if as_json:
        print_json(result)
