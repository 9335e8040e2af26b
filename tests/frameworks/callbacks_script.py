"""A small training job of a framework that has the loop: Lightning (both its packages), or Hugging Face's Trainer.

    python callbacks_script.py WHICH FOLDER EVERY KILL-AT

With WORLD_SIZE and RANK in the environment it is one of several processes, of which the first prints.

WHICH: lightning, pytorch_lightning or trainer. EVERY: optimizer steps between saves, 0 for epochs. Prints
``[step, loss]`` for each optimizer step, the loss with all its digits, and last ``["weights", CRC-32C]``; kills itself
after step KILL-AT, when there is a checkpoint. A job that goes on begins with other weights and other random numbers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import weightlift as wl
from weightlift._checksum import crc32c

world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
EPOCHS, MINE, BATCH = 3, 40, 4
ROWS = MINE * world
which, folder, every, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) or None, int(sys.argv[4])
data = torch.from_numpy(np.random.default_rng(0).integers(0, 32, (ROWS, 12)))


def seed(number: int) -> None:
    torch.manual_seed(number + 1000 * rank)
    np.random.seed(number + 1000 * rank)


def told(step: int, loss: Any) -> None:
    print(json.dumps([step, float(loss).hex()]), flush=True) if rank == 0 else None
    if step == kill_at:
        while wl.checkpoint.Checkpointer(folder).latest() is None:
            time.sleep(0.01)
        os.kill(os.getpid(), 9)


def told_weights(model: torch.nn.Module) -> None:
    values = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    print(json.dumps(["weights", crc32c(values)])) if rank == 0 else None


class Loader:
    """Goes on within an epoch: what it has to know is how far it is, and the order."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.at = MINE

    def __len__(self) -> int:
        return MINE // BATCH

    def __iter__(self) -> Any:
        torch.rand(1)  # as the iterators of torch's loaders draw a seed
        return self.rows()

    def rows(self) -> Any:
        if self.at == MINE:
            self.order, self.at = torch.randperm(ROWS)[:MINE].tolist(), 0
        while self.at < MINE:
            rows = self.order[self.at : self.at + BATCH]
            self.at += BATCH
            yield data[rows]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.at = state["order"], state["at"]


def lightning(package: str) -> None:
    if package == "lightning":
        import lightning.pytorch as pl
    else:
        import pytorch_lightning as pl

    class Job(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(32, 16)
            self.layer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True)
            self.head = torch.nn.Linear(16, 32)
            self.noise = np.random.default_rng(3 + rank)
            self.normal = torch.nn.BatchNorm1d(11)  # whose means differ between processes

        def training_step(self, batch: Any, _: int) -> Any:
            logits = self.head(self.normal(self.layer(self.embedding(batch[:, :-1]))))
            loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:])
            return loss * (1 + 0.1 * np.random.random() + 0.1 * self.noise.random())

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.head(self.embedding(batch)).square().mean())

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % 2 == 0:
                told(self.global_step, outputs["loss"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["noise"] = self.noise

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.noise = checkpoint["noise"]

    options: dict[str, Any] = {"every_n_train_steps": every} if every else {}
    loader = Loader() if every else torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True)
    several: dict[str, Any] = {"strategy": "ddp", "devices": world} if world > 1 else {}
    with wl.checkpoint.Checkpointer(
        folder, keep_last=2, keep_best=("val_loss", 1), rank=rank, world_size=world, timeout=60
    ) as checkpointer:
        saver = wl.checkpoint.lightning_callback(checkpointer, **options)
        stopping = pl.callbacks.EarlyStopping("val_loss", patience=99)
        trainer = pl.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            accumulate_grad_batches=2, gradient_clip_val=1.0, callbacks=[saver, stopping],
            default_root_dir=str(folder.parent), **several,
        )  # fmt: skip
        seed(0 if checkpointer.latest() is None else 99)
        job = Job()
        trainer.fit(job, loader, torch.utils.data.DataLoader(data[:8], batch_size=4))
    told_weights(job)


def transformers() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                told(state.global_step, logs["loss"])

    class Exact(Trainer):
        """Logs are rounded; the loss is told with all its digits."""

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            super().log({**logs, **({"loss": float(self.exact)} if "loss" in logs else {})}, *args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self.exact = super().training_step(*args, **kwargs)
            return self.exact

    options = TrainingArguments(
        output_dir=str(folder.parent / "own"), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=2, learning_rate=0.01, lr_scheduler_type="cosine", warmup_steps=3, weight_decay=0.1,
        logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, seed=1,
        eval_strategy="epoch", ddp_backend="gloo" if world > 1 else None,
    )  # fmt: skip
    with wl.checkpoint.Checkpointer(
        folder, keep_last=2, keep_best=("eval_loss", 1), rank=rank, world_size=world, timeout=60
    ) as checkpointer:
        seed(0 if checkpointer.latest() is None else 99)
        config = GPT2Config(
            vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        rows = [{"input_ids": row, "labels": row} for row in data]
        trainer = Exact(GPT2LMHeadModel(config), options, train_dataset=rows, eval_dataset=rows[:8], callbacks=[Told()])
        if checkpointer.latest() is not None:  # the seed itself, which orders the data, is the Trainer's own
            torch.rand(7), np.random.random(7)
        saver = wl.checkpoint.trainer_callback(checkpointer, trainer, every_n_steps=every)
        trainer.train(resume_from_checkpoint=saver.resume_path())
    told_weights(trainer.model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if which == "trainer":
        transformers()
    else:
        lightning(which)
