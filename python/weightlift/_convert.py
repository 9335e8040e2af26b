"""Conversion: a save whose tensors come from an open file, in bounded memory."""

from __future__ import annotations

import json
from dataclasses import replace

from weightlift._job import SaveOptions, Target
from weightlift._load import Rename, refuse_objects, rename_keys
from weightlift._save import save_leaves
from weightlift._source import Names, Row, Source, choose_rows
from weightlift._tree import unflatten
from weightlift.protocols import Format
from weightlift.types import SaveResult

__all__ = ["convert_source"]


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
