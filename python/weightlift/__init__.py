"""Weightlift: save and load model weights; any format, any storage, at the speed of the hardware, verified.

Every name is imported from its module when it is first used, so that ``import weightlift`` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weightlift import aio, checkpoint
    from weightlift._api import cast, convert, crc32c, dequantize, diff, load, open, quantize, save, verify
    from weightlift._browser_handlers import browser_files
    from weightlift._check_tfjs import check_tfjs
    from weightlift._dumps import export_browser_dump, import_browser_dump
    from weightlift._handlers import from_memory, with_save_handler
    from weightlift._http_handlers import http
    from weightlift._managers import (
        copy_model,
        list_models,
        move_model,
        register_model_manager,
        remove_model,
        unregister_model_manager,
    )
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
    from weightlift._modules import load_module, register_module, save_module
    from weightlift._ops import BufferPool
    from weightlift._weights import TensorView, Weights
    from weightlift.errors import (
        AccessError,
        ChangedError,
        ChecksumError,
        ConventionsError,
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
    from weightlift.frameworks._adapters import register_adapter
    from weightlift.protocols import Slot
    from weightlift.types import (
        DiffReport,
        LoadReport,
        ModelArtifacts,
        ModelArtifactsInfo,
        Quantization,
        SaveResult,
        TensorDiff,
        TensorQuantization,
        TensorReport,
        TfjsProblem,
        TfjsReport,
        TrainingConfig,
        VerifyReport,
        WeightSpec,
    )

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "BufferPool",
    "ChangedError",
    "ChecksumError",
    "ConventionsError",
    "DiffReport",
    "FormatError",
    "LoadReport",
    "MismatchError",
    "ModelArtifacts",
    "ModelArtifactsInfo",
    "NotFoundError",
    "Quantization",
    "QuotaError",
    "RoutingError",
    "SaveResult",
    "Slot",
    "StorageError",
    "TensorDiff",
    "TensorQuantization",
    "TensorReport",
    "TensorView",
    "TfjsProblem",
    "TfjsReport",
    "TrainingConfig",
    "TransportError",
    "TruncatedError",
    "UnsafeContentError",
    "UnsupportedFeatureError",
    "VerifyReport",
    "WeightSpec",
    "WeightliftError",
    "Weights",
    "aio",
    "browser_files",
    "cast",
    "check_tfjs",
    "checkpoint",
    "convert",
    "copy_model",
    "crc32c",
    "dequantize",
    "diff",
    "export_browser_dump",
    "from_memory",
    "get_load_handlers",
    "get_save_handlers",
    "http",
    "import_browser_dump",
    "list_models",
    "load",
    "load_model",
    "load_module",
    "move_model",
    "open",
    "quantize",
    "register_adapter",
    "register_exporter",
    "register_load_router",
    "register_model_manager",
    "register_module",
    "register_save_router",
    "remove_model",
    "save",
    "save_model",
    "save_module",
    "unregister_load_router",
    "unregister_model_manager",
    "unregister_save_router",
    "verify",
    "with_save_handler",
]

_HOME = {
    "AccessError": "weightlift.errors",
    "BufferPool": "weightlift._ops",
    "ChangedError": "weightlift.errors",
    "ChecksumError": "weightlift.errors",
    "ConventionsError": "weightlift.errors",
    "DiffReport": "weightlift.types",
    "FormatError": "weightlift.errors",
    "LoadReport": "weightlift.types",
    "MismatchError": "weightlift.errors",
    "ModelArtifacts": "weightlift.types",
    "ModelArtifactsInfo": "weightlift.types",
    "NotFoundError": "weightlift.errors",
    "Quantization": "weightlift.types",
    "QuotaError": "weightlift.errors",
    "RoutingError": "weightlift.errors",
    "SaveResult": "weightlift.types",
    "Slot": "weightlift.protocols",
    "StorageError": "weightlift.errors",
    "TensorDiff": "weightlift.types",
    "TensorQuantization": "weightlift.types",
    "TensorReport": "weightlift.types",
    "TfjsProblem": "weightlift.types",
    "TfjsReport": "weightlift.types",
    "TensorView": "weightlift._weights",
    "TrainingConfig": "weightlift.types",
    "TransportError": "weightlift.errors",
    "TruncatedError": "weightlift.errors",
    "UnsafeContentError": "weightlift.errors",
    "UnsupportedFeatureError": "weightlift.errors",
    "VerifyReport": "weightlift.types",
    "WeightSpec": "weightlift.types",
    "WeightliftError": "weightlift.errors",
    "Weights": "weightlift._weights",
    "aio": "weightlift.aio",
    "browser_files": "weightlift._browser_handlers",
    "cast": "weightlift._api",
    "check_tfjs": "weightlift._check_tfjs",
    "checkpoint": "weightlift.checkpoint",
    "convert": "weightlift._api",
    "copy_model": "weightlift._managers",
    "crc32c": "weightlift._api",
    "dequantize": "weightlift._api",
    "diff": "weightlift._api",
    "export_browser_dump": "weightlift._dumps",
    "from_memory": "weightlift._handlers",
    "get_load_handlers": "weightlift._models",
    "get_save_handlers": "weightlift._models",
    "http": "weightlift._http_handlers",
    "import_browser_dump": "weightlift._dumps",
    "list_models": "weightlift._managers",
    "load": "weightlift._api",
    "load_model": "weightlift._models",
    "load_module": "weightlift._modules",
    "move_model": "weightlift._managers",
    "open": "weightlift._api",
    "quantize": "weightlift._api",
    "register_adapter": "weightlift.frameworks._adapters",
    "register_exporter": "weightlift._models",
    "register_load_router": "weightlift._models",
    "register_model_manager": "weightlift._managers",
    "register_module": "weightlift._modules",
    "register_save_router": "weightlift._models",
    "remove_model": "weightlift._managers",
    "save": "weightlift._api",
    "save_model": "weightlift._models",
    "save_module": "weightlift._modules",
    "unregister_load_router": "weightlift._models",
    "unregister_model_manager": "weightlift._managers",
    "unregister_save_router": "weightlift._models",
    "verify": "weightlift._api",
    "with_save_handler": "weightlift._handlers",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'weightlift' has no attribute {name!r}")
    module = import_module(home)
    value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return __all__
