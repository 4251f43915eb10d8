"""Processes that are killed at one of their steps; `tests/conftest.py` gives this as a fixture."""

import itertools
import os
import signal
import sys

import alembic.command  # noqa: F401 (imported once here, and not in every process that is killed)
from sqlalchemy import event

from dovetail.registry.database import Database
from dovetail.registry.objects import open_object_store
from dovetail.registry.store import Registry
from dovetail.settings import Settings

KILLED = -signal.SIGKILL
_LEEWAY = 10
_CHANGES = {"os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}


class Steps:
    """Counts the steps of this process and its threads, and kills it at one of them.

    Args:
        deadly: The number of the step that it does not survive.
    """

    def __init__(self, deadly):
        self._numbers = itertools.count(1)
        self._deadly = deadly

    def __call__(self, *_):
        """Take a step."""
        if next(self._numbers) == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    @property
    def taken(self):
        """How many steps there were; ask when all are taken."""
        return next(self._numbers) - 1

    def watch(self, engine):
        """Take a step before each SQL statement and each end of a transaction."""
        for moment in ("before_cursor_execute", "commit", "rollback"):
            event.listen(engine, moment, self)

    def watch_process(self):
        """Take a step before each change of a file and each piece of an HTTP request.

        Wherever in the code it is made: Python itself reports them.
        """
        sys.addaudithook(lambda name, given: self() if _is_step(name, given) else None)


class SteppingStore:
    """An object store, with a step before and after each call."""

    def __init__(self, store, step):
        self._store = store
        self._step = step

    def __getattr__(self, name):
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def call(*arguments, **options):
            self._step()
            result = value(*arguments, **options)
            self._step()
            return result

        return call


def act(place, action, step):
    """Open a registry and do something with it, taking steps."""
    settings = Settings(
        database_url=place.urls[0], objects_url=place.urls[1], cache_dir=place.cache, actor="ann"
    )
    database = Database(settings.database_url)
    step.watch(database.engine)
    step.watch_process()
    database.prepare()
    objects = SteppingStore(open_object_store(settings.objects_url), step)
    with Registry(database, objects, settings) as registry:
        action(registry)
        step()


def kill_at_every_step(children, prepare, action):
    """Run an action in one process after another, each killed one step later.

    The steps are counted first, in a process that lives. Yield 0 for it, and then the number of
    each step that killed. It ends with the process that had no such step: so no step is left out
    even if threads meet differently from time to time, and take one more or less.

    Args:
        children: Runs the processes.
        prepare: Called before each of them.
        action: Called with the `Steps` to take.
    """

    def run(deadly):
        step = Steps(deadly)
        action(step)
        step()
        return step.taken

    prepare()
    counted = children.run(lambda: run(0))
    assert counted.code == 0, counted
    yield 0
    for deadly in itertools.count(1):
        prepare()
        child = children.run(lambda deadly=deadly: run(deadly))
        if child.code == 0:
            assert abs(child.result - counted.result) < _LEEWAY, (child, counted)
            return
        assert child.code == KILLED, (deadly, child)
        yield deadly


def _is_step(name, given):
    if name == "open":
        return isinstance(given[2], int) and bool(given[2] & os.O_ACCMODE)
    return name in _CHANGES or name == "http.client.send"
