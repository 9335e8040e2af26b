"""Steps in an object store: the protocol of ``_directory`` without renames, links and locks.

Protocol (docs/checkpoints.md says why each step is there):

1. The shards and the index of a step are objects below ``step-STEP-RANDOM/``: names that no other save has. Shards of
   which nothing has changed are copied from the step before, within the store.
2. The manifest, ``step-STEP.manifest.json``, is written last, and only if there is none of that name: this is the
   commit. It says which folder is the step's. Readers see only what has a manifest.
3. One writer: whoever comes last. It writes its token into ``.writer.json``; one that finds another's there, before or
   after it has put a manifest, has lost the place: it takes its manifest back, and says so.
4. Deletion: the manifest first, then all folders of the step.
5. Litter: folders of steps without a manifest. The next writer removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from weightlift import _json
from weightlift._source import Source, open_in
from weightlift._urls import scheme_of
from weightlift.checkpoint._folders import JOB, Folder
from weightlift.checkpoint._manifest import INDEX, MAX_BYTES, Manifest
from weightlift.errors import FormatError, NotFoundError, StorageError, UnsupportedFeatureError, WeightliftError
from weightlift.stores._object import Bucket, ObjectStore

__all__ = ["SCHEMES", "ObjectDirectory", "ObjectFolder", "object_directory"]

SCHEMES = ("s3", "gs", "az")
_STEP = re.compile(r"step-(\d{8,18})\.manifest\.json")
_FOLDER = re.compile(r"step-(\d{8,18})-([0-9a-f]{8})")
_WRITER = ".writer.json"
_LIMIT = 1 << 20
_AT_ONCE = 8
"""Copies that the store makes for us at the same time."""


def object_directory(url: str, rank: int, store_options: Mapping[str, Any]) -> ObjectDirectory:
    """The steps below a URL; UnsupportedFeatureError for one that is no object store's."""
    if scheme_of(url) not in SCHEMES:
        raise UnsupportedFeatureError(
            f"checkpoints are kept in local directories and object stores ({', '.join(SCHEMES)}), not at {url!r}"
        )
    prefix = url.split("/", 3)[3].strip("/") if url.count("/") > 2 else ""
    return ObjectDirectory(Bucket(url, store_options), prefix, rank)


