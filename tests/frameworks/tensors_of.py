"""Run where a framework is installed: what ``framework=`` gives for a file, as JSON. Arguments: framework, file."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

import weightlift as wl


def address(framework: str, tensor: Any) -> int:
    """Where a tensor's first element lies."""
    if framework == "jax":
        return int(tensor.unsafe_buffer_pointer())
    import tensorflow as tf

    if tensor.dtype == tf.bfloat16:
        tensor = tf.bitcast(tensor, tf.int16)
    return int(np.from_dlpack(tensor).ctypes.data)


def facts(framework: str, tensor: Any) -> list[Any]:
    """Type, shape and bytes."""
    array = np.asarray(tensor)
    return [str(array.dtype), list(array.shape), array.tobytes().hex()]


def main(framework: str, path: str) -> dict[str, Any]:
    """All tensors of the file, loaded at once and opened lazily."""
    answer: dict[str, Any] = {}
    wide: Any = (
        {}
        if framework == "tensorflow"
        else {"names": ["bfloat16", "bool", "complex64", "float*8*", "float*16", "float32", "int32"]}
    )
    loaded = wl.load(path, framework=framework, **wide)
    answer["kinds"] = sorted({type(t).__module__.partition(".")[0].removesuffix("lib") for t in loaded.values()})
    answer["loaded"] = {name: facts(framework, tensor) for name, tensor in loaded.items()}
    copied = () if framework == "jax" else ("float8_e4m3fn",)
    places = sorted(address(framework, tensor) for name, tensor in loaded.items() if name not in copied)
    answer["span"] = places[-1] - places[0]
    answer["aligned"] = all(place % 64 == 0 for place in places)
    with wl.open(path, framework=framework) as weights:
        answer["mapped"] = weights.memory
        answer["opened"] = {name: facts(framework, weights[name][...]) for name in loaded}
        answer["row"] = facts(framework, weights["float32"][1])
    try:
        wl.load(path, framework=framework, names="int64")
    except wl.UnsupportedFeatureError as error:
        answer["refused"] = str(error)
    return answer


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
