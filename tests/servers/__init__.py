"""Servers for the tests: PostgreSQL, three that speak S3, MLflow, each on a free loopback port.

They belong to the test run and end with it, even where it is killed: the kernel tells each server
that its parent is gone (`setpriv --pdeathsig`), and a shell that waits for the same removes the
files. PostgreSQL and Ceph refuse to be run by root; `nobody` runs them then.
"""

from .ceph import RadosGateway
from .mlflow import MlflowServer, ModelServer
from .postgres import PostgresServer
from .room import ServerFailed, ServerMissing
from .s3 import Bucket, MotoServer, RcloneServer

__all__ = [
    "Bucket",
    "MlflowServer",
    "ModelServer",
    "MotoServer",
    "PostgresServer",
    "RadosGateway",
    "RcloneServer",
    "ServerFailed",
    "ServerMissing",
]
