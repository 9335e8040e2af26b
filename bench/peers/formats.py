"""One framework's load or save, for bench/formats: run in that framework's environment, where weightlift is not.

    PYTHONPATH=bench python bench/peers/formats.py KIND make|load|save PATH SIZE

make writes the file and ends. load and save set themselves up, then do it once for every line on standard input, and
print their own times as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from models import llama

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
Arrays = dict[str, Any]


def torch(path: str) -> tuple[Callable[[], Any], Callable[[Arrays], Callable[[], Any]]]:
    import torch as t

    def save(arrays: Arrays) -> Callable[[], Any]:
        tensors = {name: t.from_numpy(array) for name, array in arrays.items()}
        return lambda: t.save(tensors, path)

    return lambda: t.load(path, weights_only=True), save


def npz(path: str) -> Any:
    def load() -> Arrays:
        with np.load(path) as found:
            return {name: found[name] for name in found.files}

    return load, lambda arrays: lambda: np.savez(path, **arrays)


def npy_of_a_dict(path: str) -> Any:
    return (
        lambda: np.load(path, allow_pickle=True).item(),
        lambda arrays: lambda: np.save(path, np.array(arrays, dtype=object), allow_pickle=True),
    )


def hdf5(path: str) -> Any:
    import h5py

    def save(arrays: Arrays) -> None:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array)

    def load() -> Arrays:
        with h5py.File(path) as file:
            return {name: dataset[()] for name, dataset in file.items()}

    return load, lambda arrays: lambda: save(arrays)


def keras(path: str, *, whole: bool = False) -> Any:
    """The weights, into a model that is there; or the ``whole`` model, which is made anew."""
    import keras as k

    def save(arrays: Arrays) -> Callable[[], Any]:
        matrices = [array for array in arrays.values() if array.ndim == 2]
        layers = [k.Input((1,)), k.layers.Embedding(*matrices[0].shape)]
        layers += [k.layers.Dense(array.shape[1], use_bias=False) for array in matrices[1:]]
        layers += [k.layers.LayerNormalization(center=False) for array in arrays.values() if array.ndim == 1]
        model = k.Sequential(layers)
        model.set_weights(list(arrays.values()))  # the order of the layers
        Path(f"{path}.json").write_text(model.to_json())
        return lambda: k.saving.save_model(model, path) if whole else model.save_weights(path)

    @functools.cache
    def model() -> Any:  # made in the first round, which is thrown away
        return k.models.model_from_json(Path(f"{path}.json").read_text())

    return lambda: k.saving.load_model(path) if whole else model().load_weights(path), save


def mxnet(path: str) -> Any:
    import mxnet as mx

    def load() -> Any:
        found = mx.nd.load(path)
        mx.nd.waitall()
        return found

    def save(arrays: Arrays) -> Callable[[], Any]:
        tensors = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
        mx.nd.waitall()
        return lambda: mx.nd.save(path, tensors)

    return load, save


def tensorflow(path: str) -> Any:
    import tensorflow as tf

    prefix = path.removesuffix(".index")

    def load() -> Arrays:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

    def save(arrays: Arrays) -> Callable[[], Any]:
        names, tensors = list(arrays), [tf.constant(array) for array in arrays.values()]
        slices = [""] * len(names)
        return lambda: tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=tensors)

    return load, save


def gguf(path: str, *, quantized: bool = False) -> Any:
    import gguf as g

    def save(arrays: Arrays) -> None:
        writer = g.GGUFWriter(path, "bench")
        for name, array in arrays.items():
            if quantized and array.ndim == 2 and array.shape[1] % 32 == 0:
                blocks = g.quants.quantize(array, g.GGMLQuantizationType.Q8_0)
                writer.add_tensor(name, blocks, raw_dtype=g.GGMLQuantizationType.Q8_0)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load() -> Arrays:
        tensors = g.GGUFReader(path).tensors
        if quantized:
            return {t.name: g.quants.dequantize(t.data, t.tensor_type) for t in tensors}
        return {t.name: np.array(t.data) for t in tensors}

    return load, lambda arrays: lambda: save(arrays)


def flax(path: str) -> Any:
    from flax import serialization

    return (
        lambda: serialization.msgpack_restore(Path(path).read_bytes()),
        lambda arrays: lambda: Path(path).write_bytes(serialization.msgpack_serialize(dict(arrays))),
    )


def onnx(path: str) -> Any:
    import onnx as o

    def save(arrays: Arrays) -> None:
        initialisers = [o.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = o.helper.make_graph([], "weights", [], [], initialisers)
        o.save(o.helper.make_model(graph), path)

    def load() -> Arrays:
        return {t.name: np.array(o.numpy_helper.to_array(t)) for t in o.load(path).graph.initializer}

    return load, lambda arrays: lambda: save(arrays)


PEERS: dict[str, Callable[[str], Any]] = {
    "torch": torch,
    "npz": npz,
    "npy of a dict": npy_of_a_dict,
    "HDF5": hdf5,
    "Keras .weights.h5": keras,
    "Keras .keras": lambda path: keras(path, whole=True),
    "MXNet": mxnet,
    "TensorFlow": tensorflow,
    "GGUF F32": gguf,
    "GGUF Q8_0": lambda path: gguf(path, quantized=True),
    "Flax": flax,
    "ONNX": onnx,
}


def main() -> None:
    kind, what, path, size = sys.argv[1:]
    load, save = PEERS[kind](path)
    if what == "make":
        save(llama(int(size)))()
        return
    run = load if what == "load" else save(llama(int(size)))
    for _ in sys.stdin:
        begin, cpu = time.perf_counter(), time.process_time()
        result = run()
        report = {"seconds": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
        del result
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
