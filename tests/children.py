"""Functions in processes of their own; `tests/conftest.py` gives them as a fixture."""

import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass

_NOBODY = 65534
_LIMIT_S = 300  # a child that waits for what never comes ends by itself


@dataclass(frozen=True)
class Child:
    """What became of a forked process: what it returned, its exit code or the signal."""

    result: object
    code: int


class Children:
    """Functions that run in forked processes, which may be killed or given fewer rights.

    No connection to a database may be open when a process is forked: SQLite forbids it.
    """

    def __init__(self, folder):
        self._folder = folder
        self._count = 0

    @staticmethod
    def become_nobody():
        """Give up root's power to write anywhere; everybody else is somebody without it already."""
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)

    def run(self, function: Callable[[], object]):
        """Run one function in a process of its own."""
        return self.run_all([function])[0]

    def run_all(self, functions, *, meanwhile=None):
        """Run functions at once, each in its own process, released at the same moment.

        Args:
            functions: What to run.
            meanwhile: Called in this process while they run.
        """
        reader, writer = os.pipe()
        started = []
        for function in functions:
            self._count += 1
            answer = self._folder / f"answer-{self._count}"
            descriptor = os.open(answer, os.O_RDWR | os.O_CREAT, 0o666)
            started.append((self._fork(function, descriptor, reader, writer), answer))
            os.close(descriptor)
        os.close(reader)
        os.close(writer)  # everybody waits for the end of this pipe
        try:
            if meanwhile:
                meanwhile()
        except BaseException:
            for pid, _ in started:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            finished = [self._wait(pid, answer) for pid, answer in started]
        return finished

    def _fork(self, function, descriptor, reader, writer):
        with warnings.catch_warnings():
            # From Python 3.12 on, for the threads of numpy's linear algebra.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(_LIMIT_S)
            os.close(writer)
            os.read(reader, 1)
            os.write(descriptor, json.dumps(function()).encode())
        except BaseException:  # noqa: BLE001 (a child must never get back into pytest)
            os.write(descriptor, json.dumps({"traceback": traceback.format_exc()}).encode())
            os._exit(1)
        os._exit(0)

    def _wait(self, pid, answer):
        _, status = os.waitpid(pid, 0)
        text = answer.read_text()
        answer.unlink()
        return Child(json.loads(text) if text else None, os.waitstatus_to_exitcode(status))
