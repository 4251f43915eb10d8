"""The public names: all there, no more than meant, and cheap to import."""

import ast
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dovetail
from dovetail import errors
from dovetail.cli.exits import EXIT_CODES, MEANINGS, exit_code

ERRORS = [getattr(errors, name) for name in errors.__all__]


def declared():
    """Return the names that type checkers see as imported by the package."""
    tree = ast.parse(Path(dovetail.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", dovetail.__all__)
def test_every_public_name_can_be_imported(name):
    """And is found by ``from dovetail import name``."""
    assert getattr(dovetail, name) is getattr(importlib.import_module("dovetail"), name)


def test_type_checkers_and_python_see_the_same_names():
    """Each comes from the module that defines it."""
    names = declared()
    assert sorted([*names, "__version__"]) == dovetail.__all__
    for name, module in names.items():
        assert getattr(dovetail, name) is getattr(importlib.import_module(module), name)
        assert getattr(dovetail, name).__module__ == module


def test_public_names_are_listed_in_order_and_once():
    """``dir`` shows them and nothing else."""
    assert dovetail.__all__ == sorted(set(dovetail.__all__))
    assert dir(dovetail) == dovetail.__all__


def test_another_name_is_no_attribute():
    """The error is Python's own."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dovetail.nothing  # noqa: B018 (looking it up is the test)


def test_public_names_have_docstrings():
    """Every class, and every public method of the registry."""
    for name in set(dovetail.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(dovetail, name)), name
    methods = inspect.getmembers(dovetail.Registry, inspect.isfunction)
    assert [n for n, method in methods if n[0] != "_" and not inspect.getdoc(method)] == []


def test_importing_the_package_imports_no_library():
    """Neither the database's nor the model's."""
    code = "import dovetail, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"sqlalchemy", "torch", "numpy", "click", "rich", "lark", "mlflow", "peft"}


def test_the_registry_imports_no_model_library():
    """Opening one needs neither torch nor the plugins' libraries."""
    code = "from dovetail import Registry; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "mlflow", "peft", "transformers", "alembic", "pyarrow"}


# The error tree


def test_every_error_is_public():
    """A class that is defined is in both lists."""
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)
    assert defined <= set(dovetail.__all__)


def test_the_tree_in_the_docstring_is_the_tree():
    """Every class is drawn below its parent, with Python's own parent in brackets."""
    lines = [line for line in errors.__doc__.splitlines() if line.startswith("    ")]
    stack, drawn = [], {}
    for line in lines:
        text = line.lstrip(" │├└")
        depth = (len(line) - len(text) - 4) // 2
        name, _, builtin = text.partition(" ")
        del stack[depth:]
        drawn[name] = (stack[-1] if stack else "Exception", builtin.strip("()"))
        stack.append(name)
    expected = {
        kind.__name__: (
            kind.__bases__[0].__name__,
            kind.__bases__[1].__name__ if len(kind.__bases__) > 1 else "",
        )
        for kind in ERRORS
    }
    assert drawn == expected


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_survive_pickling(kind):
    """Between processes neither the sentence nor the data is lost."""
    error = kind("version 7 is not there", name="summary", number=7, gates=(1, "two"))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert type(copy) is kind
    assert str(copy) == "version 7 is not there"
    assert (copy.name, copy.number, copy.gates) == ("summary", 7, (1, "two"))
    assert copy.data == error.data


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_an_exit_code_with_a_meaning(kind):
    """Only the base of all, and a library that is missing, are unexpected."""
    code = exit_code(kind("x"))
    assert code in MEANINGS
    assert (code == 1) == (kind in (errors.DovetailError, errors.MissingDependency))


def test_exit_codes_are_those_of_the_design():
    """Scripts depend on them."""
    assert {kind.__name__: code for kind, code, _ in EXIT_CODES} == {
        "NotFoundError": 3,
        "ConflictError": 4,
        "InvalidInput": 5,
        "IncompatibleBaseModel": 6,
        "GateRefused": 7,
        "DigestMismatch": 8,
        "StorageError": 9,
        "MissingDependency": 1,
    }
