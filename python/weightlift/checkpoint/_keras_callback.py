"""Checkpoints of ``model.fit`` of Keras 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weightlift.checkpoint._checkpointer import Checkpointer

__all__ = ["keras_callback"]


def keras_callback(
    checkpointer: Checkpointer, *, every: int = 1, state: Mapping[str, Any] | None = None, restore: bool = True
) -> Any:
    """A callback that saves after epochs, beside the training, and goes on from what was saved.

    A step of the checkpointer is an epoch; its metrics are the epoch's logs, so that ``keep_best=("val_loss", 3)``
    keeps the best. The state is that of the model, its optimizer and its seeds. At the end of training the last save is
    waited for; an error of a save ends the training at the next one.

    Args:
        checkpointer: Where to.
        every: Epochs between saves.
        state: What else belongs to the state, as ``Checkpointer.save`` takes it: generators of data, of random numbers.
        restore: When training begins, load the newest step, if there is one, and go on with the epoch after it.

    Returns:
        A ``keras.callbacks.Callback``.

    Example:
        >>> import weightlift as wl
        >>> def train(model, x, y):
        ...     with wl.checkpoint.Checkpointer("run", keep_best=("loss", 2)) as checkpointer:
        ...         model.fit(x, y, epochs=20, callbacks=[wl.checkpoint.keras_callback(checkpointer)])
    """
    import keras

    class Checkpoints(keras.callbacks.Callback):  # type: ignore[misc]
        """Made here, as its base is there only when Keras is."""

        def on_train_begin(self, logs: Any = None) -> None:
            latest = checkpointer.latest() if restore else None
            if latest is not None:
                checkpointer.restore(latest, into=self._parts())
                self.model._initial_epoch = latest  # as BackupAndRestore does: what fit() goes on with

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            if (epoch + 1) % every == 0:
                checkpointer.save(epoch + 1, self._parts(), metrics=logs, overwrite=True)

        def on_train_end(self, logs: Any = None) -> None:
            checkpointer.wait()

        def _parts(self) -> dict[str, Any]:
            return {"model": self.model, **(state or {})}

    return Checkpoints()
