"""The public functions: arguments checked and defaulted here, work done in the modules below."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift import _core
from weightlift._arrays import as_array
from weightlift._convert import Kinds, as_another, convert_source, of_models
from weightlift._dtypes import DTYPES, from_numpy
from weightlift._job import SaveOptions
from weightlift._layout import ReadOptions
from weightlift._live import IntoOptions, load_into
from weightlift._load import DTypes, Memory, Rename, as_dtype, load_source
from weightlift._ops import Progress, core_steps
from weightlift._save import resolve_target, save_object
from weightlift._source import Names, open_source, options_for
from weightlift._steps import Cast
from weightlift._verify import diff_sources, verify_url
from weightlift._weights import Weights
from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._adapters import register_adapter
from weightlift.frameworks._tensors import converter
from weightlift.types import DiffReport, SaveResult, VerifyReport

__all__ = [
    "cast",
    "convert",
    "crc32c",
    "dequantize",
    "diff",
    "load",
    "open",
    "quantize",
    "register_adapter",
    "save",
    "verify",
]

Path = str | os.PathLike[str]
Array = npt.NDArray[Any]


def save(
    obj: Any,
    url: Path,
    *,
    format: str | None = None,
    dtype: DTypes = None,
    quantize: Mapping[str, Any] | str | None = None,
    quantization_report: bool = False,
    compression: str | None = None,
    shard_size: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    durable: bool = True,
    checksums: bool = True,
    progress: Progress | None = None,
    **store_options: Any,
) -> SaveResult:
    """Save an array, a list, a (nested) dict of arrays, or a live model; the file appears whole or not at all.

    Args:
        obj: What to save. Arrays are anything with ``__array__``, the buffer protocol or DLPack. Live models are
            what :func:`register_adapter` knows: ``torch.nn.Module``, optimizers and all with a ``state_dict``.
        url: Path or URL. A directory gets ``model.safetensors``; ``http(s)://`` gets a PUT, streamed.
        format: ``"safetensors"``, ``"npy"``, ``"npz"``, ``"torch"``, ``"tfjs"``, ``"tensorbundle"`` ...; default: by
            suffix, else safetensors.
        dtype: Convert floating-point tensors to this type, or ``{glob: dtype}`` for any tensor; there ``""`` stands for
            all other floating-point tensors.
        quantize: TensorFlow.js formats: ``"uint8"``, ``"uint16"``, ``"float16"``, or ``{type: glob or True}``. The type
            ``"auto:1e-3"`` stores each float32 tensor in the first of uint8, uint16, float16 and float32 whose error is
            at most 1e-3: the largest absolute difference between a finite value and what it reads back as, divided by
            the tensor's largest absolute finite value. Tensors of files that are quantised already stay as they are.
        quantization_report: Measure what quantisation loses, tensor by tensor, as ``"auto:..."`` always does: see
            ``SaveResult.quantization``. It takes one more pass over the values.
            GGUF: ``"Q8_0"`` (matrices whose last axis is a multiple of 32), or ``{"Q8_0": glob}``.
        compression: ``"deflate"`` for npz.
        shard_size: Largest data file, in bytes; default one file.
        metadata: Your own metadata (safetensors: strings only).
        durable: Return only when the data would survive a power cut.
        checksums: Store a CRC-32C of every tensor.
        progress: Called with (bytes done, bytes total).
        store_options: Of the URL's scheme; for ``http(s)://`` those of :func:`weightlift.http`.

    Returns:
        What was written: files, bytes, checksums, and which names were one memory.

    Raises:
        UnsupportedFeatureError: The format cannot hold a tensor; says which, and what to do.
        StorageError: The disk is full, read-only ...; the old file is untouched.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> wl.save({"w": np.ones((2, 2), "f4")}, "w.safetensors").tensors
        1
    """
    options = SaveOptions(
        format,
        dtype,
        quantize,
        compression,
        shard_size,
        dict(metadata or {}),
        durable,
        checksums,
        progress,
        quantization_report=quantization_report,
    )
    return save_object(obj, url, options, store_options)


def load(
    url: Path,
    *,
    names: Names = None,
    into: Any = None,
    strict: bool = True,
    assign: bool = False,
    rename: Rename = None,
    conventions: str | None = None,
    kinds: Kinds = None,
    dtype: DTypes = None,
    framework: str = "numpy",
    out: Any = None,
    memory: Memory = "arena",
    verify: bool = True,
    progress: Progress | None = None,
    format: str | None = None,
    mode: str = "auto",
    skip_unsafe: bool = False,
    dequantize: bool = False,
    **store_options: Any,
) -> Any:
    """Load what was saved: one array, a list, a (nested) dict.

    Args:
        url: Path or URL of a file, of a sharded set's index, or of a local directory that holds one.
        names: A glob, or a list of names and globs: only these are read. The result is then a flat dict.
        into: A live model or optimizer, or a container of arrays, numbers, text and live objects, to fill (see
            :func:`save`), in its own types and on its own devices; it is returned, or a new container where what it
            holds does not change (JAX's arrays, numbers). An optimizer takes its part of a larger file by
            ``names="optimizer.*"``. Tensors that ``names`` leaves out keep what they have.
            Mismatches leave it unchanged; where the values go straight into its memory, a failed read or a wrong
            checksum may leave part of the file in it.
        strict: With ``into``: names or shapes that do not fit are a MismatchError that lists all of them; False takes
            what fits and returns a :class:`LoadReport`.
        assign: With ``into``: what was loaded becomes the model's tensors, without a copy, once all is verified; for
            modules on the meta device. The model's types hold unless ``dtype`` is given.
        rename: New names: ``{"old.": "new."}`` prefixes or whole names, a function, or (regex, replacement) pairs.
        conventions: ``"torch->keras"``: what one framework saved as another has it, kernels turned and parameters
            called as it calls them; ``torch``, ``keras``, ``tensorflow``, ``tfjs``, ``mxnet`` and ``flax``. ``names``
            are the file's, ``rename`` comes after.
        kinds: With ``conventions``: what layers are, by name or glob, where their tensors do not tell:
            ``{"stem": "Conv2d"}``; ``"keep"`` takes tensors as they are, ``"skip"`` leaves them out.
        dtype: Convert floating-point tensors to this type, or ``{glob: dtype}`` for any tensor, in the same pass; as
            :func:`save`.
        framework: Whose tensors to return: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"tensorflow"``; on the CPU they are
            the loaded memory, without a copy. torch takes no read-only memory, as ``memory="map"`` has it.
        out: Arrays to fill: a dict by name, or one array for a file of one tensor.
        memory: ``"arena"``: one block of memory for all (fastest; lives while any tensor lives); ``"tensor"``: a
            block each; a :class:`BufferPool`; ``"map"``: read-only views of the mapped file, not verified.
        verify: Compare checksums, where the file has them.
        progress: Called with (bytes done, bytes total).
        format: Where content and suffix do not tell.
        mode: How local files are read: ``"auto"`` (by what is in the page cache), ``"buffered"`` or ``"direct"``.
        skip_unsafe: Of a pickle (torch, npy) leave out what is code, instead of refusing the file; nothing is ever run.
            Of torch's files it takes NumPy's arrays, too, for which torch refuses them.
        dequantize: Blocks of quantised values (GGUF) as their float32 values, not as bytes.
        store_options: Of the URL's scheme; for ``http(s)://`` those of :func:`weightlift.http`.

    Returns:
        Owned, writable, 64-byte aligned arrays (but for ``memory="map"`` and ``out``).

    Raises:
        ChecksumError: Names the file, the tensor and the byte range.
        FormatError: The file breaks its format.
        MismatchError: ``names``, ``out`` or ``into`` do not fit the file.
        ConventionsError: Layers for which there is no rule, or more than one; it lists them all.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save([np.arange(3), np.ones(2)], "pair.safetensors")
        >>> [a.tolist() for a in wl.load("pair.safetensors")]
        [[0, 1, 2], [1.0, 1.0]]
    """
    convert = converter(framework)
    if into is None and (assign or not strict):
        raise TypeError("strict= and assign= are about into=")
    if into is not None and (out is not None or convert is not None):
        raise TypeError("give one of into=, out= and framework=: into= and out= say themselves what they hold")
    if out is not None and convert is not None:
        raise TypeError("out= is filled: framework= has nothing to make")
    if not isinstance(names, (str, type(None))):
        names = list(names)  # looked through more than once
    options = ReadOptions(skip_unsafe=skip_unsafe, dequantize=dequantize)
    source = open_source(url, format=format, mode=mode, store_options=store_options, names=names, options=options)
    source, names = as_another(source, names, conventions, kinds, verify=verify, into=into, rename=rename)
    if into is not None:
        return load_into(
            source, into, IntoOptions(names, rename, dtype, memory, strict, assign, verify=verify, progress=progress)
        )
    return load_source(
        source, names=names, rename=rename, dtype=dtype, out=out, memory=memory, verify=verify, progress=progress,
        convert=convert,
    )  # fmt: skip


def open(  # the field's word for it; builtins.open is not used here
    url: Path,
    *,
    format: str | None = None,
    memory: Memory | None = None,
    verify: bool = True,
    mode: str = "auto",
    framework: str = "numpy",
    skip_unsafe: bool = False,
    dequantize: bool = False,
    **store_options: Any,
) -> Weights:
    """Open weights lazily: names, types and shapes at once, bytes when touched.

    Args:
        url: As :func:`load`.
        format: As :func:`load`.
        memory: ``"map"``: tensors are read-only views of the mapped file, for free, and not verified; ``"arena"``:
            each is read and verified when touched. Default: map, but arena on network file systems, for URLs, and for
            torch, which has no read-only tensors.
        verify: With ``"arena"``: compare checksums of whole tensors.
        mode: As :func:`load`.
        framework: Whose tensors ``view[...]`` gives, as :func:`load`.
        skip_unsafe: As :func:`load`.
        dequantize: As :func:`load`.
        store_options: As :func:`load`.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.eye(3)}, "eye.npz")
        >>> wl.open("eye.npz")["w"].shape
        (3, 3)
    """
    options = ReadOptions(skip_unsafe=skip_unsafe, dequantize=dequantize)
    tensors_of = converter(framework)
    source = open_source(url, format=format, mode=mode, store_options=store_options, options=options)
    if memory is None:
        memory = "map" if source.mappable and framework != "torch" else "arena"
    return Weights(source, memory=memory, verify=verify, convert=tensors_of)


def convert(
    source: Path,
    target: Path,
    *,
    format: str | None = None,
    names: Names = None,
    rename: Rename = None,
    conventions: str | None = None,
    kinds: Kinds = None,
    dtype: DTypes = None,
    quantize: Mapping[str, Any] | str | None = None,
    quantization_report: bool = False,
    compression: str | None = None,
    shard_size: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    durable: bool = True,
    checksums: bool = True,
    verify: bool = True,
    progress: Progress | None = None,
    source_format: str | None = None,
    skip_unsafe: bool = False,
    dequantize: bool = False,
    include_optimizer: bool = False,
    **store_options: Any,
) -> SaveResult:
    """Convert between formats in bounded memory, verified on the way.

    Args:
        source: As :func:`load`.
        target: As :func:`save`.
        format: Of the target.
        names: Only these.
        rename: As :func:`load`.
        conventions: As :func:`load`.
        kinds: As :func:`load`.
        dtype: As :func:`save`.
        quantize: As :func:`save`.
        quantization_report: As :func:`save`.
        compression: As :func:`save`.
        shard_size: As :func:`save`.
        metadata: Replaces the source's metadata; default: it goes along where the target can hold it.
        durable: As :func:`save`.
        checksums: As :func:`save`.
        verify: Compare the source's checksums.
        progress: Called with (bytes done, bytes total).
        source_format: Of the source, where content and suffix do not tell.
        skip_unsafe: As :func:`load`.
        dequantize: As :func:`load`.
        include_optimizer: Of a ``.keras`` or ``.h5`` file: the training configuration and the optimizer's state, too.
        store_options: Of those of the two that are not local.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.ones((4, 4), "f4")}, "a.npz")
        >>> wl.convert("a.npz", "a.safetensors").format
        'safetensors'
    """
    if of_models(source, target, format):
        from weightlift._models import convert_model  # for those who have such files

        other = {
            "names": names, "rename": rename, "dtype": dtype, "compression": compression, "format": format,
            "source_format": source_format, "conventions": conventions, "kinds": kinds,
        }  # fmt: skip
        return convert_model(
            source,
            target,
            {k: v for k, v in other.items() if v is not None} | store_options,
            quantize=quantize,
            shard_size=shard_size,
            metadata=metadata,
            include_optimizer=include_optimizer,
            durable=durable,
            checksums=checksums,
            progress=progress,
            quantization_report=quantization_report,
            verify=verify,
        )
    if include_optimizer:
        raise UnsupportedFeatureError("include_optimizer is for .keras and .h5 files; of others all tensors are taken")
    for_source, for_target = options_for((source, target), store_options)
    read = ReadOptions(skip_unsafe=skip_unsafe, dequantize=dequantize)
    opened = open_source(source, format=source_format, store_options=for_source, options=read)
    opened, names = as_another(opened, names, conventions, kinds, verify=verify)
    place = resolve_target(target, format, for_target)
    options = SaveOptions(
        format, dtype, quantize, compression, shard_size,
        dict(opened.layout.metadata if metadata is None else metadata), durable, checksums, progress,
        quantization_report=quantization_report,
    )  # fmt: skip
    return convert_source(opened, place, options, names=names, rename=rename, verify=verify)


def verify(
    url: Path, *, format: str | None = None, progress: Progress | None = None, **store_options: Any
) -> VerifyReport:
    """Compare every tensor with its checksum, without loading; ``report.ok``, ``report.corrupt``.

    A file that breaks its format is a problem in the report, not an exception; a missing one is NotFoundError.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save(np.ones(3), "ones.npy")
        >>> wl.verify("ones.npy").ok
        True
    """
    return verify_url(url, format=format, progress=progress, store_options=store_options)


def diff(
    a: Path,
    b: Path,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    progress: Progress | None = None,
    **store_options: Any,
) -> DiffReport:
    """Compare two files of any formats: missing, extra, dtype, shape, values.

    Values within ``atol + rtol * |b|`` are equal, and NaN equals NaN.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> _ = wl.save({"w": np.zeros(2)}, "x.npz"), wl.save({"w": np.ones(2)}, "y.npz")
        >>> [(d.kind, d.max_abs) for d in wl.diff("x.npz", "y.npz").differences]
        [('values', 1.0)]
    """
    for_a, for_b = options_for((a, b), store_options)
    left, right = open_source(a, store_options=for_a), open_source(b, store_options=for_b)
    return diff_sources(left, right, rtol=rtol, atol=atol, progress=progress)


def crc32c(data: Any, crc: int = 0) -> int:
    """CRC-32C (RFC 3720) of an array's or buffer's bytes, in C order; ``crc`` continues an earlier one.

    Example:
        >>> import weightlift as wl
        >>> hex(wl.crc32c(b"123456789"))
        '0xe3069283'
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _core.crc32c(data, crc)
    return _core.crc32c(np.ascontiguousarray(as_array(data)), crc)


