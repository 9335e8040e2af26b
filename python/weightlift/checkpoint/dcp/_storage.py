"""The two classes that ``torch.distributed.checkpoint`` calls; what they do is in ``_plans`` and ``_target``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from weightlift._urls import as_text, is_file, local_path, scheme_of
from weightlift.checkpoint._object_directory import SCHEMES
from weightlift.checkpoint.dcp import _plans as plans
from weightlift.checkpoint.dcp._staging import TorchStaging
from weightlift.checkpoint.dcp._target import Target, target_at
from weightlift.errors import UnsupportedFeatureError

__all__ = ["WeightliftReader", "WeightliftWriter"]


class _AtPath:
    """What a writer and a reader say of their place."""

    _place: str
    _store_options: dict[str, Any]

    @property
    def checkpoint_id(self) -> str:
        """The path, or the URL."""
        return self._place

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether checkpoints can be kept there."""
        return is_file(checkpoint_id) or scheme_of(checkpoint_id) in SCHEMES

    def _at(self, place: str | os.PathLike[str]) -> None:
        """Use another place; UnsupportedFeatureError."""
        self._place = str(local_path(place)) if is_file(place) else as_text(place)
        target_at(self._place, self._store_options)


class WeightliftWriter(_AtPath, StorageWriter):
    """A ``StorageWriter`` for ``torch.distributed.checkpoint.save`` and ``async_save``.

    With ``async_save`` it is the stager, too: the state is copied into memory that is used again for the next save, so
    keep the writer, and give each save its ``checkpoint_id``.

    Args:
        path: The directory of the checkpoint, or a ``file://`` URL; or what begins the names of its objects:
            ``s3://bucket/run/100``, ``gs://...``, ``az://...``. ``checkpoint_id`` of a save takes its place.
        overwrite: Whether a checkpoint that is there may be replaced. A directory with anything else in it never is.
        bandwidth: Bytes a second that each process writes at most; None: as fast as it goes.
        metadata: Put into the manifest; JSON.
        store_options: As :func:`weightlift.load` takes them for ``path``.

    Raises:
        UnsupportedFeatureError: No checkpoints can be kept at ``path``; when saving: something in the state is
            neither a tensor nor a plain value (see :func:`weightlift.checkpoint.register_encoder`).
        StorageError: When saving: there is a checkpoint, or something else.

    Example:
        >>> import torch, torch.distributed.checkpoint as dcp
        >>> from weightlift.checkpoint.dcp import WeightliftReader, WeightliftWriter
        >>> state = {"w": torch.arange(4.0), "step": 3}
        >>> _ = dcp.save(state, storage_writer=WeightliftWriter("ckpt/3"), no_dist=True)
        >>> clone = {"w": torch.zeros(4), "step": 0}
        >>> dcp.load(clone, storage_reader=WeightliftReader("ckpt/3"), no_dist=True)
        >>> clone
        {'w': tensor([0., 1., 2., 3.]), 'step': 3}
    """

    _synchronize_after_execute = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = True,
        bandwidth: float | None = None,
        metadata: dict[str, Any] | None = None,
        store_options: Mapping[str, Any] | None = None,
    ) -> None:
        """See the class."""
        self._store_options = dict(store_options or {})
        self._at(path)
        self._overwrite, self._bandwidth, self._metadata = overwrite, bandwidth, dict(metadata or {})
        self._staging: TorchStaging | None = None
        self._current: Target | None = None
        self._rank = 0
        self._save_id = plans.new_id()

    # --- a save, in the order of the calls --------------------------------------------------------
    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new save begins, to another path if one is given."""
        if checkpoint_id:
            self._at(checkpoint_id)
        self._save_id = plans.new_id()
        self._current = None

    def storage_meta(self) -> StorageMeta:
        """Which save it is."""
        return StorageMeta(checkpoint_id=self._place, save_id=self._save_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Take note of which process this is."""
        if not kwargs.get("use_collectives", True):
            raise UnsupportedFeatureError(
                "use_collectives=False: a checkpoint is committed by one process once all have written"
            )
        rank = kwargs.get("rank")
        self._rank = plans.process_number() if rank is None else int(rank)
        self._current = target_at(self._place, self._store_options, overwrite=self._overwrite)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The plans as they are; the coordinator makes the directory that all write into."""
        self._target.begin()
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write what the plan says, durably."""
        written: Future[list[WriteResult]] = Future()
        written.set_result(plans.write(self._target, plan, planner, rank=self._rank, bandwidth=self._bandwidth))
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index and the manifest, and with it commit the checkpoint."""
        metadata.storage_meta = self.storage_meta()
        plans.finish(self._target, metadata, results, self._metadata)

    # --- a stager for async_save ------------------------------------------------------------------
    @property
    def should_synchronize_after_execute(self) -> bool:
        """No: ``stage`` returns when all is copied."""
        return self._synchronize_after_execute

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy of a state in memory of its own, on the CPU."""
        if self._staging is None:
            self._staging = TorchStaging()
        return self._staging.stage(state_dict)

    def synchronize_staging(self) -> None:
        """Nothing is left to wait for."""

    def close(self) -> None:
        """Give the staging memory back."""
        if self._staging is not None:
            self._staging.close()
            self._staging = None

    # --- what else is asked -----------------------------------------------------------------------
    @property
    def _target(self) -> Target:
        assert self._current is not None, "set_up_storage_writer comes first"
        return self._current

    def __getstate__(self) -> dict[str, Any]:
        """For ``async_save`` by a process: memory and locks stay where they are."""
        return {**self.__dict__, "_staging": None, "_current": None}


