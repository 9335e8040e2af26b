"""Conversion: a save whose tensors come from an open file, in bounded memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from weightlift._job import SaveOptions, Target
from weightlift._live import places_in
from weightlift._load import Rename, refuse_objects, rename_keys
from weightlift._save import save_leaves
from weightlift._source import Names, Row, Source, choose_rows
from weightlift._tree import unflatten
from weightlift._urls import is_keras_file
from weightlift.formats import by_name, by_suffix
from weightlift.protocols import Format
from weightlift.types import SaveResult

__all__ = ["Kinds", "as_another", "convert_source", "of_models"]

Kinds = Mapping[str, str | Sequence[str]] | None
"""What layers are, by name or glob: see :func:`weightlift.load`."""


def as_another(
    source: Source,
    names: Names,
    conventions: str | None,
    kinds: Kinds,
    *,
    verify: bool,
    into: Any = None,
    rename: Rename = None,
) -> tuple[Source, Names]:
    """The source as ``conventions`` want it, and the names to take of that.

    ``into`` is a live object that has the last word where a layer may be of several kinds; ``rename`` leads to it.
    """
    if conventions is None:
        if kinds is not None:
            raise TypeError("kinds= is about conventions=")
        return source, names
    from weightlift._conventions import with_conventions  # for those who ask for it

    names = names if names is None or isinstance(names, str) else list(names)  # looked through more than once
    fits = None if into is None else places_in(into, rename)
    made = with_conventions(source, conventions, kinds=kinds or {}, names=names, fits=fits, verify=verify)
    return made, None if names is None else list(made.table.names)


def convert_source(
    source: Source,
    target: Target,
    options: SaveOptions,
    *,
    names: Names = None,
    rename: Rename = None,
    verify: bool = True,
) -> SaveResult:
    """Write the chosen tensors of a source in another format; structure and metadata go along."""
    layout, table = source.layout, source.table
    if verify:
        source.refuse_damaged()
    refuse_objects(source, names)
    if names is None and verify:
        source.check_whole()
    if names is None:
        unflatten(layout.structure, dict.fromkeys(table.names))  # refuses a structure that is not of these tensors
    rows = choose_rows(table, names).tolist()
    if names is None:
        rows = rows if layout.order is None else layout.order.tolist()
    new_names = list(rename_keys({table.names[r]: r for r in rows}, rename))
    structure = layout.structure if names is None and rename is None else None
    options = _with_what_goes_along(source, target.format, options)
    leaves = [Row(source, r) for r in rows]
    return save_leaves(new_names, leaves, structure, target, options, verify=verify)


def _with_what_goes_along(source: Source, fmt: Format, options: SaveOptions) -> SaveOptions:
    """What only the source's own format can hold, if that is the target's too; metadata as the target holds it."""
    if fmt.name == "safetensors":  # its metadata is text; other values go as JSON
        text = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in options.metadata.items()}
        return replace(options, metadata=text)
    if fmt.name != source.format.name or fmt.name != "tfjs":
        return options
    extra = dict(source.layout.extra)
    if isinstance(extra.get("userDefinedMetadata"), dict):
        del extra["userDefinedMetadata"]  # it is the metadata, which the caller may have replaced
    return replace(options, extra={**extra, **options.extra})


def of_models(source: str | os.PathLike[str], target: str | os.PathLike[str], format: str | None) -> bool:
    """Whether a conversion is one of whole models: to or from a file of Keras, unless weights alone are asked for."""
    if not (is_keras_file(source) or is_keras_file(target)):
        return False
    if format is not None and format != "tfjs" and by_name(format):
        return False
    to, whole = by_suffix(str(target)), str(target).lower().endswith(".keras")
    if str(source).lower().endswith(".weights.h5") and not whole:
        return False
    if to is None or to.name == "tfjs" or whole:
        return True
    kept = by_suffix(str(source))  # a model.json is a model, which an .h5 file of weights is not
    models = kept is None or kept.name == "tfjs"
    return models and is_keras_file(target) and not str(target).lower().endswith(".weights.h5")
