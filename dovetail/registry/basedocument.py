"""A base model as a JSON document: what a registry knows of it, and its manifest.

It goes along with an adapter to where the base model was never seen, so that a registry there can
check the adapter against it, and the loader the weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.errors import InvalidInput, InvalidPayload
from dovetail.registry.fingerprint import BaseCheckpoint
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.manifest import Manifest
from dovetail.registry.records import BaseModel
from dovetail.registry.transport.checking import is_told_by
from dovetail.registry.transport.documents import plain
from dovetail.registry.transport.fields import Fields
from dovetail.registry.transport.parsing import parse_base_model

FORMAT = "dovetail-base-model"
FORMAT_VERSION = 1


def write_base_document(base: BaseModel, manifest: Manifest) -> dict[str, Any]:
    """Return the document of a base model."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "base_model": plain(base),
        "manifest": json.loads(manifest.to_json()),
    }


def read_base_document(document: object) -> BaseCheckpoint:
    """Return the base model that a document tells of, checked as a stranger's.

    Raises:
        InvalidPayload: It is no such document, or contradicts itself.
    """
    value = dict(document) if isinstance(document, Mapping) else document
    names = ("format", "version", "base_model", "manifest")
    read = Fields(value, "a base model's document", names)
    if (read.raw("format"), read.raw("version")) != (FORMAT, FORMAT_VERSION):
        raise InvalidPayload(
            f"a base model's document has the format {ascii(read.raw('format'))[:60]} "
            f"{ascii(read.raw('version'))[:20]}; this dovetail reads {FORMAT!r} {FORMAT_VERSION}"
        )
    base = parse_base_model(read.raw("base_model"))
    try:
        manifest = Manifest.from_json(canonical_json(read.raw("manifest")))
    except (InvalidInput, TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"the manifest of base model {base.name!r}: {error}") from error
    if not is_told_by(base, manifest):
        raise InvalidPayload(
            f"base model {base.name!r} is not the one that its manifest tells of: the fingerprint "
            f"is {manifest.fingerprint}, not {base.fingerprint}",
            found=manifest.fingerprint,
            expected=base.fingerprint,
        )
    facts = {field.name for field in dataclasses.fields(BaseCheckpoint)}
    told = {name: getattr(base, name) for name in BaseModel.__slots__ if name in facts}
    directory = Path(base.location) if base.location else None
    return BaseCheckpoint(directory=directory, manifest=manifest, vocab_size=None, **told)
