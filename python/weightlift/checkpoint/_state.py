"""What a state is made of: tensors, plain values, containers of both, and objects that know how to become these.

Objects with ``state_dict`` and what the adapters of frameworks know become trees (``frameworks/_adapters``).
Generators of random numbers, and types that users register, become ``{"$encoded": NAME, "state": TREE}``; what each
process has of its own becomes ``{"$rank": {"0": TREE}}``. Nothing is pickled: what is none of these is refused by its
place in the state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from weightlift._arrays import all_arrays, as_array
from weightlift._sharded import Shard, Sharded
from weightlift._tree import flatten
from weightlift.checkpoint._parts import Keeper, Part, State
from weightlift.errors import FormatError, UnsupportedFeatureError
from weightlift.formats._safetensors_pieces import piece_name
from weightlift.frameworks._adapters import expand, for_training
from weightlift.frameworks._shards import sharded

__all__ = ["RANK", "PerRank", "decode", "encode", "fill", "register_encoder", "take_apart"]

Array = npt.NDArray[Any]
_MARK, _STATE = "$encoded", "state"
RANK = "$rank"
_MAX_DEPTH = 100


@dataclass(frozen=True)
class PerRank:
    """What each process has of its own, in the state of many: its generator of random numbers, its place in the data.

    Of anything else in a state all processes must have the same, or the boxes of one array
    (:class:`~weightlift.checkpoint.Sharded`). ``restore`` gives each process its own back; None where no process of
    its rank has saved.

    Example:
        >>> import numpy as np, weightlift as wl
        >>> with wl.checkpoint.Checkpointer("own") as checkpointer:
        ...     state = {"rng": wl.checkpoint.PerRank(np.random.default_rng(7)), "step": 1}
        ...     _ = checkpointer.save(1, state, blocking=True)
        ...     checkpointer.restore()["rng"].integers(10)
        9
    """

    value: Any


@dataclass(frozen=True)
class _Encoder:
    kind: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    assign: Callable[[Any, Any], None] | None


_ENCODERS: dict[str, _Encoder] = {}


def register_encoder(
    kind: type,
    name: str,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    *,
    assign: Callable[[Any, Any], None] | None = None,
) -> None:
    """Teach checkpoints a type of object.

    Args:
        kind: The type, and what derives from it.
        name: What stands for it in checkpoints; a later registration of a name takes the place of an earlier one.
        encode: Gives the object's state: containers of arrays, numbers, text, None.
        decode: Makes an object of that.
        assign: ``assign(obj, state)`` puts an object that is there into the state, for ``restore(into=)``; which
            otherwise gives a new one.

    Example:
        >>> import weightlift as wl
        >>> from fractions import Fraction
        >>> wl.checkpoint.register_encoder(
        ...     Fraction, "fraction", lambda f: [f.numerator, f.denominator], lambda pair: Fraction(*pair))
        >>> with wl.checkpoint.Checkpointer("fractions") as checkpointer:
        ...     _ = checkpointer.save(1, {"rate": Fraction(1, 3)}, blocking=True)
        ...     checkpointer.restore()
        {'rate': Fraction(1, 3)}
    """
    _ENCODERS[name] = _Encoder(kind, name, encode, decode, assign)


def take_apart(state: Any, rank: int = 0, fetched: Callable[[Sequence[Any]], Sequence[Any]] | None = None) -> State:
    """The tensors and the structure of a state; of arrays that are spread over processes, this one's boxes.

    Args:
        state: What the user gave.
        rank: Of this process.
        fetched: Gives leaves with copies on the host in the place of tensors of a GPU, all at once; default: each
            is copied by itself.

    Raises:
        UnsupportedFeatureError: Something in it is neither; ``tensor`` is its path, joined by dots.
    """
    tree, _ = expand(encode(state, rank))
    names, leaves, structure = flatten(tree, values=True)
    taken = State(structure, names)
    for name, leaf in zip(names, leaves, strict=True):
        _add(taken, name, leaf, rank)
    taken.lasting = list(map(_lasts, taken.arrays))
    if not all_arrays(taken.arrays):
        here = taken.arrays if fetched is None else fetched(taken.arrays)
        taken.arrays = [_array(leaf, name) for leaf, name in zip(here, taken.names, strict=True)]
    return taken


def _add(taken: State, name: str, leaf: Any, rank: int) -> None:
    """The rows of a leaf: it, or its boxes; what is no array of NumPy yet will be."""
    spread = None if type(leaf) is np.ndarray else sharded(leaf, name)
    if spread is None:
        own = RANK in name and RANK in name.split(".")
        taken.add(name, leaf, None, keeper=Keeper.THIS if own else Keeper.ANY)
        return
    for shard in _with_elements(spread, name, rank):
        if shard.replica == 0 or shard.presumed:
            whole = shard.shape == spread.shape
            stored = name if whole else piece_name(name, shard.begin, shard.shape)
            part = None if whole else Part(name, spread.shape, shard.begin)
            taken.add(stored, shard.array, part, keeper=Keeper.ANOTHER if shard.replica else Keeper.THIS)


def _with_elements(spread: Sharded, name: str, rank: int) -> list[Shard]:
    """The boxes that hold something: of empty ones several processes may have the same, as one of few rows has.

    Of an array without elements there are no others: rank 0 stores it.
    """
    if 0 not in spread.shape:
        return [shard for shard in spread.shards if 0 not in shard.shape]
    if rank or not spread.shards:
        return []
    return [Shard((0,) * len(spread.shape), _array(spread.shards[0].array, name).reshape(spread.shape))]


def _lasts(leaf: Any) -> bool:
    """Whether the array of a leaf does not change with it: JAX' never do, and of another device's a copy was made.

    JAX does not take the memory of an array that is donated to a computation while somebody has an array over it.
    """
    if isinstance(leaf, np.ndarray):
        return False
    package = type(leaf).__module__.partition(".")[0]
    return package in ("jax", "jaxlib") or (package == "torch" and leaf.device.type != "cpu")


def _array(leaf: Any, name: str) -> Array:
    try:
        return as_array(leaf, name)
    except UnsupportedFeatureError as error:
        error.message += "; weightlift.checkpoint.register_encoder teaches checkpoints a type"
        error.args = (error.message, *error.args[1:])
        raise error.locate(tensor=name) from None


def encode(tree: Any, rank: int = 0, depth: int = 0) -> Any:
    """``tree`` with what encoders know in their words; the same object where there is none of it."""
    if type(tree) is np.ndarray:  # first: of these there may be a hundred thousand
        return tree
    if depth > _MAX_DEPTH:
        raise UnsupportedFeatureError(f"a state nested deeper than {_MAX_DEPTH}, or one that holds itself")
    if isinstance(tree, Mapping):
        taken = next((key for key in (_MARK, RANK) if key in tree), None)
        if taken is not None:
            raise UnsupportedFeatureError(f"a dict of the state has the key {taken!r}, which checkpoints use")
        made = {key: encode(item, rank, depth + 1) for key, item in tree.items()}
        return tree if all(made[key] is item for key, item in tree.items()) else made
    if type(tree) in (list, tuple):
        parts = [encode(item, rank, depth + 1) for item in tree]
        return tree if all(a is b for a, b in zip(parts, tree, strict=True)) else type(tree)(parts)
    if isinstance(tree, PerRank):
        return {RANK: {str(rank): encode(tree.value, rank, depth + 1)}}
    found = _encoder_of(tree)
    if found is None:
        return _for_training(tree)
    return {_MARK: found.name, _STATE: encode(found.encode(tree), rank, depth + 1)}


def decode(tree: Any, rank: int = 0) -> Any:
    """What ``encode`` was given, of that rank; FormatError for an encoder that nobody registered."""
    if isinstance(tree, dict):
        if RANK in tree:
            return decode(tree[RANK].get(str(rank)), rank)
        if _MARK not in tree:
            return {key: decode(item, rank) for key, item in tree.items()}
        found, inner = _named(tree)
        return found.decode(decode(inner, rank))
    return type(tree)(decode(item, rank) for item in tree) if type(tree) in (list, tuple) else tree


def fill(into: Any, loaded: Any, rank: int = 0) -> Any:
    """What ``restore(into=)`` returns: ``loaded``, with the encoded objects of ``into`` put into their states."""
    if isinstance(into, PerRank):
        return PerRank(fill(into.value, loaded[RANK][str(rank)], rank))
    if into is not loaded and _for_training(into) is not into:
        return into  # it was filled where it is
    if isinstance(loaded, dict) and _MARK in loaded and not isinstance(into, Mapping):
        found, inner = _named(loaded)
        state = decode(inner, rank)
        if found.assign is None or not isinstance(into, found.kind):
            return found.decode(state)
        found.assign(into, state)
        return into
    if isinstance(loaded, dict) and isinstance(into, Mapping):
        made = {key: fill(into.get(key), item, rank) for key, item in loaded.items()}
        return loaded if all(made[key] is item for key, item in loaded.items()) else made
    if type(loaded) in (list, tuple) and type(into) is type(loaded) and len(into) == len(loaded):
        parts = [fill(old, item, rank) for old, item in zip(into, loaded, strict=True)]
        return loaded if all(a is b for a, b in zip(parts, loaded, strict=True)) else type(loaded)(parts)
    return loaded


def _for_training(obj: Any) -> Any:
    plain = isinstance(obj, (np.ndarray, int, float, str, bytes, type(None)))
    return obj if plain else for_training(obj)


def _encoder_of(obj: Any) -> _Encoder | None:
    if isinstance(obj, (np.ndarray, int, float, str, bytes, type(None))) and not isinstance(obj, np.generic):
        return None
    return next((e for e in reversed(_ENCODERS.values()) if isinstance(obj, e.kind)), None)


def _named(tree: Mapping[Any, Any]) -> tuple[_Encoder, Any]:
    found = _ENCODERS.get(tree[_MARK]) if isinstance(tree[_MARK], str) else None
    if found is None or set(tree) != {_MARK, _STATE}:
        raise FormatError(
            f"the state holds an object encoded as {str(tree[_MARK])[:80]!r}, which nobody registered: call "
            "weightlift.checkpoint.register_encoder"
        )
    return found, tree[_STATE]


def _bit_generator(state: Mapping[str, Any]) -> np.random.Generator:
    kind = getattr(np.random, str(state.get("bit_generator")), None)
    if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator) and kind is not np.random.BitGenerator):
        raise FormatError(f"NumPy has no bit generator {str(state.get('bit_generator'))[:80]!r}")
    generator = np.random.Generator(kind())
    _set_generator(generator, state)
    return generator


def _set_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    generator.bit_generator.state = _with_arrays(state)


def _plain(value: Any) -> Any:
    """Arrays in the state of a generator as lists: it then is plain values only, which any ``into=`` can take."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return {"array": value.tolist(), "dtype": value.dtype.name} if isinstance(value, np.ndarray) else value


def _with_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"array", "dtype"}:
            return np.array(value["array"], value["dtype"])
        return {key: _with_arrays(item) for key, item in value.items()}
    return value


def _random(state: Any) -> random.Random:
    made = random.Random()
    _set_random(made, state)
    return made


def _set_random(generator: random.Random, state: Any) -> None:
    version, internal, gauss = state
    generator.setstate((version, tuple(internal), gauss))


def _set_legacy(generator: np.random.RandomState, state: Any) -> None:
    generator.set_state(_with_arrays(state))


def _legacy(state: Any) -> np.random.RandomState:
    made = np.random.RandomState()
    _set_legacy(made, state)
    return made


register_encoder(
    np.random.Generator, "numpy.random.Generator", lambda g: _plain(g.bit_generator.state), _bit_generator,
    assign=_set_generator,
)  # fmt: skip
register_encoder(
    np.random.RandomState, "numpy.random.RandomState", lambda g: _plain(g.get_state(legacy=False)), _legacy,
    assign=_set_legacy,
)  # fmt: skip
register_encoder(random.Random, "random.Random", lambda g: list(g.getstate()), _random, assign=_set_random)
register_encoder(np.generic, "numpy scalar", np.asarray, lambda array: array[()])
