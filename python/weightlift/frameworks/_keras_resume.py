"""Keras 3 models and optimizers as training goes on from them: more than the weights that a save of a model holds.

That is the optimizer's state (``optimizer/vars/0`` …, as Keras calls it in its files) and the seeds of the layers that
draw random numbers (``seeds/0`` …, in the order of ``model.variables``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightlift.errors import UnsupportedFeatureError
from weightlift.frameworks._keras_live import adapt as adapt_weights
from weightlift.frameworks._tensorflow_live import Variables
from weightlift.protocols import LiveTensors

__all__ = ["TrainingState", "adapt", "wrapped"]


class TrainingState:
    """What stands for a model or an optimizer in a state."""

    def __init__(self, obj: Any) -> None:
        """Of a ``keras.Model`` or ``keras.Optimizer``."""
        self.obj = obj


def wrapped(obj: Any) -> Any:
    """An object of Keras that has a state beside its weights, wrapped; another as it is."""
    import keras

    return TrainingState(obj) if isinstance(obj, (keras.Model, keras.optimizers.Optimizer)) else obj


def adapt(state: Any) -> LiveTensors | None:
    """The adapter of a wrapped object; an optimizer that a model has is built, if it is not yet."""
    if not isinstance(state, TrainingState):
        return None
    import keras

    obj = state.obj
    if isinstance(obj, keras.Model):
        return _Training(type(obj).__name__, _of_model(obj), state)
    if not obj.built:
        raise UnsupportedFeatureError(
            f"the {type(obj).__name__} has no state yet: call its build(model.trainable_variables), or save it as part "
            "of its compiled model"
        )
    return _Training(type(obj).__name__, {f"vars/{n}": variable for n, variable in enumerate(obj.variables)}, state)


def _of_model(model: Any) -> Mapping[str, Any]:
    weights = adapt_weights(model)
    assert isinstance(weights, Variables)
    variables = {name: v for name, v in weights.variables.items() if not name.startswith("optimizer/vars/")}
    held = {id(variable) for variable in variables.values()}
    seeds = [variable for variable in model.variables if id(variable) not in held]
    variables |= {f"seeds/{n}": variable for n, variable in enumerate(seeds)}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        variables |= {f"optimizer/vars/{n}": variable for n, variable in enumerate(optimizer.variables)}
    return variables


class _Training(Variables):
    """Variables whose values any backend gives."""

    def tree(self) -> Any:
        import keras

        return {name: keras.ops.convert_to_numpy(variable) for name, variable in self._variables.items()}
