"""Live torch objects: modules, optimizers, and whatever else has a ``state_dict``.

A module whose ``load_state_dict`` is torch's own, without hooks, is :class:`~weightlift.protocols.LiveTensors`: values
are read straight into its parameters. Any other module gets a dict of tensors, by its own ``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from weightlift._arrays import as_array
from weightlift._dtypes import DTYPES
from weightlift.errors import MismatchError, UnsupportedFeatureError
from weightlift.frameworks._holder import StateHolder, is_state_holder, mismatch
from weightlift.frameworks._tensors import to_torch
from weightlift.frameworks._torch_device import identity
from weightlift.protocols import LiveTensors, LiveTree, Slot

if TYPE_CHECKING:
    import torch

__all__ = ["adapt", "fill_tensor", "slot_of", "touch"]

Array = npt.NDArray[Any]

_LIKE_PARAMETER = {
    "acc_delta", "exp_avg", "exp_avg_sq", "exp_inf", "grad_avg", "max_exp_avg_sq", "momentum_buffer", "prev",
    "square_avg", "sum",
}  # fmt: skip
"""Entries of optimizers' states that have the shape of the parameter they belong to."""


def adapt(obj: Any) -> LiveTensors | LiveTree | None:
    """The adapter of a torch object; None for tensors, and for what has no state."""
    import torch

    if isinstance(obj, torch.nn.Module):
        return _Module(obj) if _is_plain(obj) else _HookedModule(obj)
    if isinstance(obj, torch.optim.Optimizer):
        return _Optimizer(obj)
    return StateHolder(obj) if is_state_holder(obj) else None


def _is_plain(net: torch.nn.Module) -> bool:
    """Whether loading into a module is what torch does by itself: names to tensors, and nothing else."""
    from torch.nn import Module
    from torch.nn.modules import batchnorm, instancenorm

    for part in net.modules():
        kind = type(part)
        hooks = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")
        if any(getattr(part, name, None) for name in (*hooks, "_load_state_dict_post_hooks")):
            return False
        own = [name for name in ("state_dict", "load_state_dict", "_save_to_state_dict", "get_extra_state")
               if getattr(kind, name) is not getattr(Module, name)]  # fmt: skip
        load = kind._load_from_state_dict
        norms = (batchnorm._NormBase._load_from_state_dict, instancenorm._InstanceNorm._load_from_state_dict)
        if own or load not in (Module._load_from_state_dict, *norms):
            return False
    return True


def _memory(tensor: torch.Tensor) -> Array | None:
    """A tensor's own memory as an array, where a load can read into it."""
    if tensor.device.type != "cpu" or str(tensor.layout) != "torch.strided":
        return None
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        return None
    return as_array(tensor)


class _Module:
    """:class:`~weightlift.protocols.LiveTensors` of a module."""

    def __init__(self, net: torch.nn.Module) -> None:
        self._net = net
        self._state = dict(net.state_dict(keep_vars=True))

    def tree(self) -> Any:
        return self._net.state_dict()

    def slots(self) -> Mapping[str, Slot]:
        return {name: slot_of(name, tensor) for name, tensor in self._state.items()}

    def take(self, arrays: Mapping[str, Array], *, assign: bool) -> Any:
        import torch

        if assign:
            self._assign(arrays)
            return self._net
        with torch.no_grad():
            for name, tensor in self._state.items():
                if name in arrays:
                    tensor.copy_(to_torch(arrays[name]))
        touch(self._state.values())
        return self._net

    def _assign(self, arrays: Mapping[str, Array]) -> None:
        """Let the arrays be the parameters, wherever these are; all are made before the first is put in place."""
        import torch

        made: dict[int, torch.Tensor] = {}
        shared: dict[int, torch.Tensor] = {}
        for name, array in arrays.items():
            old = self._state[name]
            if id(old) in made:
                continue
            new = shared.get(id(array))
            if new is None:
                new = shared[id(array)] = to_torch(array).contiguous()
            if old.device.type not in ("meta", "cpu"):
                new = new.to(old.device)
            if isinstance(old, torch.nn.Parameter):
                made[id(old)] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            else:
                made[id(old)] = new.requires_grad_() if old.requires_grad else new
        for holder, key, old in _holders(self._net):
            if id(old) in made:
                holder[key] = made[id(old)]


