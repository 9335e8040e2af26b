"""Run where ONNX is installed: reads what Weightlift wrote, and writes models for it. Prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx  # type: ignore[import-not-found]
from onnx import TensorProto, helper, numpy_helper

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ours = onnx.load(folder / "ours.onnx")
    read = {}
    for tensor in ours.graph.initializer:
        array = numpy_helper.to_array(tensor)
        read[tensor.name] = [str(array.dtype), list(array.shape), array.tobytes().hex()]
    values = {
        "f32": np.arange(600, dtype="f4").reshape(20, 30),
        "f16": np.arange(5, dtype="f2"),
        "i64": np.array([[1, -1]]),
        "flag": np.array([True, False]),
        "bf16": np.arange(4).astype(ml_dtypes.bfloat16),
        "one": np.array(2.5),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in values.items()]
    tensors.append(helper.make_tensor("typed", TensorProto.INT32, [2, 2], [1, -2, 3, -4]))
    tensors.append(helper.make_tensor("halves", TensorProto.FLOAT16, [2], [1.0, -2.0]))
    node = helper.make_node("Identity", ["f32"], ["out"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [20, 30])
    model = helper.make_model(helper.make_graph([node], "g", [], [out], tensors))
    model.metadata_props.add(key="k", value="v")
    onnx.save(model, folder / "theirs.onnx")
    onnx.save(
        model, folder / "external.onnx", save_as_external_data=True, all_tensors_to_one_file=True,
        location="external.data", size_threshold=8,
    )  # fmt: skip
    truth = {name: [str(a.dtype), list(a.shape), a.tobytes().hex()] for name, a in values.items()}
    props = {entry.key: entry.value for entry in ours.metadata_props}
    print(json.dumps({"read": read, "metadata": props, "truth": truth}))
