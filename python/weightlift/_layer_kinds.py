"""The one table of layers: what each framework calls their parameters, and in which order it keeps their axes.

A column is a line of parameters, in the same order for every framework: ``name:axes``. A letter is an axis, the same
letter the same size all over the layer, a capital another axis of that size; ``(gh)`` is one axis made of two; ``1`` is
an axis of one element, ``~h`` one that is turned over. ``?`` marks what a layer may lack, ``@collection`` where Flax
keeps it, ``cell/`` what lies deeper than the layer. ``out_proj.weight`` is a parameter of a layer that the layer has in
it, and ``<ii,if,ig,io>.kernel`` several tensors, one for each gate, which elsewhere are one with an axis ``g``.
In the place of a parameter stands ``-`` for one that a framework does not have, ``+`` for one that is added to the
parameter before it, ``^`` for one that is stacked with it; likewise for a gate of one, in ``<+,+,hn>``.
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

_CELL_TORCH = "weight_ih:(gh)i weight_hh:(gh)H bias_ih?:(gh) bias_hh?:(gh)"
_CELL_MXNET = "i2h_weight:(gh)i h2h_weight:(gh)H i2h_bias?:(gh) h2h_bias?:(gh)"
_CELL_KERAS = "kernel:i(gh) recurrent_kernel:H(gh) bias?:(gh) +"
_CELLS_FLAX = {
    "LSTM": "<ii,if,ig,io>.kernel:ih <hi,hf,hg,ho>.kernel:Hh <hi,hf,hg,ho>.bias?:h +",
    "GRU": "<ir,iz,in>.kernel:ih <hr,hz,hn>.kernel:Hh <ir,iz,in>.bias?:h <+,+,hn>.bias?:h",
    "RNN": "i.kernel:i(gh) h.kernel:H(gh) i.bias?:(gh) +",
}

_RNN_TORCH = re.sub(r"(\w)(\??):", r"\1_l0\2:", _CELL_TORCH)


def _below(part: str, column: str) -> str:
    """A column whose parameters lie deeper."""
    return " ".join(f"{part}/{text}" if ":" in text else text for text in column.split())


_ATTENTION_KERAS = (
    "<query_dense,key_dense,value_dense>.kernel:enk <query_dense,key_dense,value_dense>.bias?:nk "
    "output_dense.kernel:nke output_dense.bias?:e"
)

_RNN_MXNET = _below("_unfused", _CELL_MXNET)
_RNN_KERAS = _below("cell", _CELL_KERAS)
_RNN_TFJS = _CELL_KERAS
_RNN_FLAX = {kind: _below("cell", column) for kind, column in _CELLS_FLAX.items()}

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
    **{  # Flax turns its kernels over, unless `transpose_kernel` says otherwise
        f"ConvTranspose{n}d": {
            "torch": f"weight:io{s} bias?:o",
            "mxnet": f"weight:io{s} bias?:o",
            "keras": f"kernel:{s}oi bias?:o",
            "flax": f"kernel:{''.join(f'~{axis}' for axis in s)}io bias?:o",
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
    **{  # in torch and MXNet two convolutions in a row
        f"SeparableConv{n}d": {
            "torch": f"0.weight:(cm)1{s} 1.weight:o(cm){'1' * n} 1.bias?:o",
            "mxnet": f"0.weight:(cm)1{s} 1.weight:o(cm){'1' * n} 1.bias?:o",
            "keras": f"depthwise_kernel:{s}cm pointwise_kernel:{'1' * n}(cm)o bias?:o",
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
    **{
        name: {
            "torch": _RNN_TORCH,
            "mxnet": _RNN_MXNET,
            "keras": _RNN_KERAS,
            "tfjs": _RNN_TFJS,
            "flax": _RNN_FLAX[name],
        }
        for name in ("LSTM", "RNN")
    },
    "LSTM(proj_size)": {"torch": f"{_RNN_TORCH.replace('H', 'p')} weight_hr_l0:ph"},  # no other framework's here
    "GRU": {
        "torch": _RNN_TORCH,
        "mxnet": _RNN_MXNET,
        "keras": "cell/kernel:i(gh) cell/recurrent_kernel:H(gh) cell/bias?:2(gh) ^",
        "tfjs": "",
        "flax": _RNN_FLAX["GRU"],
    },
    "GRU(reset_after=False)": {"keras": _RNN_KERAS, "tfjs": _RNN_TFJS},  # PyTorch's and MXNet's compute something else
    **{  # one step; TensorFlow.js has no layer of a cell alone
        f"{name}Cell": {
            "torch": _CELL_TORCH,
            "mxnet": _CELL_MXNET,
            "keras": _CELL_KERAS,
            "tfjs": "",
            "flax": _CELLS_FLAX[name],
        }
        for name in ("LSTM", "RNN")
    },
    "GRUCell": {
        "torch": _CELL_TORCH,
        "mxnet": _CELL_MXNET,
        "keras": "kernel:i(gh) recurrent_kernel:H(gh) bias?:2(gh) ^",
        "tfjs": "",
        "flax": _CELLS_FLAX["GRU"],
    },
    "GRUCell(reset_after=False)": {"keras": _CELL_KERAS, "tfjs": ""},
    "MultiheadAttention": {  # e as large as n heads of k together, in torch
        "torch": "in_proj_weight:(gnk)e in_proj_bias?:(gnk) out_proj.weight:e(nk) out_proj.bias?:e",
        "keras": _ATTENTION_KERAS,
        "tensorflow": re.sub(r"(\w+_dense)", r"_\1", _ATTENTION_KERAS),
        "tfjs": "",
        "flax": "<query,key,value>.kernel:enk <query,key,value>.bias?:nk out.kernel:nke out.bias?:e",
    },
}

_GATED = {"LSTM": 4, "GRU": 3, "RNN": 1, "MultiheadAttention": 3}
_SIZES: dict[str, dict[str, int]] = {
    name: {"g": gates} for kind, gates in _GATED.items() for name in _COLUMNS if name.startswith(kind)
}
_GATES = {
    name: {"torch": "rzn", "mxnet": "rzn", "keras": "zrn", "tensorflow": "zrn", "flax": "rzn"}
    for name in ("GRU", "GRUCell")
}
"""The order of the gates along ``g``, where frameworks differ."""
_COUNTED = {"Depthwise": "m", "Separable": "m", "Multihead": "n"}
"""The axis whose size the tensors of PyTorch do not say, by how the names of kinds begin."""
_SQUARE = {"MultiheadAttention": {"torch": ("e", "nk")}}
"""Axes that a framework only has as large as others together."""

_LEAF = re.compile(r"(?:(\w+)/)?([^?@:/]+)(\?)?(?:@(\w+))?:(\S*)")
_TOKEN = re.compile(r"\((\w+)\)|(~?\w)")
_SPLIT = re.compile(r"<(.*)>(.*)")


@dataclass(frozen=True)
class Leaf:
    """A parameter of a layer in one framework.

    Attributes:
        below: The parts of its name between the layer and itself.
        names: The rest of it; several where it is a tensor for each gate, empty for gates that it lacks.
        optional: A layer may be without it.
        collection: The first part of its name in Flax.
        axes: One a text; of several letters where it is made of several.
        flipped: Axes that are turned over.
    """

    below: tuple[str, ...]
    names: tuple[str, ...]
    optional: bool
    collection: str
    axes: tuple[str, ...]
    flipped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        name: As ``kinds=`` has it.
        columns: By framework, a ``Leaf`` or ``-``, ``+``, ``^`` for each parameter.
        sizes: Axes whose size is always the same.
        gates: By framework, the order of the gates.
        square: By framework, an axis and those that are together as large.
    """

    name: str
    columns: Mapping[str, tuple[Leaf | str, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    gates: Mapping[str, str] = field(default_factory=dict)
    square: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def counted(self) -> str:
        """The axis whose size is said with its name, as in ``DepthwiseConv2d*2``; empty for most kinds."""
        return next((axis for begin, axis in _COUNTED.items() if self.name.startswith(begin)), "")

    def inner(self, framework: str) -> frozenset[str]:
        """The layers that it has in it, by name; none for most kinds."""
        leaves = (leaf for leaf in self.columns.get(framework, ()) if isinstance(leaf, Leaf))
        return frozenset(name.rpartition(".")[0] for leaf in leaves for name in leaf.names if "." in name)


@cache
def all_kinds() -> dict[str, Kind]:
    """The table, by name."""
    return {
        name: Kind(name, _columns(text), _SIZES.get(name, {}), _GATES.get(name, {}), _SQUARE.get(name, {}))
        for name, text in _COLUMNS.items()
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
    split = _SPLIT.fullmatch(name)
    tokens = [a or b for a, b in _TOKEN.findall(axes)]
    return Leaf(
        (below,) if below else (),
        (name,) if split is None else tuple(f"{g}{split[2]}" if g != "+" else "" for g in split[1].split(",")),
        bool(optional),
        collection or "params",
        tuple(token.lstrip("~") for token in tokens),
        frozenset(token[1:] for token in tokens if token[0] == "~"),
    )


def parse_conventions(text: str) -> tuple[str, str]:
    """``"torch->keras"`` as its two frameworks."""
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not arrow or source == target or not {source, target} <= set(FRAMEWORKS):
        raise UnsupportedFeatureError(
            f'conventions={text!r}: give "A->B", where A and B are two of {", ".join(FRAMEWORKS)}'
        )
    return source, target
