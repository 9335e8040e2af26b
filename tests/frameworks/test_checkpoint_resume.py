"""Training that is killed and goes on from its checkpoints: the same losses, bit for bit, as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.frameworks.environments import framework_python
from tests.interop.keras_support import keras_or_skip

import weightlift as wl

SCRIPT = Path(__file__).with_name("resume_script.py")
STEPS = 16


def started(
    folder: Path, framework: str, steps: int, kill: int = -1, python: str = sys.executable
) -> subprocess.Popen[str]:
    """The job, with this package and no other of this environment's."""
    link = folder.parent / "path" / "weightlift"
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(Path(wl.__file__).parent, target_is_directory=True)
    command = [python, str(SCRIPT), framework, str(folder), str(steps), str(kill)]
    environment = {**os.environ, "PYTHONPATH": str(link.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("framework", ["torch", "keras", "jax"])
def test_goes_on_bit_for_bit(framework: str, tmp_path: Path) -> None:
    if framework == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    if framework == "keras":
        keras_or_skip()
    python = framework_python("jax") if framework == "jax" else sys.executable

    def losses(folder: str, kill: int = -1) -> dict[int, str]:
        with started(tmp_path / folder, framework, STEPS, kill, python=str(python)) as job:
            out, err = job.communicate(timeout=240)
        assert job.returncode == (-signal.SIGKILL if kill >= 0 else 0), err
        return dict(json.loads(line) for line in out.splitlines())

    whole = losses("whole")
    parts = [losses("killed", 5), losses("killed")]
    assert max(parts[0]) == 5 and max(parts[1]) == STEPS - 1
    assert min(parts[1]) in (5, 6)  # the last save may have been committed
    assert {**parts[0], **parts[1]} == whole


def test_a_gpt_that_is_killed_at_random(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    steps, rng = 80, random.Random(0)
    with started(tmp_path / "whole", "torch", steps) as job:
        whole = dict(map(json.loads, job.communicate(timeout=240)[0].splitlines()))
    assert list(whole) == list(range(steps))
    assert float.fromhex(whole[steps - 1]) < 0.6 * float.fromhex(whole[0])  # it learns
    last, kills = -1, 0
    while last < steps - 1:
        with started(tmp_path / "killed", "torch", steps) as job:
            assert job.stdout is not None
            told = []
            for line in job.stdout:
                told.append(json.loads(line))
                if len(told) == 12 and kills < 3:
                    time.sleep(rng.random() * 0.1)
                    job.kill()
        kills += job.returncode == -signal.SIGKILL
        assert job.returncode in (0, -signal.SIGKILL)
        assert last - 1 <= told[0][0] <= last + 1 and (told[0][0] > 0 or last == -1)
        assert all(whole[step] == loss for step, loss in told)
        last = told[-1][0]
    assert kills == 3


def test_keras_models_and_optimizers(tmp_path: Path) -> None:
    keras = keras_or_skip()

    def made() -> object:
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5, seed=1)])
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
        return model

    model, clone = made(), made()
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 4)))
    with wl.checkpoint.Checkpointer(tmp_path / "s") as checkpointer:
        checkpointer.save(1, {"model": model, "optimizer": model.optimizer}, blocking=True)
    assert not clone.optimizer.iterations.numpy()
    found = checkpointer.restore(into={"model": clone, "optimizer": clone.optimizer})
    assert found["model"] is clone and found["optimizer"] is clone.optimizer
    pairs = zip(
        [*model.variables, *model.optimizer.variables], [*clone.variables, *clone.optimizer.variables], strict=True
    )
    assert all(np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)) for a, b in pairs)
    names = list(checkpointer.manifest().tensors)
    assert names[:3] == ["model.dense/kernel", "model.dense/bias", "model.seeds/0"]
    assert "model.optimizer/vars/0" in names and "optimizer.vars/0" in names
    with pytest.raises(wl.UnsupportedFeatureError, match="has no state yet"):
        wl.checkpoint.Checkpointer(tmp_path / "t").save(1, keras.optimizers.Adam())
    with pytest.raises(wl.MismatchError, match="seeds/0"):
        checkpointer.restore(
            into={"model": keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])}, names="model.*"
        )


def test_keras_fit(tmp_path: Path) -> None:
    keras = keras_or_skip()
    x = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)

    def fitted(folder: str, epochs: int, **options: object) -> tuple[object, object]:
        layers = [keras.Input((3,)), keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(1))]
        model = keras.Sequential([*layers, keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1, "relu")])
        model.layers[-1].set_weights([np.ones((4, 1)), np.ones(1)])
        model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
        with wl.checkpoint.Checkpointer(tmp_path / folder, keep_last=2, keep_best=("val_loss", 1)) as checkpointer:
            callback = wl.checkpoint.keras_callback(checkpointer, **options)
            history = model.fit(
                x, x[:, :1], epochs=epochs, validation_split=0.5, shuffle=False, verbose=0, callbacks=[callback]
            )
        return model, history

    whole, _ = fitted("whole", 6)
    fitted("parts", 3)
    model, history = fitted("parts", 6)
    assert history.epoch == [3, 4, 5]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), whole.get_weights(), strict=True))
    reader = wl.checkpoint.Checkpointer(tmp_path / "parts")
    assert reader.steps()[-2:] == [5, 6] and reader.best("val_loss") in reader.steps()
    assert set(reader.manifest().metrics) == {"loss", "val_loss"}
    with pytest.raises(wl.StorageError, match="step 1 is older than step 6"):
        fitted("parts", 2, restore=False)
    _, history = fitted("other", 4, restore=False, every=2)
    reader = wl.checkpoint.Checkpointer(tmp_path / "other")
    assert reader.steps() == [2, 4]
    assert reader.manifest(2).metrics == {name: values[1] for name, values in history.history.items()}
