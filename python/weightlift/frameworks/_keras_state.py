"""The state of Keras' optimizers, by TensorFlow.js' names and in its order, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightlift.errors import MismatchError

__all__ = ["SLOTS", "Stored", "is_legacy", "optimizer_state", "stored_state"]


@dataclass(frozen=True)
class _Slots:
    """What an optimizer keeps of each variable: TensorFlow.js' names, in its order; and how Keras lists it."""

    names: tuple[str, ...]
    by_variable: bool = False
    """Keras lists all of the first variable, then all of the second; else it lists one after the other."""


SLOTS: dict[str, _Slots] = {
    "SGD": _Slots(("momentum",)),
    "Adam": _Slots(("m", "v"), by_variable=True),
    "RMSprop": _Slots(("rms", "momentum", "mg")),
    "Adagrad": _Slots(("accumulator",)),
}


@dataclass(frozen=True)
class Stored:
    """The variables of an optimizer, as Keras lists them.

    Attributes:
        arrays: The number of steps, in Keras 3 the learning rate, and then what it keeps of each variable.
        trained: The indices of the variables of which it keeps something, in its order; None: of all, in theirs.
    """

    arrays: Sequence[Any]
    trained: Sequence[int] | None = field(default=None)


def is_legacy(config: Mapping[str, Any]) -> bool:
    """Whether an optimizer is one of before Keras 2.11: it lists one slot after the other, and has other formulas."""
    return "use_ema" not in config


def _present(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What Keras keeps with these options, in its order."""
    if kind == "SGD":
        return ("momentum",) if config.get("momentum") else ()
    if kind == "RMSprop":
        flags = {"rms": True, "mg": config.get("centered"), "momentum": config.get("momentum")}
        return tuple(name for name in SLOTS[kind].names if flags[name])
    return SLOTS[kind].names


def _wanted(kind: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What TensorFlow.js keeps with these options, in its order."""
    if kind == "SGD":
        return ("momentum",) if config.get("momentum") else ()
    names = SLOTS[kind].names
    return names if kind != "RMSprop" or config.get("centered") else names[:2]


def optimizer_state(
    kind: str, config: Mapping[str, Any], stored: Stored, variables: Mapping[str, tuple[int, ...]], order: Sequence[str]
) -> dict[str, Any]:
    """The optimizer's weights by TensorFlow.js' names, in its order.

    Args:
        kind: Keras' class, one of ``SLOTS``.
        config: Keras' options of it.
        stored: Its variables.
        variables: Shapes of the trained variables by TensorFlow.js' names, in Keras' order.
        order: The same names in TensorFlow.js' order.

    Raises:
        MismatchError: The state is not of these variables.
    """
    arrays = [np.asarray(a) for a in stored.arrays]
    steps = int(arrays[0]) if arrays and arrays[0].shape == () else 0
    rate = float(config["learning_rate"])
    scalars = 0
    while scalars < min(2, len(arrays)) and arrays[scalars].shape == ():
        scalars += 1
    if scalars == 2:
        rate = float(arrays[1])
    weights: dict[str, Any] = {"iter": np.asarray(steps, np.int32)}
    slots = arrays[scalars:]
    if not slots and (steps == 0 or not _present(kind, config)):  # it never took a step, or keeps nothing
        return weights
    names = list(variables) if stored.trained is None else [list(variables)[i] for i in stored.trained]
    found = _assigned(kind, config, slots, names, variables)
    for slot in _wanted(kind, config):
        for name in order:
            value = found.get((name, slot))
            if value is None:  # without momentum Keras keeps none; TensorFlow.js keeps zeros
                value = np.zeros(variables[name], np.float32)
            if kind == "SGD":  # Keras has the learning rate in it, and the other sign
                value = value / -np.float32(rate)
            weights[f"{name}/{slot}"] = np.ascontiguousarray(value, np.float32)
    return weights


def _assigned(
    kind: str,
    config: Mapping[str, Any],
    slots: Sequence[Any],
    names: Sequence[str],
    variables: Mapping[str, tuple[int, ...]],
) -> dict[tuple[str, str], Any]:
    """Each array of an optimizer by the variable and the kind that it is."""
    present = _present(kind, config)
    if not present and len(slots) == len(names):  # tf_keras keeps momenta that nothing uses
        present = SLOTS[kind].names[:1]
    by_variable = SLOTS[kind].by_variable and not is_legacy(config)
    keys = [(n, s) for n in names for s in present] if by_variable else [(n, s) for s in present for n in names]
    if len(keys) != len(slots):
        raise MismatchError(
            f"the optimizer {kind} keeps {len(slots)} arrays, expected {len(keys)} for {len(names)} trained variables; "
            "the model was changed after it was compiled: compile it again, or save without include_optimizer"
        )
    for (name, slot), value in zip(keys, slots, strict=True):
        if value.shape != tuple(variables[name]):
            raise MismatchError(
                f"the optimizer's {slot} of {name} has shape {list(value.shape)}, expected {list(variables[name])}: "
                "save without include_optimizer",
                tensor=name,
            )
    return dict(zip(keys, slots, strict=True))


def stored_state(
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Any],
    variables: Mapping[str, tuple[int, ...]],
    order: Sequence[str],
) -> list[Any]:
    """The optimizer's variables as Keras 3 lists them, of TensorFlow.js' weights; those of a new one if there are none.

    Args:
        kind: Keras' class, one of ``SLOTS``.
        config: Keras' options of it.
        weights: TensorFlow.js' weights of the optimizer. It goes by their order, not by their names: so do we.
        variables: Shapes of the trained variables by TensorFlow.js' names, in Keras' order.
        order: The same names in TensorFlow.js' order.

    Raises:
        MismatchError: There are too many or too few, or they have other shapes.
    """
    rate = np.float32(config["learning_rate"])
    values = [np.asarray(w) for w in weights.values()]
    steps = int(values[0].reshape(())) if values and values[0].size == 1 else 0
    listed: list[Any] = [np.asarray(steps, np.int32), np.asarray(rate, np.float32)]
    found = dict(zip(_keys(_wanted(kind, config), order), values[1:], strict=False))
    fresh = len(values) <= 1 and steps == 0
    if not fresh and len(values) != 1 + len(_keys(_wanted(kind, config), order)):
        raise MismatchError(
            f"the optimizer {kind} has {len(values)} weights, expected {1 + len(_wanted(kind, config)) * len(order)}: "
            "to_keras(compile=False) goes without it"
        )
    present = _present(kind, config)
    by_variable = SLOTS[kind].by_variable
    for name, slot in [(n, s) for n in variables for s in present] if by_variable else _keys(present, variables):
        shape = tuple(variables[name])
        if fresh:
            listed.append(np.full(shape, config.get("initial_accumulator_value", 0.0), np.float32))
            continue
        value = np.asarray(found[name, slot], np.float32)
        if value.shape != shape:
            raise MismatchError(
                f"the optimizer's {slot} of it has shape {list(value.shape)}, expected {list(shape)}", tensor=name
            )
        listed.append(value * -rate if kind == "SGD" else value)
    return listed


def _keys(slots: Iterable[str], names: Iterable[str]) -> list[tuple[str, str]]:
    """One slot of all variables after the other."""
    listed = list(names)
    return [(name, slot) for slot in slots for name in listed]
