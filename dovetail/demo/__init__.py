"""The walk through the main job: a corpus, a small frozen base, and the steps on them."""

from pathlib import Path

__all__ = ["BASE_DIRECTORY"]

BASE_DIRECTORY = Path(__file__).with_name("base")
"""The small base model that `dovetail.demo.base_recipe` trained; see its README."""
