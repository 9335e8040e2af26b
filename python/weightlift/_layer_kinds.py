"""The one table of layers: what each framework calls their parameters, and in which order it keeps their axes.

A column is a line of parameters, in the same order for every framework: ``name:axes``. A letter is an axis, the same
letter the same size all over the layer; ``(gh)`` is one axis made of two; ``1`` is an axis of one element. ``?`` marks
what a layer may lack, ``@collection`` where Flax keeps it, ``cell/`` what lies deeper than the layer.
In the place of a parameter stands ``-`` for one that a framework does not have, ``+`` for one that is added to the
parameter before it, ``^`` for one that is stacked with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from weightlift.errors import UnsupportedFeatureError

__all__ = ["FRAMEWORKS", "Kind", "Leaf", "all_kinds", "parse_conventions"]

FRAMEWORKS = ("torch", "keras", "tensorflow", "tfjs", "mxnet", "flax")
_LIKE = {"tensorflow": "keras", "tfjs": "keras"}
"""Whose column holds for a framework that has none of its own."""

_SPATIAL = {1: "k", 2: "hw", 3: "dhw"}

_RNN_TORCH = "weight_ih_l0:(gh)i weight_hh_l0:(gh)h bias_ih_l0?:(gh) bias_hh_l0?:(gh)"
_RNN_MXNET = " ".join(
    f"_unfused/0/{name}:{axes}"
    for name, axes in {"i2h_weight": "(gh)i", "h2h_weight": "(gh)h", "i2h_bias?": "(gh)", "h2h_bias?": "(gh)"}.items()
)
_RNN_KERAS = "cell/kernel:i(gh) cell/recurrent_kernel:h(gh) cell/bias?:(gh) +"
_RNN_TFJS = "kernel:i(gh) recurrent_kernel:h(gh) bias?:(gh) +"

_CELL_TORCH = "weight_ih:(gh)i weight_hh:(gh)h bias_ih?:(gh) bias_hh?:(gh)"
_CELL_MXNET = "i2h_weight:(gh)i h2h_weight:(gh)h i2h_bias?:(gh) h2h_bias?:(gh)"
_CELL_KERAS = "kernel:i(gh) recurrent_kernel:h(gh) bias?:(gh) +"

_COLUMNS: dict[str, dict[str, str]] = {
    "Linear": {
        "torch": "weight:oi bias?:o",
        "mxnet": "weight:oi bias?:o",
        "keras": "kernel:io bias?:o",
        "flax": "kernel:io bias?:o",
    },
    "Embedding": {"torch": "weight:nd", "mxnet": "weight:nd", "keras": "embeddings:nd", "flax": "embedding:nd"},
    **{
        f"Conv{n}d": {
            "torch": f"weight:oi{s} bias?:o",
            "mxnet": f"weight:oi{s} bias?:o",
            "keras": f"kernel:{s}io bias?:o",
            "flax": f"kernel:{s}io bias?:o",
        }
        for n, s in _SPATIAL.items()
    },
    **{  # Flax turns its kernels over by default, and has another way to pad: there is no rule for it
        f"ConvTranspose{n}d": {
            "torch": f"weight:io{s} bias?:o",
            "mxnet": f"weight:io{s} bias?:o",
            "keras": f"kernel:{s}oi bias?:o",
        }
        for n, s in _SPATIAL.items()
    },
    **{
        f"DepthwiseConv{n}d": {
            "torch": f"weight:(cm)1{s} bias?:(cm)",
            "mxnet": f"weight:(cm)1{s} bias?:(cm)",
            "keras": f"kernel:{s}cm bias?:(cm)",
            "tensorflow": f"depthwise_kernel:{s}cm bias?:(cm)",
            "tfjs": f"depthwise_kernel:{s}cm bias?:(cm)",
            "flax": f"kernel:{s}1(cm) bias?:(cm)",
        }
        for n, s in _SPATIAL.items()
        if n < 3
    },
    "BatchNorm": {
        "torch": "weight?:c bias?:c running_mean:c running_var:c num_batches_tracked?:",
        "mxnet": "gamma?:c beta?:c running_mean:c running_var:c -",
        "keras": "gamma?:c beta?:c moving_mean:c moving_variance:c -",
        "flax": "scale?:c bias?:c mean@batch_stats:c var@batch_stats:c -",
    },
    **{
        norm: {
            "torch": "weight:c bias?:c",
            "mxnet": "gamma:c beta?:c",
            "keras": "gamma?:c beta?:c",
            "flax": "scale?:c bias?:c",
        }
        for norm in ("LayerNorm", "GroupNorm", "InstanceNorm")
    },
    "RMSNorm": {"torch": "weight:c", "keras": "scale:c", "tensorflow": "", "tfjs": "", "flax": "scale:c"},
    "PReLU": {"torch": "weight:c", "mxnet": "alpha:c", "keras": "alpha:c"},  # on what has no spatial axes
    **{
        f"PReLU{n}d": {"torch": "weight:c", "mxnet": "alpha:c", "keras": f"alpha:{'1' * n}c"}  # shared over them
        for n in _SPATIAL
    },
    "LSTM": {"torch": _RNN_TORCH, "mxnet": _RNN_MXNET, "keras": _RNN_KERAS, "tfjs": _RNN_TFJS},
    "RNN": {"torch": _RNN_TORCH, "mxnet": _RNN_MXNET, "keras": _RNN_KERAS, "tfjs": _RNN_TFJS},
    "GRU": {
        "torch": _RNN_TORCH,
        "mxnet": _RNN_MXNET,
        "keras": "cell/kernel:i(gh) cell/recurrent_kernel:h(gh) cell/bias?:2(gh) ^",
        "tfjs": "",
    },
    "GRU(reset_after=False)": {"keras": _RNN_KERAS, "tfjs": _RNN_TFJS},  # PyTorch's and MXNet's compute something else
    **{  # one step; TensorFlow.js has no layer of a cell alone
        f"{name}Cell": {"torch": _CELL_TORCH, "mxnet": _CELL_MXNET, "keras": _CELL_KERAS, "tfjs": ""}
        for name in ("LSTM", "RNN")
    },
    "GRUCell": {
        "torch": _CELL_TORCH,
        "mxnet": _CELL_MXNET,
        "keras": "kernel:i(gh) recurrent_kernel:h(gh) bias?:2(gh) ^",
        "tfjs": "",
    },
    "GRUCell(reset_after=False)": {"keras": _CELL_KERAS, "tfjs": ""},
}

_GATED = {"LSTM": 4, "GRU": 3, "RNN": 1}
_SIZES: dict[str, dict[str, int]] = {
    name: {"g": gates} for kind, gates in _GATED.items() for name in _COLUMNS if name.startswith(kind)
}
_GATES = {name: {"torch": "rzn", "mxnet": "rzn", "keras": "zrn", "tensorflow": "zrn"} for name in ("GRU", "GRUCell")}
"""The order of the gates along ``g``, where frameworks differ."""

_LEAF = re.compile(r"(?:(\w+(?:/\w+)*)/)?(\w+)(\?)?(?:@(\w+))?:(\S*)")
_TOKEN = re.compile(r"\((\w+)\)|(\w)")


@dataclass(frozen=True)
class Leaf:
    """A parameter of a layer in one framework.

    Attributes:
        below: The parts of its name between the layer and itself.
        name: The last part.
        optional: A layer may be without it.
        collection: The first part of its name in Flax.
        axes: One a text; of several letters where it is made of several.
    """

    below: tuple[str, ...]
    name: str
    optional: bool
    collection: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        name: As ``kinds=`` has it.
        columns: By framework, a ``Leaf`` or ``-``, ``+``, ``^`` for each parameter.
        sizes: Axes whose size is always the same.
        gates: By framework, the order of the gates.
    """

    name: str
    columns: Mapping[str, tuple[Leaf | str, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    gates: Mapping[str, str] = field(default_factory=dict)

    def deeper(self, framework: str) -> bool:
        """Whether its parameters lie deeper than the layer, which tells it from kinds of the same parameters."""
        return any(isinstance(leaf, Leaf) and leaf.below for leaf in self.columns[framework])


@cache
def all_kinds() -> dict[str, Kind]:
    """The table, by name."""
    return {
        name: Kind(name, _columns(text), _SIZES.get(name, {}), _GATES.get(name, {})) for name, text in _COLUMNS.items()
    }


def _columns(texts: Mapping[str, str]) -> dict[str, tuple[Leaf | str, ...]]:
    found = {}
    for framework in FRAMEWORKS:
        text = texts.get(framework, texts.get(_LIKE.get(framework, ""), ""))
        if text:
            found[framework] = tuple(_leaf(part) for part in text.split())
    return found


def _leaf(text: str) -> Leaf | str:
    if text in "-+^":
        return text
    match = _LEAF.fullmatch(text)
    assert match is not None, text
    below, name, optional, collection, axes = match.groups()
    return Leaf(
        tuple(below.split("/")) if below else (),
        name,
        bool(optional),
        collection or "params",
        tuple(a or b for a, b in _TOKEN.findall(axes)),
    )


def parse_conventions(text: str) -> tuple[str, str]:
    """``"torch->keras"`` as its two frameworks."""
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not arrow or source == target or not {source, target} <= set(FRAMEWORKS):
        raise UnsupportedFeatureError(
            f'conventions={text!r}: give "A->B", where A and B are two of {", ".join(FRAMEWORKS)}'
        )
    return source, target
