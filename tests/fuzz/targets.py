"""What the fuzzers of the Python parsers call: bytes become files, which are then verified, loaded and opened.

The property of every target: nothing but WeightliftError comes out, and what loads also verifies; a target that
returns no file has checked one of its own. ``fuzz.py`` adds limits of time and memory.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tests.fuzz.checkpoint_manifest import checkpoint_manifest, manifest_seeds
from tests.unit import dcp_support as dcp_made
from tests.unit import mxnet_support as nd
from tests.unit import tensorbundle_support as bundles
from tests.unit import torch_support as made

import weightlift as wl
from weightlift._checksum import crc32c
from weightlift._mxnet_graph import symbol_text
from weightlift._sidecar import record as sidecar_record
from weightlift._strings import encode_varint_strings
from weightlift._zstd import compress
from weightlift.formats._npy_header import build_object_header
from weightlift.formats._tensorbundle_slices import slice_key
from weightlift.formats._tensorbundle_table import build_table, read_table

Target = Callable[[bytes, Path], "Path | bool"]
SEPARATOR = b"\0\0"
"""Ends the JSON in inputs that hold a weight file too; JSON holds no NUL."""

BUNDLE_SEPARATOR = b"\n--data--\n"
TENSORS = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.array([1, -1], "i8")}
_PIECES = {"c": np.ones((1, 3), "f4"), "d": np.ones((2, 1), "f4")}
"""What makes up a tensor together with ``a``, of three rows, or of four columns."""

_SQUARES = np.square(np.arange(300, dtype="f4")).reshape(30, 10)
_SQUARES_SUM = crc32c(_SQUARES.tobytes())


def dcp(data: bytes, folder: Path) -> Path:
    """The input is the metadata of a checkpoint whose data file, of two chunks, is right."""
    _write(folder / "__0_0.distcp", b"".join(_dcp_chunks()))
    return _write(folder / ".metadata", data)


def npy(data: bytes, folder: Path) -> Path:
    """The input is an npy file."""
    return _write(folder / "x.npy", data)


def npy_pickle(data: bytes, folder: Path) -> Path:
    """The input is the pickle in an npy file that is otherwise right."""
    return _write(folder / "x.npy", build_object_header(()) + data)


def flax(data: bytes, folder: Path) -> Path:
    """The input is a file."""
    return _write(folder / "x.msgpack", data)


def onnx(data: bytes, folder: Path) -> Path:
    """The input is a file."""
    return _write(folder / "x.onnx", data)


def orbax(data: bytes, folder: Path) -> Path:
    """The input is the tree of a checkpoint, whose arrays are not there."""
    _write(folder / "_strings.json", b'{"s": "text", "l.0": ""}')
    return _write(folder / "_METADATA", data)


def gguf(data: bytes, folder: Path) -> Path:
    """The input is a file."""
    return _write(folder / "x.gguf", data)


def zip_directory(data: bytes, folder: Path) -> Path:
    """The input is an archive."""
    return _write(folder / "x.npz", data)


def npz(data: bytes, folder: Path) -> Path:
    """The input is a way to store it, and a member of an archive that is otherwise right."""
    how, member = (data[0], data[1:]) if data else (0, b"")
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        for i in range(1 + (how >> 1 & 1)):
            method = zipfile.ZIP_DEFLATED if how & 1 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"w{i}.npy"), member[i:], method)
    return folder / "x.npz"


def mxnet(data: bytes, folder: Path) -> Path:
    """The input is a file of MXNet's."""
    return _write(folder / "x.params", data)


def mxnet_symbol(data: bytes, folder: Path) -> Path:
    """The input is a symbol; its parameters are right."""
    if not (folder / "x-0000.params").exists():
        wl.save({f"arg:{name}": tensor for name, tensor in TENSORS.items()}, folder / "x-0000.params", durable=False)
    return _write(folder / "x-symbol.json", data)


def torch(data: bytes, folder: Path) -> Path:
    """The input is a file of torch, an archive or an older one."""
    return _write(folder / "x.pt", data)


