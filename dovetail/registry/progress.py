"""What is called while bytes move, so that people see something happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

Moved: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that moved just now; from any thread."""