def cast(array: Any, dtype: Any, *, saturate: bool = False) -> Array:
    """Convert values to another element type, float8 and bfloat16 included.

    Args:
        array: Any array.
        dtype: Name, NumPy dtype or type.
        saturate: Out of range gives the largest finite value instead of infinity or NaN.

    Returns:
        A new C-order array of the same shape. To floating point: round to nearest, ties to even; float to
        integer truncates toward zero, saturates, and NaN gives 0.

    Raises:
        UnsupportedFeatureError: There is no such conversion.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> wl.cast(np.array([1.0, 1.0009765625], "f4"), "bfloat16").astype("f4").tolist()
        [1.0, 1.0]
    """
    source = np.ascontiguousarray(as_array(array))
    have, want = from_numpy(source.dtype), as_dtype(dtype)
    if not source.dtype.isnative:
        source = source.astype(source.dtype.newbyteorder("="))
    result = np.empty(np.shape(array), want.numpy)
    if have == want:
        result[...] = source.reshape(result.shape)
    else:
        _core.run_pipeline(core_steps([Cast(have.name, want.name, saturate)]), source, result)
    return result


def quantize(array: Any, dtype: str) -> tuple[Array, float | None, float | None]:
    """Quantise float32 values as TensorFlow.js's converter does, bit for bit.

    Args:
        array: float32, any shape, finite.
        dtype: ``"uint8"``, ``"uint16"`` or ``"float16"``.

    Returns:
        (quantised array of the same shape, scale, min); scale and min are None for float16. The values are
        about ``q * scale + min``.

    Raises:
        UnsupportedFeatureError: Not float32, or not finite.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> q, scale, low = wl.quantize(np.array([-1.0, 0.0, 1.55], "f4"), "uint8")
        >>> q.tolist(), round(scale, 6), round(low, 6)
        ([0, 100, 255], 0.01, -1.0)
    """
    source = np.ascontiguousarray(as_array(array))
    if source.dtype != np.float32:
        raise UnsupportedFeatureError(f"quantisation is of float32 values, not {source.dtype}; cast first")
    if dtype == "float16":
        return cast(source, "float16"), None, None
    if dtype not in ("uint8", "uint16"):
        raise UnsupportedFeatureError(f"unknown quantisation {dtype!r}; known are uint8, uint16 and float16")
    low, high = _core.min_max(source) if source.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise UnsupportedFeatureError(f"the values run from {low} to {high}: NaN and infinities cannot be quantised")
    scale, minimum, maximum = _core.choose_affine(low, high, (1 << DTYPES[dtype].bits) - 1)
    result = np.empty(np.shape(array), DTYPES[dtype].numpy)
    _core.run_pipeline([("affine_encode", dtype, scale, minimum, maximum)], source, result)
    return result, scale, minimum


def dequantize(array: Any, scale: float | None = None, min: float | None = None, *, dtype: str = "float32") -> Array:
    """Undo :func:`quantize`, as TensorFlow.js decodes: ``q * scale + min`` in float64, rounded to ``dtype``.

    Args:
        array: uint8 or uint16 with ``scale`` and ``min``, or float16 without.
        scale: As quantised.
        min: As quantised.
        dtype: ``"float32"`` or ``"int32"`` (then rounded half up, as JavaScript's Math.round).

    Example:
        >>> import numpy as np, weightlift as wl
        >>> wl.dequantize(np.array([0, 255], "u1"), 0.01, -1.0).tolist()
        [-1.0, 1.5499999523162842]
    """
    source = np.ascontiguousarray(as_array(array))
    if source.dtype == np.float16 and scale is None and min is None:
        return cast(source, dtype)
    if source.dtype not in (np.uint8, np.uint16) or scale is None or min is None:
        raise UnsupportedFeatureError("give a uint8 or uint16 array with scale and min, or a float16 array without")
    result = np.empty(np.shape(array), DTYPES[dtype].numpy)
    _core.run_pipeline([("affine_decode", source.dtype.name, dtype, float(scale), float(min))], source, result)
    return result
