"""Copies of torch's states in memory that is used again: the stager of ``async_save``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from weightlift._arrays import as_array
from weightlift.checkpoint._snapshot import Staging
from weightlift.frameworks._torch_device import on_device

__all__ = ["TorchStaging"]


class TorchStaging:
    """Makes copies of states on the CPU; tensors that are one memory stay one."""

    def __init__(self) -> None:
        """Empty."""
        self._staging = Staging()

    def stage(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with copies of its tensors; of DTensors the local part is copied. Other values are the same."""
        found: list[torch.Tensor] = []
        _walk(state, found.append)
        arrays = [as_array(tensor) for tensor in self._staging.fetched(found)]
        copied = self._staging.snapshot(arrays, [on_device(tensor) for tensor in found])
        copies = iter(
            torch.from_numpy(_plain(copy)).view(tensor.dtype) for copy, tensor in zip(copied, found, strict=True)
        )
        made: dict[str, Any] = _walk(state, lambda _: next(copies))
        return made

    def close(self) -> None:
        """Give the memory back."""
        self._staging.close()


def _plain(array: Any) -> Any:
    """A type that torch takes from NumPy, of the same size."""
    return array if array.dtype.isbuiltin == 1 else array.view(f"i{array.dtype.itemsize}")


def _walk(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A container with each tensor changed, in the same order each time."""
    if isinstance(value, torch.Tensor):
        return _changed(value, change)
    if isinstance(value, Mapping):
        return {key: _walk(item, change) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_walk(item, change) for item in value])
    return value


def _changed(tensor: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    if hasattr(tensor, "device_mesh") and hasattr(tensor, "to_local"):
        whole = tensor.detach()
        local = change(whole.to_local())
        if not isinstance(local, torch.Tensor):
            return None
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            local, tensor.device_mesh, tensor.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
    return change(tensor.detach())
