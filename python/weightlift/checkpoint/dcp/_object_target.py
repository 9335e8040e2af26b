"""One checkpoint in an object store: the only step, of number 0, of a place of its own (see ``_object_directory``).

So the protocol is that of a Checkpointer's steps: shards and index below ``URL/step-00000000-RANDOM/``, and last, on
condition, ``URL/step-00000000.manifest.json``. The process that begins has put its token into ``URL/.writer.json`` and
into the folder; by it the others find the folder, once torch has told them to write.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from weightlift import _json
from weightlift.checkpoint._folders import JOB, Folder, identity_of
from weightlift.checkpoint._manifest import Manifest
from weightlift.checkpoint._object_directory import ObjectDirectory, object_directory
from weightlift.errors import FormatError, NotFoundError, StorageError

__all__ = ["TargetObjects"]

_ONLY = 0
_STEP = re.compile(r"step-(\d{8,18})")
_LIMIT = 1 << 16


class TargetObjects:
    """The objects below a URL.

    Args:
        url: What their names begin with.
        store_options: As :func:`weightlift.load` takes them.
        overwrite: Whether a checkpoint that is there may be replaced.

    Raises:
        UnsupportedFeatureError: It is no object store's.
    """

    def __init__(self, url: str, store_options: Mapping[str, Any], *, overwrite: bool = True) -> None:
        """See the class."""
        self._url, self._options, self._overwrite = url.rstrip("/"), store_options, overwrite
        self._directory = object_directory(self._url, 0, store_options)
        self._made: Folder | None = None

    @property
    def made(self) -> Folder:
        """The folder that this process has begun, or another one of its job."""
        if self._made is None:
            self._made = self._found()
        return self._made

    @property
    def identity(self) -> str:
        """See ``ObjectDirectory``."""
        return identity_of(self.made)

    def label(self, rank: int) -> str:
        """By no other save's names: nothing keeps another job from writing into the same folder, by mistake."""
        return f"r{rank:05d}-{secrets.token_hex(4)}-"

    def begin(self) -> None:
        """Become the writer, and say where to write."""
        directory = self._directory
        directory.lock()
        if directory.steps() and not self._overwrite:
            raise StorageError("there is a checkpoint; overwrite=True replaces it", url=self._url)
        self._made = directory.begin(_ONLY)
        self._made.put(JOB, json.dumps({"writer": directory.token}).encode())

    def commit(self, manifest: Manifest) -> None:
        """See that all is there, and put the manifest."""
        self._directory.commit(self.made, manifest)
        with contextlib.suppress(StorageError):  # it is committed
            self.made.remove([JOB])

    def current(self) -> tuple[Folder, Manifest]:
        """The only step of this place, or one of a Checkpointer's that the URL names."""
        match = _STEP.fullmatch(self._url.rpartition("/")[2])
        places = [(self._directory, _ONLY)]
        if match is not None:
            places.append((object_directory(self._url.rpartition("/")[0], 0, self._options), int(match[1])))
        for directory, step in places:
            with contextlib.suppress(NotFoundError):
                manifest = directory.manifest(step)
                return directory.folder(step), manifest
        raise NotFoundError(f"there is no checkpoint{_hint(self._directory)}", url=self._url)

    def _found(self) -> Folder:
        token = self._directory.writer()
        for folder in self._directory.writing(_ONLY):
            with contextlib.suppress(NotFoundError, FormatError):
                job = _json.loads(folder.read(JOB, _LIMIT), what=JOB, max_bytes=_LIMIT)
                if isinstance(job, dict) and job.get("writer") == token:
                    return folder
        raise StorageError("another job is writing a checkpoint of this name", url=self._url)


def _hint(directory: ObjectDirectory) -> str:
    steps = directory.steps()
    return f": these are steps of a Checkpointer; name one, .../step-{steps[-1]:08d}" if steps else ""