class ObjectFolder:
    """The objects below a prefix.

    Args:
        bucket: Where.
        prefix: Without a slash at its end.
    """

    shard = 32 << 20

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        """Asks nothing."""
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.name = prefix.rpartition("/")[2]
        self.store = ObjectStore(bucket, prefix)

    @property
    def url(self) -> str:
        """For messages, and to load from."""
        return self.store.url

    def put(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """By one request, after which it is durable."""
        self._bucket.put(self._prefix + name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """By one request, on condition."""
        return self._bucket.put(self._prefix + name, data, new=True)

    def read(self, name: str, most: int) -> bytes:
        """By one request."""
        return self._bucket.read(self._prefix + name, most)

    def sizes(self) -> dict[str, int]:
        """By a listing."""
        return {found.name: found.nbytes for found in self._bucket.listed(self._prefix)}

    def has(self, name: str) -> bool:
        """By a request."""
        return self.store.exists(name)

    def exists(self) -> bool:
        """Whether there is anything in it."""
        return next(iter(self._bucket.listed(self._prefix)), None) is not None

    def remove(self, names: Iterable[str]) -> None:
        """By one request for many."""
        self._bucket.delete([self._prefix + name for name in names])

    def take(self, source: Folder, names: Sequence[str]) -> set[str]:
        """By copies that the store makes."""
        if not isinstance(source, ObjectFolder):
            return set()
        prefix = source._prefix

        def copy(name: str) -> bool:
            try:
                self._bucket.copy(prefix + name, self._prefix + name)
            except StorageError:
                return False  # it is written instead
            return True

        with ThreadPoolExecutor(_AT_ONCE, "weightlift-copy") as pool:
            return {name for name, copied in zip(names, pool.map(copy, names), strict=True) if copied}

    def open(self, mode: str = "auto") -> Source:
        """The tensors that the index in it tells of."""
        return open_in(self.store, INDEX, url=f"{self.url}/{INDEX}")

    def clear(self) -> None:
        """Remove all that is in it."""
        self.remove(self.sizes())


class ObjectDirectory:
    """The steps below a prefix of a bucket.

    Args:
        bucket: Where.
        prefix: Without slashes around it; "" for the whole bucket.
        rank: Of this process, among those that write together; that of rank 0 commits and deletes.
    """

    pauses = 0.1, 2.0
    moves = False

    def __init__(self, bucket: Bucket, prefix: str, rank: int = 0) -> None:
        """Asks nothing yet."""
        self._bucket, self._rank = bucket, rank
        self._prefix = f"{prefix}/" if prefix else ""
        self.shared = ObjectFolder(bucket, prefix)
        self.hidden: list[str] = []
        self.token = secrets.token_hex(8)
        self._owned = False
        self._newest = -1
        self._replacing: dict[str, list[str]] = {}
        self._abandoned: list[Folder] = []
        self._known: dict[int, tuple[str, Manifest]] = {}

    # --- reading ----------------------------------------------------------------------------------
    @property
    def url(self) -> str:
        """What all names begin with."""
        return self.shared.url

    def exists(self) -> bool:
        """Whether there is anything."""
        return self.shared.exists()

    def steps(self) -> list[int]:
        """The committed steps, in order."""
        return sorted(self._look()[0])

    def newest(self) -> int:
        """The newest committed step, -1 where there is none; a writer knows it without a request."""
        return self._newest if self._owned else max([-1, *self.steps()])

    def folder(self, step: int) -> ObjectFolder:
        """The objects of a step; NotFoundError says which steps there are."""
        return self._folder(f"step-{step:08d}-{self.manifest(step).identity}")

    def manifest(self, step: int) -> Manifest:
        """The manifest of a step; FormatError when it is damaged, or is that of another step."""
        name = _manifest_name(step)
        url = f"{self.url}/{name}"
        try:
            tag = self._bucket.head(self._prefix + name)["e_tag"] or ""
            known = self._known.get(step)
            if known is not None and tag and known[0] == tag:
                return known[1]
            data = self.shared.read(name, MAX_BYTES)
        except NotFoundError:
            raise self._missing(step) from None
        try:
            manifest = Manifest.from_json(data)
        except WeightliftError as error:
            raise error.locate(url=url) from None
        if manifest.step != step:
            raise FormatError(f"the manifest is of step {manifest.step}, not of {step}", url=url)
        if not _FOLDER.fullmatch(f"step-{step:08d}-{manifest.identity}"):
            raise FormatError(f"the manifest names the save {manifest.identity[:40]!r}, which is none", url=url)
        self._known[step] = tag, manifest
        return manifest

    def _missing(self, step: int) -> NotFoundError:
        found = self.steps()
        there = ", ".join(map(str, found[-10:])) if found else "none"
        return NotFoundError(f"there is no step {step}; committed are {there}", url=self.url)

    def unique_bytes(self, step: int) -> int:
        """What deleting a step would free: all of it, as what has not changed is copied."""
        return sum(self.folder(step).sizes().values())

    def writing(self, step: int) -> list[ObjectFolder]:
        """Where a step is being written, or was when something crashed."""
        folders = [self._folder(name) for name in self._of(step)]
        return [folder for folder in folders if not self._is_committed(folder)]

    def litter(self) -> list[str]:
        """Folders of steps that have no manifest: they are being written, or were when something crashed.

        What an overwritten step has left goes when the step does: somebody may be about to name it.
        """
        steps, folders = self._look()
        return sorted(name for name in folders if int(name.split("-")[1]) not in steps)

    def _of(self, step: int) -> list[str]:
        """All folders of a step, committed or not."""
        return [name for name in self._look()[1] if name.startswith(f"step-{step:08d}-")]

    def locked_by(self, rank: int = 0) -> str | None:
        """Who writes, if that is this process: of others a store cannot tell whether they live."""
        return _myself() if self._owned and rank == self._rank else None

    def lost(self, rank: int) -> bool | None:
        """None: a store does not tell whether a process lives."""
        return None

    def writer(self) -> str | None:
        """The token of the one that was the last to become rank 0; None: nobody was."""
        return self._said().get("token")

    def _look(self) -> tuple[list[int], list[str]]:
        """The committed steps, and the folders."""
        folders, objects = self._bucket.beside(self._prefix)
        steps = [int(m[1]) for m in (_STEP.fullmatch(found.name) for found in objects) if m is not None]
        return steps, [name for name in folders if _FOLDER.fullmatch(name)]

    def _folder(self, name: str) -> ObjectFolder:
        return ObjectFolder(self._bucket, self._prefix + name)

    def _said(self) -> dict[str, str]:
        """What the writer says of itself."""
        with contextlib.suppress(NotFoundError, FormatError):
            said = _json.loads(self.shared.read(_WRITER, _LIMIT), what="the writer's name", max_bytes=_LIMIT)
            if isinstance(said, dict):
                return {str(key): str(value)[:200] for key, value in said.items()}
        return {}

    # --- writing ----------------------------------------------------------------------------------
    def lock(self) -> None:
        """Become the writer, and clear away what a crash left."""
        if self._rank or self._owned:
            return  # rank 0 speaks for all; whether it still has the place is seen at each commit
        self.shared.put(_WRITER, json.dumps({"who": _myself(), "token": self.token}).encode())
        self.collect()
        self.shared.remove(self.hidden)
        self._newest = max([-1, *self.steps()])
        self._owned = True

    def unlock(self) -> None:
        """Write no more. What says who was the last stays."""
        self._owned = False

    def _check_owner(self) -> None:
        """StorageError where another one has come since."""
        said = self._said()
        if said.get("token") != self.token:
            raise StorageError(
                f"another checkpointer writes here now: {said.get('who') or 'one that did not say which'}. Two jobs "
                "cannot share a place for checkpoints; give one of them another",
                url=self.url,
            )

    def collect(self) -> list[str]:
        """Remove litter; the names."""
        names = self.litter()
        for name in names:
            self._folder(name).clear()
        return names

    def begin(self, step: int) -> ObjectFolder:
        """A folder for a step that is being written."""
        while self._abandoned:
            self.abandon(self._abandoned.pop())
        made = self._folder(f"step-{step:08d}-{secrets.token_hex(4)}")
        if step <= self.newest():
            self._replacing[made.name] = self._of(step)
        return made

    def commit(self, made: Folder, manifest: Manifest) -> int:
        """Write the manifest of a step whose objects are all there; its bytes.

        StorageError where another checkpointer has taken the place, or has committed the same step.
        """
        text, step = manifest.to_json(), manifest.step
        self._check_owner()
        self._check_whole(made, manifest)
        old = self._replacing.pop(made.name, None)
        before = None if old is None else self.shared.read(_manifest_name(step), MAX_BYTES)
        self._put_manifest(step, text, made, new=old is None)
        if self._said_of_another():  # which may take our objects for litter, as it may not have seen the manifest
            self._withdraw(made, step, before)
            self._check_owner()
        self._newest = max(self._newest, step)
        for name in old or ():
            self._folder(name).clear()
        return len(text)

    def _withdraw(self, made: Folder, step: int, before: bytes | None) -> None:
        """Take a commit back; ``before``: the manifest that it has replaced."""
        if not self._is_committed(made):
            return
        if before is None:
            self.shared.remove([_manifest_name(step)])
        else:
            self.shared.put(_manifest_name(step), before)

    def _put_manifest(self, step: int, text: bytes, made: Folder, *, new: bool) -> None:
        name = _manifest_name(step)
        try:
            if not new:
                self.shared.put(name, text)
            elif not self.shared.put_new(name, text) and not self._is_committed(made):
                raise FileExistsError
        except FileExistsError:
            raise StorageError(f"another checkpointer has committed step {step}", url=f"{self.url}/{name}") from None
        except StorageError:
            if not self._is_committed(made):  # else it came through, and only the answer did not
                raise

    def _is_committed(self, made: Folder) -> bool:
        """Whether the manifest of its step names this folder."""
        match = _FOLDER.fullmatch(made.name)
        try:
            return match is not None and self.manifest(int(match[1])).identity == match[2]
        except (NotFoundError, FormatError):
            return False

    def _said_of_another(self) -> bool:
        """Whether it is seen that another one has come since."""
        try:
            return self._said().get("token") != self.token
        except StorageError:
            return False

    def _check_whole(self, made: Folder, manifest: Manifest) -> None:
        """All shards are there, and as long as they are said to be."""
        sizes = made.sizes()
        wanted = {name: file.nbytes for name, file in manifest.files.items()} | {INDEX: sizes.get(INDEX, -1)}
        for name, nbytes in wanted.items():
            if name not in sizes or sizes[name] != nbytes:
                found = "is gone" if name not in sizes else f"has {sizes[name]} bytes, not {nbytes}"
                raise StorageError(f"{name} {found}: nothing is committed", url=made.url)

    def became(self, made: Folder, step: int) -> bool | None:
        """Whether what was written in a folder is committed as this step; None: it is still being written."""
        if self._is_committed(made):
            return True
        return None if made.has(JOB) else False  # not whether it exists: who writes into it makes it anew

    def abandon(self, made: Folder) -> None:
        """Remove a step that could not be completed; not one of which that is not sure."""
        with contextlib.suppress(StorageError):
            if not self._is_committed(made):
                self._folder(made.name).clear()

    def abandon_later(self, made: Folder) -> None:
        """The same, once others have seen what became of it: when the next one is begun."""
        self._abandoned.append(made)

    def delete(self, step: int) -> None:
        """Remove a committed step."""
        if step not in self.steps():
            raise self._missing(step)
        gone = self._of(step)
        self.shared.remove([_manifest_name(step)])
        self._known.pop(step, None)
        for name in gone:
            self._folder(name).clear()
        self._newest = max([-1, *self.steps()])


def _manifest_name(step: int) -> str:
    return f"step-{step:08d}.manifest.json"


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
