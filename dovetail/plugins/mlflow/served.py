"""The MLflow model of a version, fetched through an MLflow server.

So a machine that has the server's URL, and neither a database nor an object store, gets adapters.
The server makes the model (`dovetail.plugins.mlflow.made`) and gives its files one by one, as it
does to the pages of MLflow; each is checked against the list in the MLmodel file, and that against
the digest under which the registry finds the version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, get_error_code
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from dovetail.errors import DigestMismatch, InvalidInput, StorageError
from dovetail.plugins.mlflow.contents import read_contents
from dovetail.plugins.mlflow.saved import FLAVOR_NAME, MODEL_FILE, parse_flavors
from dovetail.plugins.mlflow.whereabouts import SCHEME, shown
from dovetail.registry.payload import PayloadFile
from dovetail.registry.reference import Reference

_ENDPOINT = "/model-versions/get-artifact"
_MOST_BYTES = 16 * 2**20  # of an MLmodel file
_MOST_WORDS = 64 * 2**10  # of an error
_CHUNK = 2**20
_OK = 200


class ServedModel:
    """A version from the registry behind an MLflow server, as the files of an MLflow model.

    Args:
        server: The server's URL; credentials are those that MLflow's clients use.
        reference: Which version; an alias is looked up now.

    Attributes:
        sizes: Bytes of each file, by its path in the model.
        reference: The version, by its number.
        payload_digest: Digest of the adapter's files.

    Raises:
        MlflowException: The server refuses; with its code and its words.
        InvalidInput: What it gives is no model of a version.
        DigestMismatch: It gives a model that is not that of the version.
        StorageError: The connection broke.
    """

    sizes: Mapping[str, int]

    def __init__(self, server: str, reference: Reference) -> None:
        self._server = server
        self._client = MlflowClient(tracking_uri=server, registry_uri=server)
        self._name, self._number = reference.name, self._resolve(reference)
        self.reference = Reference(name=self._name, number=self._number)
        self._text = b"".join(self._chunks(MODEL_FILE, most=_MOST_BYTES))
        flavor = parse_flavors(self._text, what=f"the MLmodel of {self}").get(FLAVOR_NAME, {})
        self._files = read_contents(flavor, what=str(self))
        self.payload_digest: str = flavor["payload_digest"]
        self._check()
        self.sizes = {
            MODEL_FILE: len(self._text),
            **{file.path: file.size for file in self._files.values()},
        }

    def __str__(self) -> str:
        return str(self.reference)

    def write(self, path: str, to: str) -> None:
        """Fetch one of the files; what is not right leaves nothing behind.

        Args:
            path: Its path in the model.
            to: File to write.

        Raises:
            MlflowException: The server refuses; with its code and its words.
            DigestMismatch: What came is not what the list says.
            StorageError: The connection broke.
        """
        place = Path(to)
        if path == MODEL_FILE:  # the server makes another one each time
            place.write_bytes(self._text)
            return
        file = self._files[path]
        try:
            self._fetch(file, place)
        except BaseException:  # an interrupt, too, leaves no half a file
            place.unlink(missing_ok=True)
            raise

    def write_all(self, directory: Path) -> None:
        """Fetch all files into a directory that exists.

        Raises:
            MlflowException: As for `write`.
            DigestMismatch: As for `write`.
            StorageError: As for `write`.
        """
        for path in self.sizes:
            place = directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            self.write(path, str(place))

    def _fetch(self, file: PayloadFile, place: Path) -> None:
        state = hashlib.sha256()
        with place.open("wb") as target:
            for chunk in self._chunks(file.path, most=file.size):
                state.update(chunk)
                target.write(chunk)
        found = f"sha256:{state.hexdigest()}"
        if found != file.digest:
            raise DigestMismatch(
                f"{file.path} of {self} came corrupt: its bytes hash to {found}, and the list says "
                f"{file.digest}; try again, and if it stays so, run `dovetail verify` where the "
                "registry is",
                expected=file.digest,
                found=found,
            )

    def _resolve(self, reference: Reference) -> int:
        """Return the number of a version, and see that it is one of an adapter."""
        name, number = reference.name, reference.number
        with self._asking():
            if number is None:
                number = int(self._client.get_model_version_by_alias(name, reference.alias).version)
            place = self._client.get_model_version_download_uri(name, str(number))
        if not place.startswith(f"{SCHEME}:"):
            raise InvalidInput(
                f"{name}/{number} is no adapter of Dovetail's but another model; use "
                f"models:/{name}/{number}",
                name=name,
                number=number,
            )
        return number

    def _check(self) -> None:
        """See that the registry has this payload under this number."""
        digest = self.payload_digest
        same = f"name = '{self._name}' AND payload = '{digest}'"
        with self._asking():
            found = [int(one.version) for one in self._client.search_model_versions(same)]
        if self._number not in found:
            raise DigestMismatch(
                f"the server's files of {self} have the digest {digest}, and its registry says "
                "that the version has another; try again",
                found=digest,
            )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Say in the server's refusals which server it is."""
        try:
            yield
        except MlflowException as error:
            raise MlflowException(
                f"{error.message} (from the MLflow server at {shown(self._server)})",
                error_code=ErrorCode.Value(error.error_code),
            ) from error

    def _chunks(self, path: str, *, most: int) -> Iterator[bytes]:
        """Yield a file as it comes, and stop where it is larger than it may be."""
        response = http_request(
            get_default_host_creds(self._server),
            _ENDPOINT,
            "GET",
            params={"name": self._name, "version": str(self._number), "path": path},
            stream=True,
            raise_on_status=False,  # so that the server's words are read
        )
        with closing(response):
            if response.status_code != _OK:
                raise self._refused(path, response)
            size = 0
            for chunk in self._read(response, path):
                size += len(chunk)
                if size > most:
                    raise DigestMismatch(
                        f"{path} of {self} is larger than the {most:,} bytes that it may have; "
                        "try again",
                        limit=most,
                    )
                yield chunk

    def _read(self, response: Any, path: str, *, chunk: int = _CHUNK) -> Iterator[bytes]:
        try:
            yield from response.iter_content(chunk)
        except OSError as error:  # requests' errors are of this kind
            raise StorageError(
                f"the connection broke while {path} of {self} came; try again: {error}"
            ) from error

    def _refused(self, path: str, response: Any) -> MlflowException:
        body = self._read(response, path, chunk=_MOST_WORDS)
        text = next(body, b"").decode(errors="replace").strip()
        code, words = get_error_code(response.status_code), text[:1000]
        with suppress(ValueError, KeyError, TypeError):  # a proxy's page, or no words at all
            said = json.loads(text)
            code, words = ErrorCode.Value(said["error_code"]), str(said["message"])
        status = f"status {response.status_code} {response.reason or ''}".strip()
        return MlflowException(
            f"the MLflow server at {shown(self._server)} does not give {path} of {self}: {words} "
            f"({status})",
            error_code=code,
        )
