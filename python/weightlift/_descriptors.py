"""How many files this process may have open.

A model may lie in thousands of files: TensorFlow.js's shards have 4 MiB. Most systems allow a process 1,024 open files
at first and many more on request.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

from weightlift.errors import StorageError

__all__ = ["with_more_descriptors"]

T = TypeVar("T")


def with_more_descriptors(function: Callable[[], T]) -> T:
    """Call a function that opens files; where they are too many, again under a higher limit, if there may be one.

    Raises:
        StorageError: It allows no more; says what to do.
    """
    try:
        return function()
    except StorageError as error:
        if error.errno != errno.EMFILE:
            raise
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            more = 4 * soft if hard == resource.RLIM_INFINITY else min(4 * soft, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            return with_more_descriptors(function)
        raise StorageError(
            f"too many open files: the limit is {hard}; raise it (ulimit -n), or keep the model in fewer files",
            path=error.path,
            errno=errno.EMFILE,
        ) from error
