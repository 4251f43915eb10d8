"""Every error that Dovetail raises on purpose, in one tree.

::

    DovetailError
    ├ NotFoundError (LookupError)
    │ ├ AdapterNotFound
    │ ├ VersionNotFound
    │ ├ AliasNotFound
    │ └ BaseModelNotFound
    ├ ConflictError
    ├ InvalidInput (ValueError)
    │ ├ InvalidReference
    │ ├ InvalidPayload
    │ ├ InvalidQuery
    │ └ InvalidRow
    ├ IncompatibleBaseModel (ValueError)
    ├ GateRefused
    ├ DigestMismatch
    ├ StorageError
    │ └ AccessDenied
    └ MissingDependency (ImportError)

A message says what is wrong, which value, and what to do about it. The data behind the message
are attributes, so that a program need not parse the sentence.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccessDenied",
    "AdapterNotFound",
    "AliasNotFound",
    "BaseModelNotFound",
    "ConflictError",
    "DigestMismatch",
    "DovetailError",
    "GateRefused",
    "IncompatibleBaseModel",
    "InvalidInput",
    "InvalidPayload",
    "InvalidQuery",
    "InvalidReference",
    "InvalidRow",
    "MissingDependency",
    "NotFoundError",
    "StorageError",
    "VersionNotFound",
]


class DovetailError(Exception):
    """Base of all errors that Dovetail raises on purpose.

    Args:
        message: The sentence for people: what, which value, what to do.
        **data: The values behind the sentence; each becomes an attribute.
    """

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.data = data
        for key, value in data.items():
            setattr(self, key, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.data)


def _rebuild(kind: type[DovetailError], message: str, data: dict[str, Any]) -> DovetailError:
    """Make an error again from its pickled parts."""
    return kind(message, **data)


class NotFoundError(DovetailError, LookupError):
    """Something that was named does not exist."""


class AdapterNotFound(NotFoundError):
    """No adapter has this name."""


class VersionNotFound(NotFoundError):
    """The adapter has no version with this number."""


class AliasNotFound(NotFoundError):
    """The adapter has no such alias."""


class BaseModelNotFound(NotFoundError):
    """No base model has this fingerprint or name, or its files are not on this machine."""


class ConflictError(DovetailError):
    """Somebody else changed the same thing first, or the name is taken."""


class InvalidInput(DovetailError, ValueError):
    """A value that was given cannot be used."""


class InvalidReference(InvalidInput):
    """A name, alias or reference is not well formed, or names no single version."""


class InvalidPayload(InvalidInput):
    """An adapter directory is damaged, unsafe or incomplete."""


class InvalidQuery(InvalidInput):
    """A search filter or a requirement cannot be understood."""


class InvalidRow(InvalidInput):
    """One row of a batch cannot be scored; it never stops the rows beside it."""


class IncompatibleBaseModel(DovetailError, ValueError):
    """The adapter was trained on other weights, or with another tokenizer."""


class GateRefused(DovetailError):
    """A version does not meet what an alias requires of it."""


class DigestMismatch(DovetailError):
    """Bytes that were read back are not the bytes that were written."""


class StorageError(DovetailError):
    """The database or the object store cannot be reached, is full, or has another schema."""


class AccessDenied(StorageError):
    """The registry may be read and not written, or its database user may not do this."""


class MissingDependency(DovetailError, ImportError):
    """An optional library that this call needs is not installed."""
