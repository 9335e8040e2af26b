"""Live networks of MXNet: Gluon's blocks, by the names that ``save_parameters`` gives their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from weightlift._dtypes import DTYPES
from weightlift.errors import MismatchError, UnsupportedFeatureError
from weightlift.protocols import LiveTensors, LiveTree, Slot

__all__ = ["adapt"]

Array = npt.NDArray[Any]


def adapt(obj: Any) -> LiveTensors | LiveTree | None:
    """The adapter of a block; None for arrays, trainers and what else MXNet has."""
    from mxnet.gluon import Block

    return _Block(obj) if isinstance(obj, Block) else None


class _Block:
    """:class:`~weightlift.protocols.LiveTensors` of a block.

    A parameter whose shape is not known yet (it is found in the first pass) takes the shape that the file has.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        self._parameters: dict[str, Any] = dict(block._collect_params_with_prefix())

    def tree(self) -> dict[str, Array]:
        """The parameters; those that are one give one array."""
        arrays: dict[int, Array] = {}
        for name, parameter in self._parameters.items():
            if id(parameter) not in arrays:
                arrays[id(parameter)] = _values(name, parameter)
        return {name: arrays[id(parameter)] for name, parameter in self._parameters.items()}

    def slots(self) -> Mapping[str, Slot]:
        """Shapes and types; MXNet lends no memory of its own, so values are copied."""
        return {
            name: Slot(_shape(parameter), _dtype(name, parameter), tied=id(parameter))
            for name, parameter in self._parameters.items()
        }

    def take(self, arrays: Mapping[str, Array], *, assign: bool) -> Any:
        """Give each parameter its values, on every device where it is."""
        if assign:
            raise UnsupportedFeatureError("assign=True: MXNet's parameters copy what they are given; leave it out")
        self._refuse_misfits(arrays)
        for name, parameter in self._parameters.items():
            if name in arrays:
                parameter._load_init(_to_mxnet(arrays[name]), None)  # as load_parameters does
        return self._block

    def _refuse_misfits(self, arrays: Mapping[str, Array]) -> None:
        """MismatchError for arrays that do not fit the axes that are known of a shape that is not."""
        wrong = []
        for name, array in arrays.items():
            shape = tuple(self._parameters[name].shape or array.shape)
            fits = len(shape) == array.ndim and all(n <= 0 or n == m for n, m in zip(shape, array.shape, strict=True))
            if not fits:
                wrong.append((name, shape, array.shape))
        if wrong:
            shapes = ", ".join(f"{name} is {list(want)}, in the file {list(have)}" for name, want, have in wrong[:5])
            raise MismatchError(f"{len(wrong)} parameters of another shape: {shapes}", wrong_shape=wrong)


def _values(name: str, parameter: Any) -> Array:
    if parameter._data is None:
        raise UnsupportedFeatureError(
            "the parameter has no values yet: initialize the network, and pass data through it once", tensor=name
        )
    array: Array = parameter._reduce().asnumpy()  # the mean over devices, as save_parameters takes it
    return array.view(ml_dtypes.bfloat16) if array.dtype.names == ("bfloat16",) else array


def _shape(parameter: Any) -> tuple[int, ...] | None:
    """The shape; None where an axis is not known yet, which is 0 or -1."""
    shape = parameter.shape
    known = shape is not None and (parameter._data is not None or all(n > 0 for n in shape))
    return tuple(shape) if known else None


def _dtype(name: str, parameter: Any) -> str:
    dtype = parameter.dtype
    found = "bfloat16" if "bfloat16" in str(dtype) else np.dtype(dtype).name
    if found not in DTYPES:
        raise UnsupportedFeatureError(f"a parameter of {dtype} cannot be filled", tensor=name)
    return found


def _to_mxnet(array: Array) -> Any:
    """An array of MXNet's, of the kind that its mode asks for."""
    import mxnet as mx

    make = mx.np.array if mx.util.is_np_array() else mx.nd.array
    if array.dtype == ml_dtypes.bfloat16:
        return make(array.astype(np.float32), dtype="float32").astype("bfloat16")
    return make(array, dtype=array.dtype)