def torch_pickle(data: bytes, folder: Path) -> Path:
    """The input is the pickle in an archive that is otherwise right."""
    return _write(folder / "x.pt", made.archive(data, {"0": bytes(range(24))}))


def hdf5(data: bytes, folder: Path) -> Path:
    """The input is an HDF5 file."""
    return _write(folder / "x.h5", data)


def keras_zip(data: bytes, folder: Path) -> Path:
    """The input is the weights in a .keras file that is otherwise right."""
    with zipfile.ZipFile(folder / "x.keras", "w") as archive:
        archive.writestr(zipfile.ZipInfo("config.json"), "{}")
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), data)
    return folder / "x.keras"


def tfjs(data: bytes, folder: Path) -> Path:
    """The input is a model.json, and weights.bin behind a separator."""
    text, _, weights = data.partition(SEPARATOR)
    _write(folder / "weights.bin", weights)
    return _write(folder / "model.json", text)


def safetensors(data: bytes, folder: Path) -> Path:
    """The input is a file."""
    return _write(folder / "x.safetensors", data)


def safetensors_index(data: bytes, folder: Path) -> Path:
    """The input is an index; its shards are right."""
    for name, tensor in {**TENSORS, **_PIECES, "z": compress(_SQUARES, 1)}.items():
        if not (folder / f"{name}.safetensors").exists():
            wl.save({name: tensor}, folder / f"{name}.safetensors", durable=False)
    return _write(folder / "model.safetensors.index.json", data)


def sidecar(data: bytes, folder: Path) -> Path:
    """The input is the sidecar of an archive that is right."""
    if not (folder / "x.npz").exists():
        wl.save(TENSORS, folder / "x.npz", durable=False)
    _write(folder / "x.npz.crc32c", data)
    return folder / "x.npz"


def tensorbundle(data: bytes, folder: Path) -> Path:
    """The input is an index, and the data file behind a separator."""
    index, _, rest = data.partition(BUNDLE_SEPARATOR)
    _write(folder / "x.data-00000-of-00001", rest)
    return _write(folder / "x.index", index)


def tensorbundle_entry(data: bytes, folder: Path) -> Path:
    """The input is a header and an entry, in an index that is otherwise right: its checksums are."""
    header, _, entry = data.partition(BUNDLE_SEPARATOR)
    _write(folder / "x.data-00000-of-00001", bytes(range(48)))
    return _write(folder / "x.index", build_table([(b"", header), (b"a", entry)]))


_ALWAYS = (
    dcp,
    npy,
    npy_pickle,
    flax,
    gguf,
    onnx,
    orbax,
    zip_directory,
    npz,
    mxnet,
    mxnet_symbol,
    torch,
    torch_pickle,
    tfjs,
    safetensors,
    safetensors_index,
    sidecar,
    checkpoint_manifest,
)
_WITH_H5PY = (hdf5, keras_zip) if find_spec("h5py") is not None else ()
TARGETS: dict[str, Target] = {f.__name__: f for f in (*_ALWAYS, tensorbundle, tensorbundle_entry, *_WITH_H5PY)}


def run(target: Target, data: bytes, folder: Path) -> bool:
    """Check the property for one input; returns whether it loads. The folder may hold files of earlier inputs."""
    path = target(data, folder)
    if isinstance(path, bool):
        return path
    try:
        verified = wl.verify(path).ok
    except wl.WeightliftError:
        verified = False
    try:
        wl.load(path)
    except wl.WeightliftError:
        return False
    assert verified, "it loads, but does not verify"
    with wl.open(path) as weights:
        for view in weights.values():
            assert view[...].size or not view.nbytes
            assert view.stored_nbytes >= 0
            repr(view)
    return True