def slot_of(name: str, tensor: torch.Tensor) -> Slot:
    """A tensor as a load sees it."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UnsupportedFeatureError(f"a torch tensor of {tensor.dtype} cannot be filled", tensor=name)
    return Slot(
        shape=tuple(tensor.shape),
        dtype=dtype,
        memory=_memory(tensor),
        tied=identity(tensor),
        # torch lets old files do without it
        optional=name.endswith("num_batches_tracked"),
        empty=tensor.device.type == "meta",
    )


def touch(tensors: Iterable[torch.Tensor]) -> None:
    """Let autograd notice that the values it kept of these are gone."""
    import torch

    for tensor in tensors:
        if not tensor.is_inference() and tensor.device.type != "meta":
            torch.autograd.graph.increment_version(tensor)


def fill_tensor(old: torch.Tensor, array: Array, *, assign: bool) -> torch.Tensor:
    """A tensor of no module with an array's values: itself, or with ``assign`` a new one, of the array's memory."""
    import torch

    new = to_torch(array).contiguous()
    if assign:
        device = "cpu" if old.device.type == "meta" else old.device
        placed: torch.Tensor = new.to(device)
        return placed.requires_grad_(old.requires_grad)
    with torch.no_grad():
        old.copy_(new)
    return old


def _holders(net: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Every place in a module, and in those below it, that holds a tensor."""
    for part in net.modules():
        for place in (part._parameters, part._buffers):
            yield from ((place, key, tensor) for key, tensor in list(place.items()) if tensor is not None)


class _HookedModule:
    """:class:`~weightlift.protocols.LiveTree` of a module that has its own way with state_dicts."""

    framework = "torch"

    def __init__(self, net: torch.nn.Module) -> None:
        self._net = net

    def tree(self) -> Any:
        return self._net.state_dict()

    def take_tree(self, tree: Any, *, strict: bool, assign: bool) -> tuple[Sequence[str], Sequence[str]]:
        try:
            found = self._net.load_state_dict(tree, strict=False, assign=assign)
        except (RuntimeError, TypeError) as error:
            raise MismatchError(f"the module refuses what was loaded: {error}") from error
        if strict and (found.missing_keys or found.unexpected_keys):
            raise mismatch(found.missing_keys, found.unexpected_keys)
        return found.missing_keys, found.unexpected_keys


class _Optimizer:
    """:class:`~weightlift.protocols.LiveTree` of an optimizer: its state and its parameter groups."""

    framework = "torch"

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def tree(self) -> Any:
        return self._optimizer.state_dict()

    def take_tree(self, tree: Any, *, strict: bool, assign: bool) -> tuple[Sequence[str], Sequence[str]]:
        if not isinstance(tree, dict) or not {"state", "param_groups"} <= set(tree):
            raise MismatchError(f"the file holds no optimizer's state; load it whole into a {self._kind}")
        wrong = self._wrong(tree["state"])
        if wrong:
            raise MismatchError(f"the state does not fit the parameters: {wrong[:5]}", wrong_shape=wrong)
        try:
            self._optimizer.load_state_dict(tree)
        except (ValueError, KeyError, TypeError) as error:
            raise MismatchError(f"the {self._kind} refuses what was loaded: {error}") from error
        return [], []

    @property
    def _kind(self) -> str:
        return type(self._optimizer).__name__

    def _wrong(self, state: Mapping[Any, Mapping[str, Any]]) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        wrong = []
        for index, entries in state.items():
            if not isinstance(index, int) or not 0 <= index < len(parameters):
                raise MismatchError(f"the file has a state for parameter {index!r}; there are {len(parameters)}")
            shape = tuple(parameters[index].shape)
            for key, value in entries.items():
                if key in _LIKE_PARAMETER and tuple(getattr(value, "shape", shape)) != shape:
                    wrong.append((f"state.{index}.{key}", shape, tuple(value.shape)))
        return wrong
