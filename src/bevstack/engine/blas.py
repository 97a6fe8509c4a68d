"""numpy's matrix products on one thread each, where our own threads share the work."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

_NAMES = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def one_thread() -> bool:
    """Tells numpy's OpenBLAS to use one thread in this process; False if it is another library, which is left as it is.

    The products are small and many: threads of the library would wait for each other longer than they work, and beside other
    networks they would take cores that nobody gave them.
    """
    package = Path(np.__file__).parent
    for library in sorted([*package.glob(".dylibs/*openblas*"), *package.parent.glob("numpy.libs/*openblas*")]):
        try:
            loaded = ctypes.CDLL(str(library))  # the copy that numpy has loaded: same file, same handle
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(loaded, name):
                getattr(loaded, name)(ctypes.c_int(1))
                return True
    return False
