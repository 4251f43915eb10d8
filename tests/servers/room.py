"""A room for a server: a temporary folder, the rights it runs with, its processes and its end."""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tenacity

_START_LIMIT_S = 60
_TRIES = 3  # another process may take a port between our finding it free and its use
_ROOMY = 4 << 30
_FIRST_PORT = 15_000
# Not the module's own generator: tests that train seed it, with the same number in each worker,
# and all workers would then choose the same ports.
_CHANCE = random.SystemRandom()
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="servers")


class ServerMissing(Exception):
    """This machine has neither a package nor a wheel with the server."""


class ServerFailed(RuntimeError):
    """A server did not start, or not stay."""


class Room:
    """A temporary folder, and the rights with which servers run in it.

    Args:
        own_rights: Run them with this process's rights, even if it is root's.
    """

    def __init__(self, *, own_rights=False):
        self._user = None if own_rights or os.geteuid() else pwd.getpwnam("nobody")
        self.folder = Path(tempfile.mkdtemp(prefix="dovetail-", dir=_parent_folder()))
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        # Reads until this process closes the pipe or is gone; then removes what servers that are
        # just being killed may still be writing.
        self._remover = subprocess.Popen(
            ["sh", "-c", 'read _; until rm -rf "$1"; do sleep 0.1; done', "sh", self.folder],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self):
        """Remove the folder."""
        self._remover.stdin.close()
        self._remover.wait()

    def run(self, *command):
        """Run a program to its end and return what it wrote."""
        try:
            return subprocess.run(
                self._words(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
                cwd=self.folder,
                timeout=_START_LIMIT_S,
                check=True,
            ).stdout
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise self.failure(f"{error}\n{error.output}") from error

    def start(self, *command, death=signal.SIGKILL, environment=None):
        """Start a server; `death` is the signal that it gets where this process is killed."""
        log = self.folder / f"{Path(command[0]).name}.log"
        with log.open("ab") as output:
            # To the kernel the parent is a thread: this one lives as long as the process does.
            return _STARTER.submit(
                subprocess.Popen,
                self._words(command, death),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environment, **(environment or {})},
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the test run, which stops its servers
            ).result()

    def wait(self, process, ready, *, limit_s=_START_LIMIT_S):
        """Wait until a server that was started is ready."""
        deadline = time.monotonic() + limit_s
        while not ready():
            if process.poll() is not None:
                raise self.failure(f"{process.args[-1]} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise self.failure(f"{process.args[-1]} is not ready after {limit_s} s")
            time.sleep(0.05)
        if process.poll() is not None:  # then it was somebody else on this port who answered
            raise self.failure(f"{process.args[-1]} ended with {process.returncode}")

    def failure(self, what):
        """Return an error that shows the end of every log."""
        logs = (
            f"--- {log.name}:\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.folder.glob("*.log"))
        )
        return ServerFailed("\n".join([what, *logs]))

    def executable(self, path, *, needs):
        """Give a program or a folder of them, copied to where the servers' user may run it.

        Args:
            path: The program or folder; given back as it is where that user can reach it.
            needs: What to copy else, things beside each other: the first has the path, all
                together have what it needs.
        """
        try:
            self.run("test", "-x", path)
        except ServerFailed:
            copy = self.folder / "programs"
            copy.mkdir()
            for needed in needs:
                take = shutil.copytree if needed.is_dir() else shutil.copy2
                take(needed, copy / needed.name)
            return copy / path.relative_to(needs[0].parent)
        return path

    @property
    def _environment(self):
        kept = {"PATH": f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin:/bin:/sbin"}
        return {**kept, "HOME": str(self.folder), "LC_ALL": "C"}

    def _words(self, command, death=signal.SIGKILL):
        words = ["setpriv", "--pdeathsig", signal.Signals(death).name]
        if self._user:
            words += ["--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid)]
            words += ["--clear-groups"]
        return [*words, *map(str, command)]


def _parent_folder():
    """Give the folder for temporary files that is quickest, has space, and all may enter."""
    for folder in map(Path, ("/dev/shm", tempfile.gettempdir(), "/tmp")):  # noqa: S108
        usable = folder.is_dir() and os.access(folder, os.W_OK)
        if usable and folder.stat().st_mode & 0o001 and shutil.disk_usage(folder).free > _ROOMY:
            return folder
    return None


def free_port():
    """Return a port of 127.0.0.1 that is free now.

    It lies below those that the kernel gives to outgoing connections: a client that tries again
    and again to reach a server that was killed could otherwise get connected to itself.
    """
    while True:
        port = _CHANCE.randrange(_FIRST_PORT, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def answers(port):
    """Tell whether somebody takes connections on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end(process, how=signal.SIGKILL):
    """End a process, if it runs, and wait for its end."""
    if process is not None and process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Server:
    """A server that starts in a room of its own: a context manager."""

    own_rights = False

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(ServerFailed),
        stop=tenacity.stop_after_attempt(_TRIES),
        reraise=True,
    )
    def __enter__(self):
        """Start it, on other ports if it fails: somebody else may have taken one meanwhile."""
        self.room = Room(own_rights=self.own_rights)
        try:
            self.port = free_port()
            self.prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        """Stop it and remove its files."""
        try:
            self.stop()
        finally:
            self.room.close()

    def prepare(self):
        """Make what it needs before its first start."""

    def start(self):
        """Start it and wait until it answers."""
        raise NotImplementedError

    def stop(self):
        """Stop it, if it runs."""
        raise NotImplementedError