class WeightliftReader(_AtPath, StorageReader):
    """A ``StorageReader`` for ``torch.distributed.checkpoint.load``: of what a ``WeightliftWriter`` wrote.

    Steps of a :class:`weightlift.checkpoint.Checkpointer` are read, too. Each process reads the bytes that it needs,
    straight into its tensors if they are on the CPU; a piece that is needed whole is compared with its checksum.

    Args:
        path: The directory, or a URL, as of the writer; of a Checkpointer's steps in an object store
            ``s3://bucket/run/step-00000100``. ``checkpoint_id`` of a load takes its place.
        verify: Compare checksums.
        store_options: As :func:`weightlift.load` takes them for ``path``.

    Raises:
        NotFoundError, FormatError, ChecksumError: When loading: there is no checkpoint, or it is damaged.

    Example:
        >>> import numpy as np, torch, torch.distributed.checkpoint as dcp, weightlift as wl
        >>> from weightlift.checkpoint.dcp import WeightliftReader
        >>> with wl.checkpoint.Checkpointer("steps") as checkpointer:
        ...     _ = checkpointer.save(1, {"w": np.ones(2, np.float32)}, blocking=True)
        >>> state = {"w": torch.zeros(2)}
        >>> dcp.load(state, storage_reader=WeightliftReader("steps/step-00000001"), no_dist=True)
        >>> state
        {'w': tensor([1., 1.])}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        verify: bool = True,
        store_options: Mapping[str, Any] | None = None,
    ) -> None:
        """See the class."""
        self._store_options = dict(store_options or {})
        self._at(path)
        self._verify = verify
        self._load_id = plans.new_id()
        self._opened: plans.Opened | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A new load begins, of another path if one is given."""
        if checkpoint_id:
            self._at(checkpoint_id)
        self._load_id = plans.new_id()
        self._opened = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint holds."""
        self._opened = plans.opened(target_at(self._place, self._store_options))
        metadata = self._opened.metadata
        metadata.storage_meta = StorageMeta(checkpoint_id=self._place, load_id=self._load_id)
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Open the checkpoint, if that has not been done."""
        if self._opened is None:
            self._opened = plans.opened(target_at(self._place, self._store_options))

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what the plan says."""
        assert self._opened is not None, "read_metadata comes first"
        tensors = [item for item in plan.items if item.type == LoadItemType.TENSOR]
        plans.read_tensors(self._opened, tensors, planner, verify=self._verify)
        plans.read_values(self._opened, [item for item in plan.items if item.type == LoadItemType.BYTE_IO], planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done