def _indexes_of_compressed() -> list[bytes]:
    said = {"codec": "zstd", "dtype": "F32", "shape": [30, 10], "shuffle": 4, "crc32c": _SQUARES_SUM, "crc32": 7}
    weight_map = {name: f"{name}.safetensors" for name in ("z", "b")}
    pieces = {"w": {"shape": [30, 10], "pieces": {"z": [0, 0]}}}
    return [
        json.dumps({"metadata": {"weightlift.encoded": {"z": said}, **more}, "weight_map": weight_map}).encode()
        for more in ({}, {"weightlift.pieces": pieces})
    ]


def _indexes_of_pieces() -> list[bytes]:
    found = []
    for other, shape, begin in (("c", [3, 3], [2, 0]), ("d", [2, 4], [0, 3])):
        pieces = {"w": {"shape": shape, "pieces": {"a": [0, 0], other: begin}}}
        weight_map = {name: f"{name}.safetensors" for name in ("a", other, "b")}
        found.append(json.dumps({"metadata": {"weightlift.pieces": pieces}, "weight_map": weight_map}).encode())
    return found


def seeds() -> dict[str, list[bytes]]:
    """Inputs that load, from which fuzzers start, by target."""
    return {
        "dcp": _dcp_metadata(),
        "npy": [_npy(a) for a in _arrays()],
        "npy_pickle": [_pickle(protocol) for protocol in (2, 3, 4, 5)],
        "flax": [_saved("x.msgpack", "x.msgpack")],
        "onnx": [_saved("x.onnx", "x.onnx")],
        "orbax": _orbax_trees(),
        "gguf": [_saved("x.gguf", "x.gguf", {"w": np.ones((2, 3), "f4"), "h": np.ones(5, "f2")})],
        "zip_directory": [_npz(compressed=c) for c in (False, True)],
        "npz": [bytes([how]) + _npy(a) for how in (0, 1) for a in _arrays()],
        "mxnet": _mxnet_files(),
        "mxnet_symbol": _symbols(),
        "torch": [_saved("x.pt", "x.pt"), made.archive(made.pickled(made.tensor()), {"0": bytes(16)}), _old_torch()],
        "torch_pickle": [made.pickled(body) for body in _torch_objects()],
        "tfjs": [_tfjs_model(), _tfjs_of_others()],
        "safetensors": [_saved("x.safetensors", "x.safetensors")],
        "safetensors_index": [
            *_indexes_of_pieces(),
            *_indexes_of_compressed(),
            b'{"metadata": {"total_size": 40}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}',
            b'{"weight_map": {}}',
        ],
        "tensorbundle": _bundles(),
        "tensorbundle_entry": _bundle_entries(),
        "checkpoint_manifest": list(manifest_seeds()),
        "sidecar": [_saved("x.npz", "x.npz.crc32c"), _sidecar_without_sums()],
        **(_hdf5_seeds() if "hdf5" in TARGETS else {}),
    }


def _orbax_trees() -> list[bytes]:
    """Two without arrays, and one with."""

    def leaf(kind: str, *keys: str | int) -> dict[str, object]:
        path = [{"key": str(key), "key_type": 1 if isinstance(key, int) else 2} for key in keys]
        return {"key_metadata": path, "value_metadata": {"value_type": kind, "skip_deserialize": False}}

    plain = [leaf("string", "s"), leaf("string", "l", 0), leaf("None", "l", 1), leaf("Dict", "d", "e")]
    arrays = [leaf("jax.Array", "params", "w"), leaf("scalar", "step")]
    trees = [{str(k): one for k, one in enumerate(leaves)} for leaves in (plain, plain[2:], arrays)]
    settings = {"use_ocdbt": False, "use_zarr3": True, "store_array_data_equal_to_fill_value": True}
    return [
        json.dumps({"tree_metadata": trees[0], **settings, "custom_metadata": {"epoch": 3}}).encode(),
        json.dumps({"tree_metadata": trees[1], "use_ocdbt": True}).encode(),
        json.dumps({"tree_metadata": trees[2], **settings}).encode(),
    ]


def _dcp_chunks() -> list[bytes]:
    return [dcp_made.saved((2, 3), bytes(range(24))), made.archive(made.pickled(b"K\7"))]


