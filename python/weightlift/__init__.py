"""Weightlift: save and load model weights; any format, any storage, at the speed of the hardware, verified."""

from weightlift import aio
from weightlift._api import cast, convert, crc32c, dequantize, diff, load, open, quantize, save, verify
from weightlift._plan import BufferPool
from weightlift._weights import TensorView, Weights
from weightlift.errors import (
    AccessError,
    ChangedError,
    ChecksumError,
    FormatError,
    MismatchError,
    NotFoundError,
    QuotaError,
    RoutingError,
    StorageError,
    TransportError,
    TruncatedError,
    UnsafeContentError,
    UnsupportedFeatureError,
    WeightliftError,
)
from weightlift.types import (
    DiffReport,
    ModelArtifacts,
    ModelArtifactsInfo,
    SaveResult,
    TensorDiff,
    TensorReport,
    VerifyReport,
)

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "BufferPool",
    "ChangedError",
    "ChecksumError",
    "DiffReport",
    "FormatError",
    "MismatchError",
    "ModelArtifacts",
    "ModelArtifactsInfo",
    "NotFoundError",
    "QuotaError",
    "RoutingError",
    "SaveResult",
    "StorageError",
    "TensorDiff",
    "TensorReport",
    "TensorView",
    "TransportError",
    "TruncatedError",
    "UnsafeContentError",
    "UnsupportedFeatureError",
    "VerifyReport",
    "WeightliftError",
    "Weights",
    "aio",
    "cast",
    "convert",
    "crc32c",
    "dequantize",
    "diff",
    "load",
    "open",
    "quantize",
    "save",
    "verify",
]
