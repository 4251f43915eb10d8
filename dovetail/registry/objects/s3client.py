"""A client of boto3 that is made when it is needed, and what its errors mean."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dovetail.errors import MissingDependency, StorageError
from dovetail.settings import S3Settings

if TYPE_CHECKING:
    from tenacity import Retrying

PART_BYTES = 8 << 20
"""Size of a part of an upload, and of a range of a download."""

CONCURRENCY = 8
"""How many parts of one blob move at once, and how many of all blobs a process keeps in memory."""

NOT_FOUND, CONFLICT, PRECONDITION_FAILED, NOT_SATISFIABLE = 404, 409, 412, 416

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_RETRIES, _SHORTEST_WAIT_S, _LONGEST_WAIT_S = 6, 0.05, 2.0
_CONNECTIONS = 4 * CONCURRENCY

_ADVICE = {
    "NoSuchBucket": "create the bucket, or set DOVETAIL_OBJECTS_URL to another",
    "InvalidBucketName": "set DOVETAIL_OBJECTS_URL to s3://BUCKET/PREFIX",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, or the profile that is used",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY, and DOVETAIL_S3_REGION",
    "ExpiredToken": "sign in again: the credentials have expired",
    "RequestTimeTooSkewed": "set this machine's clock",
    "AuthorizationHeaderMalformed": "set DOVETAIL_S3_REGION to the bucket's region",
    "PermanentRedirect": "set DOVETAIL_S3_REGION to the bucket's region",
    "SlowDown": "the server is overloaded; try again later",
    "QuotaExceeded": "make room on the server",
    "EntityTooLarge": "the server takes no blob of this size",
}
_ADVICE_BY_STATUS = {
    CONFLICT: "somebody else is writing it; try again",
    301: _ADVICE["PermanentRedirect"],
    403: "check the credentials, and that they may read, write, list and delete in this bucket",
    501: "set DOVETAIL_S3_CHECKSUMS=when_required, which more servers understand",
    503: _ADVICE["SlowDown"],
    507: _ADVICE["QuotaExceeded"],
}


@dataclass(frozen=True, slots=True)
class Connection:
    """What one process shares between its threads: the client, and room for parts in memory."""

    client: Any
    slots: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(CONCURRENCY)
    )
    pid: int = field(default_factory=os.getpid)


class S3Client:
    """A bucket on a server, connected to when first used, again in each forked process.

    Args:
        bucket: The bucket's name.
        url: What to call the store in messages.
        settings: How to talk to the server.

    Raises:
        MissingDependency: boto3 is not installed.
    """

    def __init__(self, bucket: str, *, url: str, settings: S3Settings) -> None:
        self.bucket = bucket
        self.url = url
        self.settings = settings
        self.checksums = settings.checksums == "when_supported"
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._bucket_is_there = False
        if importlib.util.find_spec("boto3") is None:
            raise MissingDependency(
                "objects in S3 need boto3; install it with: pip install 'dovetail[s3]'",
                name="boto3",
            )

    @property
    def connection(self) -> Connection:
        """What this process shares between its threads."""
        if self._pid != os.getpid():  # forked: another thread may have held the lock
            self._pid, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            if self._connection is None or self._connection.pid != os.getpid():
                self._connection = Connection(_make_client(self.settings))
            return self._connection

    def call(self, operation: str, key: str | None = None, **arguments: Any) -> Any:
        """Call an operation on the bucket, or on one key of it."""
        if key is not None:
            arguments["Key"] = key
        return getattr(self.connection.client, operation)(Bucket=self.bucket, **arguments)

    def pages(self, operation: str, **arguments: Any) -> Iterator[Any]:
        """Go through the pages of a listing."""
        paginator = self.connection.client.get_paginator(operation)
        yield from paginator.paginate(Bucket=self.bucket, **arguments)

    def require_bucket(self) -> None:
        """Check that the bucket is there: else everything in it seems to be missing.

        Raises:
            StorageError: It is not.
        """
        from botocore.exceptions import ClientError

        if self._bucket_is_there:
            return
        try:
            self.call("head_bucket")
        except ClientError as error:
            if status_of(error) == NOT_FOUND:
                raise StorageError(
                    f"cannot read the object store {self.url}: there is no bucket {self.bucket!r}; "
                    f"{_ADVICE['NoSuchBucket']}",
                    url=self.url,
                ) from error
        self._bucket_is_there = True

    @contextmanager
    def errors(self, verb: str) -> Iterator[None]:
        """Raise what goes wrong with the server as `StorageError`."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError, OSError) as error:
            server = self.settings.endpoint_url
            raise StorageError(
                f"cannot {verb} the object store {self.url}{f' at {server}' if server else ''}: "
                f"{_reason(error)}; {_advice(error)}",
                url=self.url,
                endpoint_url=server,
            ) from error


def code_of(error: BaseException) -> str:
    """Return what the server calls an error; the HTTP status where it says nothing."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error, or None if the server did not answer."""
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def retrying(retry: Callable[[BaseException], bool]) -> Retrying:
    """Return what calls a function again, a little later each time, after some errors."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    return Retrying(
        stop=stop_after_attempt(_RETRIES),
        wait=wait_random_exponential(multiplier=_SHORTEST_WAIT_S, max=_LONGEST_WAIT_S),
        retry=retry_if_exception(retry),
        reraise=True,
    )


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None) or {}
    text = response.get("Error", {}).get("Message") or str(error)
    return " ".join(str(text).split()).rstrip(".")


def _advice(error: Exception) -> str:
    from botocore import exceptions

    credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
    )
    if isinstance(error, credentials):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, exceptions.SSLError):
        return "set AWS_CA_BUNDLE to the certificates that the server's was signed with"
    if status := status_of(error):
        advice = _ADVICE.get(code_of(error)) or _ADVICE_BY_STATUS.get(status)
        return advice or "try again; if it stays, look into the server's log"
    return "check that the server runs and can be reached, and DOVETAIL_S3_ENDPOINT_URL"


def _make_client(settings: S3Settings) -> Any:
    import boto3
    from botocore.config import Config

    style = {"auto": "auto", "true": "path", "false": "virtual"}[settings.path_style]
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard"},  # AWS_MAX_ATTEMPTS says how often
        max_pool_connections=_CONNECTIONS,
        request_checksum_calculation=settings.checksums,
        response_checksum_validation="when_required",  # the SHA-256 of all bytes is checked
        # Where nothing encrypts the bytes on their way, the signature covers them: botocore sees to
        # that, and the server finds what was changed.
        s3={"addressing_style": style},
    )
    # A session of its own: the default one is not safe to share between threads.
    return boto3.session.Session().client(
        "s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config
    )
