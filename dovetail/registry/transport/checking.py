"""Check what a bundle's documents claim against its blobs, as registering checks a directory."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from dovetail.errors import IncompatibleBaseModel, InvalidInput, InvalidPayload
from dovetail.registry.compatibility import check_against_base
from dovetail.registry.digests import copy_hashed, require_digest
from dovetail.registry.evaluations import check_examples
from dovetail.registry.examples import MAX_BYTES as MAX_EXAMPLES_BYTES
from dovetail.registry.fingerprint import parse_manifest
from dovetail.registry.folder import WEIGHTS_FILE
from dovetail.registry.jsontext import canonical_json
from dovetail.registry.manifest import MAX_MANIFEST_BYTES, Manifest
from dovetail.registry.payload import Limits, read_payload
from dovetail.registry.records import AdapterVersion, BaseModel, Evaluation, StoredFile
from dovetail.registry.transport.bundle import Bundle
from dovetail.registry.transport.fields import refuse


def check_base(bundle: Bundle, base: BaseModel) -> Manifest:
    """Check that a base model is the one that its manifest tells of; return the manifest.

    Raises:
        InvalidPayload: It is another one.
        DigestMismatch: The manifest is corrupt or missing.
    """
    what = f"the manifest of base model {base.name!r}"
    data = bundle.read(base.manifest_digest, limit=MAX_MANIFEST_BYTES, what=what)
    manifest = parse_manifest(data)
    if not is_told_by(base, manifest):
        refuse(f"base model {base.name!r} is not the one that its manifest tells of")
    return manifest


def is_told_by(base: BaseModel, manifest: Manifest) -> bool:
    """Tell whether what is said of a base model is what its manifest tells."""
    told = (base.fingerprint, base.parameter_count, base.dtype)
    return told == (manifest.fingerprint, manifest.parameter_count, manifest.dtype)


def check_version(
    bundle: Bundle, version: AdapterVersion, manifest: Manifest, base: BaseModel
) -> None:
    """Check a version's files: what registering would refuse is refused here.

    Raises:
        InvalidPayload: They are damaged or unsafe, or not what the version says of them.
        IncompatibleBaseModel: They do not fit the base model.
        DigestMismatch: A file is corrupt or missing.
    """
    with tempfile.TemporaryDirectory(prefix="dovetail-import-") as scratch:
        for file in version.files:
            # Paths were checked when the document was read: each is the name of a known file.
            _copy(bundle, version, file, Path(scratch) / file.path)
        try:
            payload = read_payload(scratch)
            check_against_base(
                payload, manifest, hidden_size=base.hidden_size, model_type=base.model_type
            )
        except (InvalidPayload, IncompatibleBaseModel) as error:
            problem = str(error).replace(f"{scratch} ", "it ")
            raise type(error)(
                f"{version.reference} in the export: {problem}", **error.data
            ) from None
    told = (version.payload_digest, version.peft_type, version.parameter_count)
    same = told == (payload.digest, payload.peft_type, payload.parameter_count)
    if not same or canonical_json(dict(version.config)) != canonical_json(payload.config):
        refuse(f"{version.reference} is not what its files are")


def check_evaluation(bundle: Bundle, evaluation: Evaluation) -> None:
    """Check that the scores of each example are those of this evaluation.

    Raises:
        InvalidInput: They are of another one.
        DigestMismatch: They are corrupt or missing.
    """
    if evaluation.examples_digest is None or evaluation.n is None:
        return
    what = f"the evaluation of {evaluation.name or 'a base model'} on {evaluation.dataset_name}"
    data = bundle.read(evaluation.examples_digest, limit=MAX_EXAMPLES_BYTES, what=what)
    try:
        check_examples(data, n=evaluation.n, metrics=evaluation.scores)
    except InvalidInput as error:
        raise InvalidPayload(f"{what} in the export: {error}", **error.data) from error


def _copy(bundle: Bundle, version: AdapterVersion, file: StoredFile, target: Path) -> None:
    part = bundle.blob(file.digest)
    limits = Limits()
    limit = limits.weights_bytes if file.path == WEIGHTS_FILE else limits.other_bytes
    if part.size != file.size or part.size > limit:
        refuse(
            f"{file.path} of {version.reference} has {part.size:,} bytes; {file.size:,} are "
            f"recorded, and at most {limit:,} accepted"
        )
    with contextlib.closing(part.open()) as source, target.open("xb") as copy:
        found = copy_hashed(source, copy)
    require_digest(found, expected=file.digest, what=f"{file.path} of {version.reference}")
