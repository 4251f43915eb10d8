"""What importing the loader costs."""

import subprocess
import sys

import pytest

from dovetail import loader


def test_importing_the_loader_imports_no_framework():
    """torch, transformers and peft wait until a base model is opened."""
    script = (
        "import sys, dovetail.loader; from dovetail.loader import Row, AttachedAdapter, "
        "Generation, locate_base; Row('x'); "
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_all_there():
    """Each name in __all__ can be had, and others raise AttributeError."""
    assert all(getattr(loader, name) is not None for name in loader.__all__)
    assert set(loader.__all__) <= set(dir(loader))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        loader.nothing  # noqa: B018
