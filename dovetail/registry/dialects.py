"""Expressions that SQLite and PostgreSQL write in different words; they mean the same on both.

Text is compared and ordered by its bytes everywhere: `dovetail.registry.schema` sees to it for
columns, and these expressions for what they return.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Float,
    String,
    TypeDecorator,
    bindparam,
    literal,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

IDS = "of_ids"
"""The parameter with the row ids of `is_among_ids`, a list of any length."""

_TO_GLOB = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]", "%": "*", "_": "?"})


def like(text: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Match text with ``%`` and ``_``, minding case; no other sign is special."""
    return _Like(text, literal(pattern), literal(pattern.translate(_TO_GLOB)))


def ilike(text: ColumnElement[Any], pattern: str) -> ColumnElement[bool]:
    """Match as `like` does, with ``A`` to ``Z`` the same as ``a`` to ``z``."""
    return _ILike(text, literal(pattern))


def json_text(document: Any, key: str) -> ColumnElement[str]:
    """Return what a JSON object has under a key: text as it is, all else as JSON writes it.

    It is NULL where the key is missing or has null.
    """
    return _JsonText(document, literal(key), literal(_path(key)))


def json_number(document: Any, key: str) -> ColumnElement[float]:
    """Return the number that a JSON object has under a key; ``true`` is 1, ``false`` is 0.

    It is NULL where there is anything else, or nothing.
    """
    return _JsonNumber(document, literal(key), literal(_path(key)))


def is_among_ids(column: Any) -> ColumnElement[bool]:
    """Tell whether a row id is one of those in the parameter `IDS` when the statement runs.

    They are one value, so the statement's text is the same for any number of them, and is read and
    planned once.
    """
    return _IsAmongIds(column, bindparam(IDS, type_=_Ids))


def joins_laterally(connection: Connection) -> bool:
    """Tell whether a joined subquery may refer to the tables before it (``LATERAL``)."""
    return connection.dialect.name == "postgresql"


def prefer_order(connection: Connection) -> None:
    """Have the rest of a transaction read rows in the order of an index, and not sort them.

    PostgreSQL plans by how many rows it expects. Where it expects fewer than a page, it would read
    and sort all of them, and they may be a million. SQLite reads in order wherever it can.
    """
    if connection.dialect.name == "postgresql":
        off = ("sort", "hashjoin", "mergejoin", "material")
        settings = [f"enable_{way} = off" for way in off] + ["join_collapse_limit = 1"]
        connection.exec_driver_sql("; ".join(f"SET LOCAL {setting}" for setting in settings))


def _path(key: str) -> str:
    # SQLite compares a path with the key as it is written, and SQLAlchemy writes JSON like this.
    return f"$.{json.dumps(key)}"


class _Like(FunctionElement[bool]):
    name = "like"
    type = Boolean()
    inherit_cache = True


class _ILike(FunctionElement[bool]):
    name = "ilike"
    type = Boolean()
    inherit_cache = True


class _Ids(TypeDecorator[Sequence[int]]):
    """Whole numbers as the text of an array, which takes a tenth of what drivers take for one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Sequence[int] | None, dialect: Dialect) -> str:
        """Write them as JSON, or as PostgreSQL writes an array."""
        numbers = ",".join(map(str, value or ()))
        return f"[{numbers}]" if dialect.name == "sqlite" else f"{{{numbers}}}"


class _IsAmongIds(FunctionElement[bool]):
    # Without a type: SQLite would be asked whether a Boolean equals 1, which no index knows.
    name = "is_among_ids"
    inherit_cache = True


class _JsonText(FunctionElement[str]):
    name = "json_text"
    type = String()
    inherit_cache = True


class _JsonNumber(FunctionElement[float]):
    name = "json_number"
    type = Float(53)
    inherit_cache = True


@compiles(_Like, "sqlite")
def _like_sqlite(element: _Like, compiler: Any, **options: Any) -> str:
    text, _, glob = _parts(element, compiler, options)
    return f"({text} GLOB {glob})"  # its LIKE ignores case


@compiles(_Like, "postgresql")
def _like_postgresql(element: _Like, compiler: Any, **options: Any) -> str:
    text, pattern, _ = _parts(element, compiler, options)
    return f"({text} LIKE {pattern} ESCAPE '')"


@compiles(_ILike, "sqlite")
def _ilike_sqlite(element: _ILike, compiler: Any, **options: Any) -> str:
    text, pattern = _parts(element, compiler, options)
    return f"({text} LIKE {pattern})"


@compiles(_ILike, "postgresql")
def _ilike_postgresql(element: _ILike, compiler: Any, **options: Any) -> str:
    text, pattern = _parts(element, compiler, options)
    return f"({text} ILIKE {pattern} ESCAPE '')"


@compiles(_IsAmongIds, "sqlite")
def _is_among_ids_sqlite(element: _IsAmongIds, compiler: Any, **options: Any) -> str:
    column, ids = _parts(element, compiler, options)
    return f"({column} IN (SELECT value FROM json_each({ids})))"  # noqa: S608 (a parameter's sign)


@compiles(_IsAmongIds, "postgresql")
def _is_among_ids_postgresql(element: _IsAmongIds, compiler: Any, **options: Any) -> str:
    column, ids = _parts(element, compiler, options)
    return f"({column} = ANY (CAST({ids} AS BIGINT[])))"


@compiles(_JsonText, "sqlite")
def _json_text_sqlite(element: _JsonText, compiler: Any, **options: Any) -> str:
    document, _, path = _parts(element, compiler, options)
    # The arrow returns numbers as they are written, where json_extract returns 1.0e-05 for 1e-05.
    return (
        f"CASE json_type({document}, {path}) WHEN 'null' THEN NULL "
        f"WHEN 'text' THEN json_extract({document}, {path}) ELSE {document} -> {path} END"
    )


@compiles(_JsonText, "postgresql")
def _json_text_postgresql(element: _JsonText, compiler: Any, **options: Any) -> str:
    document, key, _ = _parts(element, compiler, options)
    return f'(({document} ->> {key}) COLLATE "C")'


@compiles(_JsonNumber, "sqlite")
def _json_number_sqlite(element: _JsonNumber, compiler: Any, **options: Any) -> str:
    document, _, path = _parts(element, compiler, options)
    value = f"json_extract({document}, {path})"
    return f"CASE WHEN typeof({value}) IN ('integer', 'real') THEN CAST({value} AS REAL) END"


@compiles(_JsonNumber, "postgresql")
def _json_number_postgresql(element: _JsonNumber, compiler: Any, **options: Any) -> str:
    document, key, _ = _parts(element, compiler, options)
    value = f"({document} ->> {key})"
    # JSON has whole numbers that are larger than any double; for them the cast would be an error.
    return (
        f"CASE json_typeof({document} -> {key}) "
        f"WHEN 'boolean' THEN {value}::boolean::int::float8 "
        f"WHEN 'number' THEN CASE WHEN abs({value}::numeric) < 1e308 THEN {value}::float8 "
        f"ELSE sign({value}::numeric)::float8 * 'Infinity'::float8 END END"
    )


def _parts(element: FunctionElement[Any], compiler: Any, options: Any) -> list[str]:
    return [compiler.process(part, **options) for part in element.clauses]
