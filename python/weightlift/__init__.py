"""Weightlift: save and load model weights; any format, any storage, at the speed of the hardware, verified."""

from weightlift import aio
from weightlift._api import cast, convert, crc32c, dequantize, diff, load, open, quantize, save, verify
from weightlift._handlers import from_memory, with_save_handler
from weightlift._models import (
    get_load_handlers,
    get_save_handlers,
    load_model,
    register_exporter,
    register_load_router,
    register_save_router,
    save_model,
    unregister_load_router,
    unregister_save_router,
)
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
    "from_memory",
    "get_load_handlers",
    "get_save_handlers",
    "load",
    "load_model",
    "open",
    "quantize",
    "register_exporter",
    "register_load_router",
    "register_save_router",
    "save",
    "save_model",
    "unregister_load_router",
    "unregister_save_router",
    "verify",
    "with_save_handler",
]
