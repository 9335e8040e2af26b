"""Errors as HTTP has them: a status, and a JSON body that says what was wrong."""

from __future__ import annotations

import errno
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from weightlift import errors

__all__ = ["HTTPException", "error_response", "status_of", "told"]

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotFoundError, 404),
    (errors.AccessError, 403),
    (errors.QuotaError, 507),
    (errors.ChangedError, 409),
    (errors.TruncatedError, 422),
    (errors.UnsafeContentError, 400),  # before what it is a case of
    (errors.FormatError, 422),
    (errors.MismatchError, 422),
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def status_of(error: Exception) -> int:
    """The status that stands for an error of the library or of the system."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return 507
    return 403 if number in (errno.EACCES, errno.EPERM, errno.EROFS) else 500


def told(error: Exception, root: Path) -> str:
    """What a client may know of an error: all but where on this machine the directory is."""
    if isinstance(error, errors.WeightliftError):
        place = [] if error.tensor is None else [f"tensor {error.tensor!r}"]
        if error.offset is not None:
            place.append(f"byte {error.offset}" if error.end is None else f"bytes {error.offset}-{error.end}")
        text = f"{error.message} [{', '.join(place)}]" if place else error.message
    elif isinstance(error, OSError):
        text = error.strerror or "the storage failed"
    else:
        text = "an internal error; the server's log says more"
    return text.replace(f"{root}/", "").replace(str(root), ".")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """``{"error": message}``."""
    return JSONResponse({"error": message}, status, {"Cache-Control": "no-store", **(headers or {})})
