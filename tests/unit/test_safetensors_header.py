"""safetensors: the text of a header is what the standard library's encoder would write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from weightlift._packing import PackOptions
from weightlift.errors import UnsupportedFeatureError
from weightlift.formats._safetensors import SAFETENSORS
from weightlift.testing import write_tensors

Array = np.ndarray[Any, Any]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = texts.filter(lambda key: not key.startswith("weightlift."))  # ours
names = texts.filter(lambda name: name not in ("", "__metadata__"))
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.dictionaries(names, npst.arrays(np.float32, shapes), max_size=5), st.dictionaries(keys, texts, max_size=2))
def test_the_header_is_what_json_dumps_makes(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    written = write_tensors(SAFETENSORS, tensors, "m.safetensors", options=PackOptions(metadata=metadata))
    data = written.files["m.safetensors"]
    text = data[8 : 8 + int.from_bytes(data[:8], "little")].decode("utf-8")
    entries = json.loads(text)
    compact = json.dumps(entries, separators=(",", ":"), ensure_ascii=False)
    assert text.rstrip(" ") == compact
    assert len(text) == len(compact) or len(text.encode()) % 8 == 0
    assert [name for name in entries if name != "__metadata__"] == list(tensors)


@pytest.mark.parametrize(
    ("tensors", "metadata", "what"),
    [
        ({"a\ud800b": np.zeros(1)}, {}, r"its name holds.*\\ud800"),
        ({"a": np.zeros(1)}, {"k": "\udc00"}, "metadata holds"),
    ],
)
def test_half_a_surrogate_pair_is_refused(tensors: dict[str, Array], metadata: dict[str, str], what: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=what):
        write_tensors(SAFETENSORS, tensors, "m.safetensors", options=PackOptions(metadata=metadata))
