"""How the demo speaks: steps, commands and progress on one console, the result on another."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = ["Narrator"]


class Narrator:
    """Tells people what the demo is doing.

    Args:
        console: Where it is told; a console on standard error.
        steps: How many steps there will be.
    """

    def __init__(self, console: Console, *, steps: int) -> None:
        self._console = console
        self._steps = steps
        self._step = 0

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._console.print()
        self._console.print(Text(f"{self._step}/{self._steps}  {title}", style="bold"))

    def command(self, command: str) -> None:
        """Show what a person would type for what happens next."""
        self._console.print(Text(f"     $ {command}", style="cyan"), soft_wrap=True)

    def code(self, code: str) -> None:
        """Show the Python that happens next."""
        text = textwrap.indent(textwrap.dedent(code).strip(), "     ")
        self._console.print(Text(text, style="cyan"), soft_wrap=True)

    def say(self, message: str, *, style: str = "") -> None:
        """Tell what came of it."""
        self._console.print(Text(f"     {message}", style=style), soft_wrap=True)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int | None], None]]:
        """Yield what moves a bar: done, and all or None; without a terminal, say it once."""
        if not self._console.is_terminal:
            self.say(f"{label} ...")
            yield lambda _done, _total: None
            return
        columns = (TextColumn(f"     {label}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as bars:
            task = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
