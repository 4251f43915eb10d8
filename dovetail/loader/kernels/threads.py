"""Run compiled loops on the threads that torch computes with.

Threads of another pool would have to wait for processors: torch's keep theirs busy for a while
after each operator. So the loops are given to torch's OpenMP library, by the function that
compilers call for a parallel region (``GOMP_parallel``; LLVM's and Intel's libraries have it, too).
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)


def run(loop: int, arguments: ctypes.Structure) -> None:
    """Run a function on each of torch's threads at once, and wait for all.

    The threads share the work among themselves, by tickets from a counter in the arguments.

    Args:
        loop: Address of a compiled function of one pointer.
        arguments: What it is given.
    """
    fork = _fork()
    if fork is None:
        call(loop, arguments)
    else:
        fork(loop, ctypes.byref(arguments), torch.get_num_threads(), 0)


def call(loop: int, arguments: ctypes.Structure) -> None:
    """Run it on this thread alone, which then does all the work."""
    _LOOP(loop)(ctypes.addressof(arguments))


_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _fork() -> Any:
    # Found through torch's own library: there may be several of OpenMP in a process.
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        fork = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError) as error:
        logger.info("compiled loops run on one thread: %s", error)
        return None
    fork.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    fork.restype = None
    return fork