def _dcp_metadata() -> list[bytes]:
    """One tensor in two chunks, by columns, and a number in a list."""
    first, last = map(len, _dcp_chunks())
    boxes = [((0, 0), (2, 3)), ((0, 3), (2, 3))]
    storage = {
        dcp_made.index("w", (0, 0)): dcp_made.place("__0_0.distcp", 0, first),
        dcp_made.index("w", (0, 3)): dcp_made.place("__0_0.distcp", 0, first),
        dcp_made.index("l.0"): dcp_made.place("__0_0.distcp", first, last),
    }
    entries = {"w": dcp_made.tensor((2, 6), boxes), "l.0": dcp_made.OBJECT}
    alone = {"w": dcp_made.tensor((2, 3), boxes[:1])}
    return [
        dcp_made.metadata({**alone, "l.0": dcp_made.OBJECT}, storage, {"w": ("w",), "l.0": ("l", 0)}),
        dcp_made.metadata(entries, storage),
        dcp_made.metadata(alone, storage),
    ]


def _hdf5_seeds() -> dict[str, list[bytes]]:
    return {
        "hdf5": [_saved("x.h5", "x.h5"), _hdf5_of_others()],
        "keras_zip": [_saved("x.weights.h5", "x.weights.h5")],
    }


def _hdf5_of_others() -> bytes:
    """What h5py writes of its own accord: chunks, filters, links, texts."""
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w", libver="latest") as file:
        file.create_dataset(
            "g/chunks", data=np.arange(64, dtype=">i4").reshape(8, 8), chunks=(3, 5), compression="gzip"
        )
        file["g/text"] = ["a", "b\u00e9"]
        file["again"] = file["g/chunks"]
        file["soft"] = h5py.SoftLink("/g/chunks")
        file.attrs["note"] = "x"
    return made.getvalue()


def _arrays() -> list[np.ndarray]:  # type: ignore[type-arg]
    return [
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
        np.array(1 + 2j),
        np.zeros((0, 3), "S4"),
        np.zeros(2, [("x", "<i2"), ("y", "U3", (2,))]),
        np.array(["2020-01-01", "NaT"], "M8[D]"),
    ]


def _npy(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _pickle(protocol: int) -> bytes:
    value = np.empty((), object)
    value[()] = {"l": _arrays(), "x": (1, None, 2.5, "t", {3}), "h": np.float16(1)}
    return pickle.dumps(value, protocol)


def _npz(*, compressed: bool) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **TENSORS)
    return file.getvalue()


def _mxnet_files() -> list[bytes]:
    """A list with every version, one without values, and both kinds of sparse arrays; and a dict."""
    array = TENSORS["a"]
    rows = nd.sparse(1, (5, 3), array, [1, 4])
    matrix = nd.sparse(2, (3, 4), np.array([1, 2, 3], "f8"), [0, 2, 2, 3], [0, 3, 1])
    records = [nd.dense(array, version) for version in range(4)]
    return [nd.listed([*records, nd.NONE, rows, matrix]), nd.named({"arg:a": records[3], "aux:b": records[2]})]


def _symbols() -> list[bytes]:
    """As MXNet spaces them: one, one with a graph in a node, and an old one."""
    one = nd.numpy_graph(list(TENSORS), __shape__="(2, -1)", __lr_mult__="1.0")
    one["nodes"][2]["attrs"] = {"__shape__": "(2,)"}
    inner = nd.graph([*one["nodes"], nd.node("_foreach", "loop", [(1, 0, 0), (2, 0, 0)], subgraphs=[one])])
    old = nd.graph([nd.node("null", "a", attr={"x": "y"}), nd.node("null", "b")], heads=[[1, 0]], node_row_ptr=[0, 1])
    return [symbol_text(document) for document in (one, inner, old)]


def _old_torch() -> bytes:
    return made.legacy(made.pickled(made.tensor()), ["0"], [(4, bytes(16))])


