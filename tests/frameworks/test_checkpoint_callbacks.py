"""Jobs of frameworks that have the training loop, killed and gone on with: the same losses and weights, bit for bit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weightlift as wl

SCRIPT = Path(__file__).with_name("callbacks_script.py")
PACKAGES = {"lightning": "lightning", "pytorch_lightning": "pytorch_lightning", "trainer": "transformers"}
STEPS = 15


def needed(which: str) -> None:
    for package in ("torch", PACKAGES[which], *(["accelerate"] if which == "trainer" else [])):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{'PyTorch' if package == 'torch' else package} is not installed")


def told(which: str, folder: Path, every: int, kill: int = -1, world: int = 1) -> dict[int | str, Any]:
    """What the job prints, the first of its processes where it has several."""
    (folder.parent / "path").mkdir(exist_ok=True, parents=True)
    link = folder.parent / "path" / "weightlift"
    if not link.exists():
        link.symlink_to(Path(wl.__file__).parent, target_is_directory=True)
    command = [sys.executable, str(SCRIPT), which, str(folder), str(every), str(kill)]
    environment = {**os.environ, "PYTHONPATH": str(link.parent), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    jobs = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent,
            env=environment if world == 1 else environment | meeting | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)
            },
        )
        for rank in range(world)
    ]  # fmt: skip
    said = [job.communicate(timeout=240) for job in jobs]
    wanted = [-signal.SIGKILL if kill >= 0 else 0] * world
    assert [job.returncode for job in jobs] == wanted, "\n".join(errors for _, errors in said)
    return dict(json.loads(line) for line in said[0][0].splitlines() if line.startswith("["))


@pytest.mark.parametrize(
    ("which", "every", "kills", "world"),
    [
        ("lightning", 0, [8, 13], 1),
        ("lightning", 3, [5, 13], 1),
        ("pytorch_lightning", 3, [8], 1),
        ("trainer", 0, [8, 13], 1),
        ("trainer", 3, [5, 13], 1),
        ("lightning", 0, [8], 2),
        ("lightning", 3, [5, 13], 2),
        ("trainer", 0, [8], 2),
        ("trainer", 3, [5, 13], 2),
    ],
)
def test_goes_on_bit_for_bit(which: str, every: int, kills: list[int], world: int, tmp_path: Path) -> None:
    needed(which)
    whole = told(which, tmp_path / "whole", every, world=world)
    assert set(whole) == {*range(1, STEPS + 1), "weights"}
    found: dict[int | str, Any] = {}
    for kill in (*kills, -1):
        part = told(which, tmp_path / "killed", every, kill, world)
        first = min(step for step in part if isinstance(step, int))
        assert first == 1 or found, "the first job begins at the beginning"
        assert not found or 1 < first <= max(step for step in found if isinstance(step, int)) + 1
        found |= part
    assert found == whole
    checkpointer = wl.checkpoint.Checkpointer(tmp_path / "killed")
    metric = "eval_loss" if which == "trainer" else "val_loss"
    assert checkpointer.latest() == STEPS and metric in checkpointer.manifest().metrics
    assert checkpointer.best(metric) in checkpointer.steps()
    names = {p.name[:5] for p in (tmp_path / "killed").iterdir()}
    assert names == {".lock", "step-"} | ({".newe"} if world > 1 else set())
    assert all(checkpointer.verify(step).ok for step in checkpointer.steps())


def test_lightning_refuses_what_only_pickle_holds(tmp_path: Path) -> None:
    needed("lightning")
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.demos.boring_classes import BoringModel

    class Job(BoringModel):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["criterion"] = print

    def fit(module: Any, **options: Any) -> Any:
        with wl.checkpoint.Checkpointer(tmp_path / "s") as checkpointer:
            saver = wl.checkpoint.lightning_callback(checkpointer, **options)
            trainer = pl.Trainer(
                max_epochs=1, limit_train_batches=4, limit_val_batches=1, accelerator="cpu", logger=False,
                enable_progress_bar=False, enable_model_summary=False, callbacks=[saver], default_root_dir=tmp_path,
            )  # fmt: skip
            trainer.fit(module)
            assert trainer.checkpoint_callbacks == [saver]  # and no ModelCheckpoint beside it
            return trainer

    with pytest.raises(wl.UnsupportedFeatureError) as refused:
        fit(Job())
    assert refused.value.tensor == "checkpoint.criterion"
    with pytest.raises(ValueError, match="every_n_epochs is 0"):
        fit(BoringModel(), every_n_epochs=0)
    module = BoringModel()
    assert fit(module, every_n_train_steps=2).global_step == 4
    assert wl.checkpoint.Checkpointer(tmp_path / "s").steps() == [2, 4]
    clone = BoringModel()
    assert fit(clone).global_step == 4  # nothing is left to do
    assert torch.equal(clone.layer.weight, module.layer.weight)
    with pytest.raises(wl.StorageError, match="step 2 is older than step 4"):
        fit(BoringModel(), restore=False, every_n_train_steps=2)


def test_other_processes_are_refused(tmp_path: Path) -> None:
    needed("lightning")
    needed("trainer")
    import lightning.pytorch as pl
    from lightning.pytorch.demos.boring_classes import BoringModel
    from transformers import Trainer, TrainingArguments

    def write(rank: int) -> None:
        with wl.checkpoint.Checkpointer(tmp_path / "s", rank=rank, world_size=2, timeout=30) as checkpointer:
            checkpointer.save(1, {"rng": wl.checkpoint.PerRank(rank)}, blocking=True)

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    options = TrainingArguments(output_dir=str(tmp_path / "own"), use_cpu=True, report_to=[])
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    for ranks, message in (({"rank": 1, "world_size": 2}, "this is process 0 of 1"), ({}, "saved by 2 processes")):
        checkpointer = wl.checkpoint.Checkpointer(tmp_path / "s", **ranks)  # type: ignore[arg-type]
        saver = wl.checkpoint.lightning_callback(checkpointer)
        with pytest.raises(wl.UnsupportedFeatureError, match=message):
            pl.Trainer(max_epochs=1, callbacks=[saver], default_root_dir=tmp_path, **quiet).fit(BoringModel())
        with pytest.raises(wl.UnsupportedFeatureError, match=message):
            wl.checkpoint.trainer_callback(checkpointer, Trainer(BoringModel(), options)).resume_path()


def test_trainer_with_callbacks_that_have_a_state(tmp_path: Path) -> None:
    needed("trainer")
    import torch
    from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: Any, return_loss: bool = True) -> dict[str, Any]:
            return {"loss": -(x * self.weight).sum(), "logits": x}

    def trained(epochs: int) -> tuple[Any, Any]:
        options = TrainingArguments(
            output_dir=str(tmp_path / "own"), num_train_epochs=epochs, per_device_train_batch_size=2, use_cpu=True,
            eval_strategy="epoch", logging_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True,
            metric_for_best_model="eval_loss", greater_is_better=True, restore_callback_states_from_checkpoint=True,
            learning_rate=0.1, lr_scheduler_type="constant",
        )  # fmt: skip
        rows = [{"x": torch.full((3,), 1.0)} for _ in range(4)]
        stopping = EarlyStoppingCallback(early_stopping_patience=5)
        trainer = Trainer(Model(), options, train_dataset=rows, eval_dataset=rows, callbacks=[stopping])
        with wl.checkpoint.Checkpointer(tmp_path / "s", keep_last=None) as checkpointer:
            saver = wl.checkpoint.trainer_callback(checkpointer, trainer)
            trainer.train(resume_from_checkpoint=saver.resume_path())
        return trainer, checkpointer

    first, checkpointer = trained(2)
    assert checkpointer.steps() == [2, 4] and first.state.global_step == 4
    assert set(checkpointer.manifest(2).metrics) >= {"loss", "eval_loss", "learning_rate"}
    state = json.loads(checkpointer.restore()["trainer"])
    assert state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"] == {"early_stopping_patience_counter": 1}
    second, checkpointer = trained(9)  # its loss only grows worse, so it stops after 5 epochs more than the first
    assert second.state.global_step == 12 and checkpointer.latest() == 12
    assert [entry["step"] for entry in second.state.log_history if "eval_loss" in entry] == [2, 4, 6, 8, 10, 12]
    assert not np.array_equal(checkpointer.restore(4)["model"]["weight"], checkpointer.restore(12)["model"]["weight"])
    names = {p.name for p in (tmp_path / "s").iterdir()}
    assert names == {".lock", *(f"step-{step:08d}" for step in range(2, 14, 2))}
    assert not list((tmp_path / "own").glob("checkpoint-*"))
    trainer = Trainer(Model(), TrainingArguments(output_dir=str(tmp_path / "own"), use_cpu=True, report_to=[]))
    trainer.model.peft_config = {}
    with pytest.raises(wl.UnsupportedFeatureError, match="PEFT"):
        wl.checkpoint.trainer_callback(checkpointer, trainer)


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    needed("lightning")
    needed("trainer")
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    text = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.M | re.S))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(wl.__file__).parents[1])}
    command = [sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", text, re.M)
    assert len(expected) == 6
    said = [line for line in done.stdout.splitlines() if line in expected]
    assert said == expected
