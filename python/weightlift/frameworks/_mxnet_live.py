"""Live networks of MXNet: Gluon's blocks, by the names that ``save_parameters`` gives their parameters.

With their graphs they go out by Gluon's own ``export``, and come back as blocks around such a graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from weightlift._dtypes import DTYPES
from weightlift._mxnet_graph import FORMAT, check_symbol, symbol_text
from weightlift.errors import MismatchError, UnsupportedFeatureError
from weightlift.frameworks._mxnet_names import own_names
from weightlift.protocols import LiveTensors, LiveTree, Slot
from weightlift.types import ModelArtifacts

__all__ = ["adapt", "build", "export"]

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

    def own_names(self, names: Sequence[str], chosen: Collection[str]) -> Mapping[str, str]:
        """Those of ``export`` and ``collect_params().save``, too."""
        return own_names(names, {n: p.name for n, p in self._parameters.items()}, self._block.prefix)

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


# --- with their graphs ------------------------------------------------------------------------------
def export(block: Any, folder: Path) -> Path:
    """Let a block write its graph and its parameters to a folder; the symbol's file.

    Raises:
        UnsupportedFeatureError: It has no graph: it is not hybridized, has not been run, or cannot be.
    """
    if not callable(getattr(block, "export", None)):
        raise UnsupportedFeatureError(
            f"a {type(block).__name__} is no HybridBlock, so it has no graph; save its parameters alone: "
            "weightlift.save(net, 'net.params')"
        )
    prefix = folder / "net"
    try:
        block.export(str(prefix))
    except RuntimeError as error:
        raise UnsupportedFeatureError(
            f"MXNet has no graph of this network: {error} (call net.hybridize(), and net once with data)"
        ) from error
    return folder / "net-symbol.json"


def build(artifacts: ModelArtifacts, inputs: Sequence[str] | None) -> Any:
    """A ``SymbolBlock`` of a model: see ``ModelArtifacts.to_gluon``."""
    if artifacts.format != FORMAT or artifacts.model_topology is None:
        raise UnsupportedFeatureError(
            f"to_gluon() is for models of the format {FORMAT!r}, with a symbol of MXNet's; this one is "
            f"{artifacts.format!r}"
        )
    import mxnet as mx

    graph = check_symbol(artifacts.model_topology)
    shapes = {name: tuple(weight.shape) for name, weight in artifacts.weights.items()}
    graph.compare(shapes)
    asked = graph.inputs(shapes) if inputs is None else list(inputs)
    if sorted(asked) != sorted(graph.inputs(shapes)):
        raise MismatchError(
            f"the inputs are the variables without weights, {', '.join(graph.inputs(shapes))}; not {', '.join(asked)}"
        )
    numpy = mx.util.is_np_array()
    if graph.np_shape and not numpy:
        raise UnsupportedFeatureError("the symbol has NumPy's shapes: call mxnet.npx.set_np() first")
    # MXNet's own reader, which knows symbols of all its versions.
    symbol = mx.symbol.load_json(symbol_text(artifacts.model_topology).decode())
    variables = [mx.symbol.var(name) for name in asked]
    if numpy:
        symbol, variables = symbol.as_np_ndarray(), [variable.as_np_ndarray() for variable in variables]
    block = mx.gluon.SymbolBlock(symbol, variables)
    for name, parameter in block.collect_params().items():
        values = _to_mxnet(np.asarray(artifacts.weights[name]))
        parameter._load_init(values, None, cast_dtype=True, dtype_source="saved")  # as SymbolBlock.imports does
    return block