def _torch_objects() -> list[bytes]:
    """Of a storage of six floats: views, containers, values, and what is no array."""
    held = made.storage(numel=6)
    views = [
        made.tensor((2, 3), (3, 1), 0, held),
        made.tensor((3, 2), (1, 3), 0, held),
        made.tensor((2,), (2,), 1, held),
    ]
    sparse = made.name("torch._utils", "_rebuild_sparse_tensor") + b"(" + made.text("torch.sparse_coo") + b"("
    return [
        b"}(" + b"".join(made.text(key) + view for key, view in zip("abc", views, strict=True)) + b"u",
        b"](" + views[0] + b"q\0h\0}(" + made.text("lr") + b"G?\xb9\x99\x99\x99\x99\x99\x9aK\5Nu\x88)e",
        b"}(" + made.text("w") + made.name("collections", "OrderedDict") + b")R" + made.text("a") + views[1] + b"su",
        b"](" + views[2] + sparse + views[0] + views[1] + made.numbers(2, 3) + b"ttRe",
        b"](" + held + made.name("torch", "float16") + made.name("torch", "device") + b"(" + made.text("cpu") + b"tRe",
    ]


def _bundles() -> list[bytes]:
    """One of ours, and one with a tensor in slices and strings."""
    tensors = {
        b"a": bundles.Tensor(4, [1, 2], slices=[[(0, None), (0, 1)], [(0, None), (1, 1)]]),
        slice_key(b"a", [(0, -1), (0, 1)]): bundles.Tensor(4, [1, 1], b"x"),
        slice_key(b"a", [(0, -1), (1, 1)]): bundles.Tensor(4, [1, 1], b"y"),
        b"s": bundles.strings([2], [b"", b"text"]),
    }
    ours = _saved("x", "x.index", format="tensorbundle"), _saved("x", "x.data-00000-of-00001", format="tensorbundle")
    return [BUNDLE_SEPARATOR.join(files) for files in (ours, bundles.bundle(tensors).values())]


def _bundle_entries() -> list[bytes]:
    """Of a matrix, and of strings whose checksum is right."""
    strings, crc = encode_varint_strings([b"ab", b""])
    made = {b"a": bundles.Tensor(4, [2, 3], bytes(range(6))), b"b": bundles.Tensor(7, [2], strings, crc=crc)}
    entries = dict(read_table(bundles.bundle(made)["x.index"]))
    return [BUNDLE_SEPARATOR.join((bundles.HEADER, entries[key])) for key in made]


def _tfjs_model() -> bytes:
    tensors = {"a": TENSORS["a"], "h": TENSORS["a"].astype("f2"), "s": np.array([True])}
    return _saved("model.json", "model.json", tensors) + SEPARATOR + b"".join(t.tobytes() for t in tensors.values())


def _tfjs_of_others() -> bytes:
    """Without our own key, whose digest would refuse whatever a fuzzer changes."""
    weights = [
        {"name": "a", "shape": [2, 3], "dtype": "float32"},
        {"name": "s", "shape": [2], "dtype": "string"},
        {"name": "q", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8", "min": -1, "scale": 0.5}},
    ]
    document = {"modelTopology": {}, "weightsManifest": [{"paths": ["./weights.bin"], "weights": weights}]}
    return json.dumps(document).encode() + SEPARATOR + TENSORS["a"].tobytes() + b"\2\0\0\0hi\0\0\0\0" + b"\7\377"


def _sidecar_without_sums() -> bytes:
    (record,) = json.loads(_saved("x.npz", "x.npz.crc32c"))["records"]
    plain = sidecar_record(record["nbytes"], None, None, {"b": "uint64"}, {"list": ["a", "b"]}, {"k": 1})
    return json.dumps({"weightlift": 1, "records": [plain]}).encode()


def _saved(
    target: str,
    wanted: str,
    tensors: dict[str, np.ndarray] = TENSORS,  # type: ignore[type-arg]
    format: str | None = None,
) -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        wl.save(tensors, Path(folder) / target, format=format)
        return (Path(folder) / wanted).read_bytes()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
