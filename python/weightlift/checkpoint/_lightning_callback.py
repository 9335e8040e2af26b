"""Checkpoints of ``Trainer.fit`` of PyTorch Lightning.

What is saved is what ``Trainer.save_checkpoint`` would write, as a tree, and the generators of random numbers, which it
leaves out. It is restored by Lightning itself, at its own moments: the callback hands the trainer what was loaded, in
its ``setup``, as if ``fit(ckpt_path=...)`` had read it. Lightning has no public way to do either without a file; a
restored job is therefore compared with its checkpoint before it trains.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from weightlift.checkpoint._checkpointer import Checkpointer
from weightlift.checkpoint._data_parallel import check_process, check_world_size, with_first_buffers
from weightlift.checkpoint._rng import restore_rng, rng_state
from weightlift.checkpoint._state import PerRank
from weightlift.errors import UnsupportedFeatureError

__all__ = ["lightning_callback"]

_SAME = ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "optimizer_states", "lr_schedulers")
"""What the processes of DDP have alike: it is stored once. The rest is each one's own."""

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def lightning_callback(
    checkpointer: Checkpointer,
    *,
    every_n_train_steps: int | None = None,
    every_n_epochs: int | None = None,
    restore: bool = True,
) -> Any:
    """A callback that saves the whole state of a Lightning job, beside the training, and goes on from what was saved.

    A step of the checkpointer is an optimizer step (``trainer.global_step``); its metrics are
    ``trainer.callback_metrics``, so that ``keep_best=("val_loss", 3)`` keeps the best. The state is that of the module,
    its optimizers and schedulers, the loops, callbacks, data module and precision plugin, and of the generators of
    Python, NumPy and PyTorch; what else belongs to it comes by Lightning's own hooks (``on_save_checkpoint``,
    ``state_dict`` of callbacks and data modules). The run goes on exactly where it was after an epoch's end; within
    an epoch, if the data loader has ``state_dict`` and ``load_state_dict``, as Lightning asks for. It takes the place
    of ``ModelCheckpoint``. Jobs of several processes (DDP) give each process a checkpointer with its ``rank=``
    and the ``world_size=``; what all have alike is stored once, the rest of each, and as many go on. An error of a save
    ends the training at the next one.

    Args:
        checkpointer: Where to.
        every_n_train_steps: Optimizer steps between saves; those at an epoch's last batch come after its validation.
        every_n_epochs: Epochs between saves, after their validation; 1 where neither is given.
        restore: When ``fit`` begins, load the newest step, if there is one; not where ``fit(ckpt_path=...)`` is given.

    Returns:
        A ``Callback`` of the package that is used, ``lightning`` or ``pytorch_lightning``.

    Raises:
        UnsupportedFeatureError: In ``fit``: the job has other processes than the checkpointer or the step that is
            loaded, or they divide the model (FSDP, DeepSpeed); or it has a state that only pickle could hold.

    Example:
        >>> import weightlift as wl
        >>> def train(module, loader):
        ...     import lightning
        ...     with wl.checkpoint.Checkpointer("run", keep_last=2) as checkpointer:
        ...         saver = wl.checkpoint.lightning_callback(checkpointer, every_n_train_steps=1000)
        ...         lightning.Trainer(max_epochs=10, callbacks=[saver]).fit(module, loader)
    """
    for name, number in (("every_n_train_steps", every_n_train_steps), ("every_n_epochs", every_n_epochs)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; it must be positive")
    if every_n_train_steps is None and every_n_epochs is None:
        every_n_epochs = 1
    kind = type("WeightliftCheckpoint", (_Checkpoints, *_bases()), {})
    return kind(checkpointer, every_n_train_steps, every_n_epochs, restore)


def _bases() -> list[type]:
    """Lightning has two packages, which do not know each other's classes: the base in each that is imported."""
    names = [name for name in _PACKAGES if name in sys.modules]
    if not names:
        try:
            return [importlib.import_module(_PACKAGES[0]).callbacks.Checkpoint]
        except ModuleNotFoundError:
            names = [_PACKAGES[1]]
    return [importlib.import_module(name).callbacks.Checkpoint for name in names]


def _check_processes(trainer: Any, checkpointer: Checkpointer) -> None:
    """UnsupportedFeatureError unless the checkpointer is this process', and each has all of the model."""
    check_process(checkpointer, trainer.global_rank, trainer.world_size)
    kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    if trainer.world_size > 1 and ("DDPStrategy" not in kinds or "DeepSpeedStrategy" in kinds):
        raise UnsupportedFeatureError(
            f"of jobs of several processes the callback saves those of DDP, not of {type(trainer.strategy).__name__}"
        )


class _Checkpoints:
    """The callback's hooks; its base class is there only when Lightning is."""

    def __init__(
        self, checkpointer: Checkpointer, every_n_steps: int | None, every_n_epochs: int | None, restore: bool
    ) -> None:
        self._checkpointer, self._restore = checkpointer, restore
        self._every_n_steps, self._every_n_epochs = every_n_steps, every_n_epochs
        self._found: dict[str, Any] | None = None
        self._last = 0
        """The optimizer step of the last save."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Right before Lightning restores what it has loaded."""
        self._found = None
        if stage != "fit":
            return
        _check_processes(trainer, self._checkpointer)
        latest = self._checkpointer.latest() if self._restore else None
        if latest is not None:
            check_world_size(self._checkpointer, latest)
            self._found = self._checkpointer.restore(latest, framework="torch")
            trainer._checkpoint_connector._loaded_checkpoint = self._found["checkpoint"]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """The last hook before the data loaders' iterators are made, which draw random numbers."""
        if trainer.ckpt_path is not None:
            self._found = None
        if self._found is not None:
            restore_rng(self._found["rng"])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._last = trainer.global_step
        if self._found is None:
            return
        wanted = self._found["checkpoint"]["global_step"]
        if trainer.global_step != wanted:
            raise UnsupportedFeatureError(
                f"this version of Lightning has not taken the state that was loaded: it is at step "
                f"{trainer.global_step}, not {wanted}"
            )
        if self._found["within_epoch"]:  # then the iterators were there when it was saved
            restore_rng(self._found["rng"])
        self._found = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        if self._step_is_due(trainer) and not trainer.is_last_batch:
            self._save(trainer, within_epoch=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        every = self._every_n_epochs
        if (every is not None and (trainer.current_epoch + 1) % every == 0) or self._step_is_due(trainer):
            self._save(trainer, within_epoch=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._checkpointer.wait()

    def _step_is_due(self, trainer: Any) -> bool:
        every = self._every_n_steps  # a step of the trainer may be several of its optimizers'
        return every is not None and trainer.global_step // every > self._last // every

    def _save(self, trainer: Any, *, within_epoch: bool) -> None:
        self._last = trainer.global_step
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
        if trainer.world_size > 1:
            checkpoint["state_dict"] = with_first_buffers(checkpoint["state_dict"], trainer.lightning_module)
            own = {key: PerRank(value) for key, value in checkpoint.items() if key not in _SAME}
            checkpoint = {**checkpoint, **own}
        rng = rng_state()
        state = {
            "checkpoint": checkpoint,
            "rng": rng if trainer.world_size == 1 else PerRank(rng),
            "within_epoch": within_epoch,
        }
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._checkpointer.save(self._last, state, metrics=metrics, overwrite=True)
