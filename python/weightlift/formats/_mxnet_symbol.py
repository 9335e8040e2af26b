"""A network of MXNet's in two files: ``PREFIX-symbol.json``, its graph, and ``PREFIX-0000.params``, its parameters.

``HybridBlock.export`` and Module's ``save_checkpoint`` write them. Neither names the other: the number is that of an
epoch, 0 where only the symbol is named. The names of parameters in the file have ``arg:`` or, those of auxiliary
states, ``aux:`` in front, which the tensors here have not.

Specification: docs/formats/mxnet.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weightlift._layout import Layout, TensorTable
from weightlift._mxnet_graph import FORMAT, MAX_BYTES, Graph, check_symbol, parse_symbol, symbol_text
from weightlift._packing import Checksums, PackedFile, Packing, PackOptions, TensorSpecs
from weightlift.errors import FormatError, MismatchError, NotFoundError, UnsupportedFeatureError, WeightliftError
from weightlift.formats._mxnet import MXNET, MXNET_V2
from weightlift.formats._npz import NPZ
from weightlift.protocols import Files

__all__ = ["MXNET_SYMBOL", "MxnetSymbol"]

AUXILIARY = "auxiliaryStates"
"""The key of ``Layout.extra`` and ``ModelArtifacts.extra`` that names auxiliary states."""

_SYMBOL = re.compile(r"(.*)-symbol\.json", re.DOTALL)
_PARAMETERS = re.compile(r"(.*)-\d{4,}\.params", re.DOTALL)
_START = re.compile(rb'\s*\{\s*"nodes"\s*:\s*\[')
_ZIP = b"PK"


def _pair(name: str) -> tuple[str, str]:
    """The names of both files, given one."""
    symbol = MXNET_SYMBOL.model_beside(name)
    if symbol is not None:
        return symbol, name
    found = _SYMBOL.fullmatch(name)
    if found is None:
        raise FormatError(
            "a symbol of MXNet's is called PREFIX-symbol.json, and its parameters PREFIX-0000.params, so that one is "
            f"found by the other; not {name!r}"
        )
    return name, f"{found[1]}-0000.params"


class MxnetSymbol:
    """The format; see the module."""

    name = FORMAT
    suffixes: Sequence[str] = ("-symbol.json",)
    metadata_in_file = False
    model_keys = frozenset(
        {"modelTopology", "format", "generatedBy", "convertedBy", AUXILIARY, "weightSpecs", "userDefinedMetadata"}
    )

    def model_beside(self, name: str) -> str | None:
        """The symbol's file that belongs to a file of parameters."""
        found = _PARAMETERS.fullmatch(name)
        return None if found is None else f"{found[1]}-symbol.json"

    def sniff(self, head: bytes, size: int) -> bool:
        """A symbol begins with its nodes."""
        return _START.match(head) is not None

    def read(self, files: Files, name: str) -> Layout:
        """The parameters, by the names of the symbol's variables; both files must agree."""
        symbol, parameters = _pair(name)
        document, graph = _read_symbol(files, symbol)
        layout = _read_parameters(files, parameters)
        try:
            table, auxiliary = _renamed(layout, graph)
            graph.compare(dict(zip(table.names, table.shapes, strict=True)))
        except WeightliftError as error:
            raise error.locate(path=files.open(parameters).name) from None
        extra = {"modelTopology": document, "format": self.name, AUXILIARY: auxiliary}
        if graph.generated_by is not None:
            extra["generatedBy"] = graph.generated_by
        return replace(layout, format=self.name, tensors=table, structure=None, extra=extra, sidecar_of=parameters)

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """As in MXNet's files of arrays."""
        return MXNET.encode(specs, quantize)

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Both files, the parameters first, in the version that the symbol's shapes ask for."""
        symbol, parameters = _pair(name)
        document, graph = self._model(options.extra)
        graph.compare(dict(zip(specs.names, specs.shapes, strict=True)))
        auxiliary = options.extra.get(AUXILIARY)
        states = set(graph.auxiliary if auxiliary is None else _texts(auxiliary))
        if unknown := sorted(states - set(specs.names)):
            raise MismatchError(f"{AUXILIARY} names what are no weights: {', '.join(unknown[:5])}", missing=unknown)
        inner = MXNET if graph.np_shape else MXNET_V2
        inner.encode(specs, None)  # version 2 has not all shapes
        prefixed = replace(specs, names=[f"{'aux' if n in states else 'arg'}:{n}" for n in specs.names])
        packing = inner.pack(prefixed, parameters, replace(options, structure=None, extra={}))
        text = symbol_text(document)
        packing.files = [*packing.files, PackedFile(symbol, len(text), ((0, text),))]
        return packing

    def _model(self, extra: Mapping[str, Any]) -> tuple[Mapping[str, Any], Graph]:
        """The symbol that is to be written, checked."""
        document = extra.get("modelTopology")
        if document is None or extra.get("format") not in (None, self.name):
            raise UnsupportedFeatureError(
                f"{self.name} holds a graph of MXNet's and its parameters, which this is not: give save_model such a "
                "model; parameters alone go to a .params file, models of TensorFlow.js to model.json"
            )
        graph = check_symbol(document)
        if extra.get("convertedBy") is not None or extra.get("generatedBy") not in (None, graph.generated_by):
            raise UnsupportedFeatureError(
                f"{self.name} has no place for generated_by and converted_by: it says the version of MXNet, here "
                f"{graph.generated_by!r}; set them to None"
            )
        return document, graph

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Nothing in the files depends on checksums."""
        return {}

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """There is none."""
        raise FormatError(f"{self.name} has no manifest")


def _texts(value: Any) -> Sequence[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise FormatError(f"{AUXILIARY} is no list of names")
    return value


# --- reading --------------------------------------------------------------------------------------
def _read_symbol(files: Files, name: str) -> tuple[dict[str, Any], Graph]:
    reader = files.open(name)
    try:
        if reader.size > MAX_BYTES:
            raise FormatError(f"a symbol of {reader.size} bytes; at most {MAX_BYTES} are read")
        return parse_symbol(reader.read_at(0, reader.size))
    except WeightliftError as error:
        raise error.locate(path=reader.name) from None


def _read_parameters(files: Files, name: str) -> Layout:
    """The layout of the parameters' file, in whichever of MXNet's two formats."""
    try:
        reader = files.open(name)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no {name} beside the symbol; to load parameters of another epoch, name their file",
            path=error.path or error.url,
        ) from None
    layout = (NPZ if reader.read_at(0, min(2, reader.size)) == _ZIP else MXNET).read(files, name)
    for tensor, why in layout.objects.items():
        raise UnsupportedFeatureError(
            f"this parameter is no array that can be read: {why}", path=reader.name, tensor=tensor
        )
    return layout


def _renamed(layout: Layout, graph: Graph) -> tuple[TensorTable, list[str]]:
    """The table by the names of variables, and those that are auxiliary states."""
    table, names, auxiliary = layout.tensors, [], []
    if isinstance(layout.structure, dict) and "list" in layout.structure:
        raise FormatError("the parameters have no names, so it cannot be told which is which")
    seen: set[str] = set()
    for stored in table.names:
        plain = stored[:4] not in ("arg:", "aux:")  # as save_parameters and collect_params().save have them
        name = stored if plain else stored[4:]
        if name in graph.auxiliary if plain else stored.startswith("aux:"):
            auxiliary.append(name)
        if name in seen:
            raise FormatError("two arrays have the name of this variable", tensor=name)
        seen.add(name)
        names.append(name)
    renamed = TensorTable(
        names, table.dtypes, table.dtype_index, table.shapes, table.source, table.offset, table.nbytes,
        pieces=table.pieces, strides=table.strides,
    )  # fmt: skip
    renamed.check_kind, renamed.check_value, renamed.check_initial = (
        table.check_kind, table.check_value, table.check_initial,
    )  # fmt: skip
    return renamed, auxiliary


MXNET_SYMBOL = MxnetSymbol()
"""The format, as it stands in ``FORMATS``."""
