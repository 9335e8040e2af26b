"""Checkpoints of Hugging Face's ``Trainer``.

A ``TrainerCallback`` can save, but not decide where a training begins: only ``train(resume_from_checkpoint=DIRECTORY)``
does, with a directory in the Trainer's own layout. So the newest step is written out as one, for the moment: in it is
all that a directory of the Trainer has, and the Trainer restores and skips data as ever. It lies among the
checkpoints under the name of a step that is being written, and is removed once the Trainer has read it; if the job dies
before, by the next one.

A step is saved when the Trainer has logged and evaluated it, which is after its ``on_step_end`` and ``on_epoch_end``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from weightlift._api import save
from weightlift.checkpoint._checkpointer import Checkpointer
from weightlift.checkpoint._data_parallel import (
    barrier,
    check_process,
    check_world_size,
    of_first,
    with_first_buffers,
)
from weightlift.checkpoint._directory import StepDirectory
from weightlift.checkpoint._folders import Directory
from weightlift.checkpoint._rng import rng_state
from weightlift.checkpoint._state import PerRank
from weightlift.errors import UnsupportedFeatureError

__all__ = ["trainer_callback"]


def trainer_callback(checkpointer: Checkpointer, trainer: Any, *, every_n_steps: int | None = None) -> Any:
    """A callback that saves the whole state of a ``transformers.Trainer``, beside the training; it is added to it.

    A step of the checkpointer is an optimizer step (``state.global_step``); its metrics are what the Trainer has logged
    at it, so that ``keep_best=("eval_loss", 3)`` keeps the best. The state is that of the model, its optimizer and
    scheduler, the scaler of gradients, ``TrainerState`` with the states of callbacks, and the generators of Python,
    NumPy and PyTorch. The last step is always saved. The Trainer's own checkpoints are left alone; with
    ``save_strategy="no"`` there are none. Jobs of several processes (DDP) give each process a checkpointer with its
    ``rank=`` and the ``world_size=``, and all call ``resume_path()``; what all have alike is stored once, and as many
    go on. An error of a save ends the training at the next one.

    Args:
        checkpointer: Where to.
        trainer: The ``transformers.Trainer``.
        every_n_steps: Optimizer steps between saves; None: at the end of each epoch.

    Returns:
        A ``transformers.TrainerCallback``. Its ``resume_path()`` gives what ``train(resume_from_checkpoint=...)`` takes
        to go on from the newest step: a directory, for which the disk needs room, or None where there is no step.

    Raises:
        UnsupportedFeatureError: The job has other processes than the checkpointer, or divides its model among them
            (FSDP, DeepSpeed), or a model of which the Trainer saves adapters only.

    Example:
        >>> import weightlift as wl
        >>> def train(trainer):
        ...     with wl.checkpoint.Checkpointer("run", keep_last=2) as checkpointer:
        ...         saver = wl.checkpoint.trainer_callback(checkpointer, trainer, every_n_steps=500)
        ...         trainer.train(resume_from_checkpoint=saver.resume_path())
    """
    from transformers import TrainerCallback

    if every_n_steps is not None and every_n_steps < 1:
        raise ValueError(f"every_n_steps is {every_n_steps}; it must be positive")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise UnsupportedFeatureError("the callback saves jobs without DeepSpeed and FSDP")
    check_process(checkpointer, trainer.args.process_index, trainer.args.world_size)
    if hasattr(trainer.model, "peft_config"):
        raise UnsupportedFeatureError("the callback saves whole models; of one with adapters (PEFT) it would lose them")
    callback = type("WeightliftCheckpoint", (_Checkpoints, TrainerCallback), {})(checkpointer, trainer, every_n_steps)
    trainer.add_callback(callback)
    return callback


class _Checkpoints:
    """The callback's events; its base class is there only when transformers is."""

    def __init__(self, checkpointer: Checkpointer, trainer: Any, every_n_steps: int | None) -> None:
        self._checkpointer, self._trainer, self._every = checkpointer, trainer, every_n_steps
        self._due = False
        self._folder: Path | None = None

    def resume_path(self) -> str | None:
        """The newest step in the Trainer's own layout, until training has begun; None: there is no step."""
        import torch

        latest = self._checkpointer.latest()
        if latest is None:
            return None
        check_world_size(self._checkpointer, latest)
        found = self._checkpointer.restore(latest, framework="torch")
        self._forget()
        rank, several = self._checkpointer.ranks.rank, self._checkpointer.world_size > 1
        made: Any = None if rank else _scratch(self._checkpointer._directory, latest)
        folder = Path(of_first(made) if several else made)
        self._folder = folder
        rng = found["rng"]
        generators = {"python": rng["python"], "numpy": rng["numpy"].get_state(), "cpu": rng["torch"]}
        torch.save(
            {**generators, "cuda": rng["cuda"]}, folder / (f"rng_state_{rank}.pth" if several else "rng_state.pth")
        )
        if rank == 0:
            self._write_shared(found, folder)
        if several:
            barrier()
        return str(folder)

    def _write_shared(self, found: Any, folder: Path) -> None:
        """What all processes read."""
        import torch

        save(found["model"], folder / "model.safetensors", durable=False)
        torch.save(found["optimizer"], folder / "optimizer.pt")
        torch.save(found["scheduler"], folder / "scheduler.pt")
        if found["scaler"] is not None:
            torch.save(found["scaler"], folder / "scaler.pt")
        (folder / "trainer_state.json").write_text(found["trainer"], encoding="utf-8")

    # --- what the Trainer calls, in this order ----------------------------------------------------
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._save_due(state)  # of the epoch before, now that it is logged and evaluated

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not args.auto_find_batch_size:  # which may begin again, with fewer
            self._forget()
        self._save_due(state)  # likewise of the step before

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = state.global_step >= state.max_steps or control.should_training_stop
        self._due = last or (self._every is not None and state.global_step % self._every == 0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._due = self._due or self._every is None or control.should_training_stop
        if args.load_best_model_at_end and self._ends(state, control) and not control.should_evaluate:
            self._save_due(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and self._ends(state, control):  # which is the next that happens
            self._due = True
            self._save_due(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._forget()
        self._save_due(state)
        self._checkpointer.wait()

    # --- inside -----------------------------------------------------------------------------------
    @staticmethod
    def _ends(state: Any, control: Any) -> bool:
        return bool(control.should_training_stop or state.global_step >= state.max_steps)

    def _forget(self) -> None:
        """Remove what the Trainer resumed from."""
        if self._folder is not None and self._checkpointer.world_size > 1:
            barrier()  # all have read it
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _save_due(self, state: Any) -> None:
        if not self._due:
            return
        self._due = False
        trainer = self._trainer
        trainer.store_flos()
        scaler = getattr(trainer.accelerator, "scaler", None)
        module = trainer.accelerator.unwrap_model(trainer.model)
        several = self._checkpointer.world_size > 1
        tree = {
            "model": with_first_buffers(module.state_dict(), module) if several else module.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.lr_scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "trainer": PerRank(self._trainer_state(state)) if several else self._trainer_state(state),
            "rng": PerRank(rng_state()) if several else rng_state(),
        }
        self._checkpointer.save(state.global_step, tree, metrics=_metrics(state), overwrite=True)

    def _trainer_state(self, state: Any) -> str:
        """``trainer_state.json``, with what the callbacks know now."""
        from transformers.trainer_callback import ExportableState

        callbacks: dict[str, list[Any]] = {}
        for one in (*self._trainer.callback_handler.callbacks, self._trainer.control):
            if isinstance(one, ExportableState):
                callbacks.setdefault(type(one).__name__, []).append(one.state())
        of_class = {name: states[0] if len(states) == 1 else states for name, states in callbacks.items()}
        document = {**dataclasses.asdict(state), "stateful_callbacks": of_class}
        return json.dumps(document, indent=2, sort_keys=True)


def _metrics(state: Any) -> dict[str, float]:
    """The numbers that were logged at this step."""
    found: dict[str, float] = {}
    for entry in reversed(state.log_history):
        if entry.get("step") != state.global_step:
            break
        numbers = {name: float(value) for name, value in entry.items() if isinstance(value, (int, float))}
        found = {**numbers, **found}
    return {name: value for name, value in found.items() if name not in ("step", "epoch")}


def _scratch(directory: Directory, step: int) -> Path:
    """A local directory; beside the steps, if these are local: what a crash leaves there the next writer removes."""
    if not isinstance(directory, StepDirectory):
        return Path(tempfile.mkdtemp(prefix="weightlift-"))
    directory.lock()
    return directory.begin(step).path
