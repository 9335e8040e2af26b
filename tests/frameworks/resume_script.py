"""A small training job that saves after each step, and goes on from what it finds: torch, keras or jax.

    python resume_script.py FRAMEWORK FOLDER STEPS KILL-AT

Prints ``[step, loss]`` for each step, the loss with all its digits; kills itself at step KILL-AT, in the middle of a
save.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import numpy as np

import weightlift as wl

data = np.random.default_rng(0)


def batch() -> tuple[np.ndarray, np.ndarray]:
    x = data.standard_normal((16, 8), dtype=np.float32)
    return x, x.sum(1, keepdims=True) * np.float32(random.random())


class Torch:
    """A GPT of two blocks, with dropout; AdamW in groups, accumulated gradients, a cosine schedule."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.manual_seed(0)
        torch.set_num_threads(1)
        nn = torch.nn

        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(16)])
                self.attention = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
                self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16), nn.Dropout(0.1))

            def forward(self, x: Any) -> Any:
                y = self.norms[0](x)
                mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
                x = x + self.attention(y, y, y, attn_mask=mask, is_causal=True, need_weights=False)[0]
                return x + self.mlp(self.norms[1](x))

        class Gpt(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.tokens, self.places = nn.Embedding(24, 16), nn.Embedding(12, 16)
                self.blocks = nn.Sequential(nn.Dropout(0.1), Block(), Block(), nn.LayerNorm(16))
                self.head = nn.Linear(16, 24, bias=False)
                self.head.weight = self.tokens.weight

            def forward(self, x: Any) -> Any:
                return self.head(self.blocks(self.tokens(x) + self.places.weight[: x.shape[1]]))

        self.model = Gpt()
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for parameter in self.model.parameters():
            groups[parameter.dim() > 1].append(parameter)
        decay = [{"params": groups[True], "weight_decay": 0.1}, {"params": groups[False], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(decay, lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)

    def state(self) -> dict[str, Any]:
        rng = self.torch.get_rng_state()
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "rng": rng}

    def take(self, state: dict[str, Any]) -> None:
        self.torch.set_rng_state(state["rng"])

    def train(self) -> float:
        total = 0.0
        self.optimizer.zero_grad()
        for _ in range(3):
            ids = self.torch.from_numpy(data.integers(0, 24, (4, 1)) + random.randrange(3) * np.arange(13)) % 24
            logits = self.model(ids[:, :-1]).transpose(1, 2)
            loss = self.torch.nn.functional.cross_entropy(logits, ids[:, 1:]) / 3
            loss.backward()
            total += float(loss.item())
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        return total


class Keras:
    """Dropout with its seeds, batch normalisation, and a compiled optimizer."""

    def __init__(self) -> None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras

        keras.utils.set_random_seed(0)
        layers = [keras.Input((8,)), keras.layers.Dense(16, activation="tanh"), keras.layers.Dropout(0.2, seed=3)]
        self.model = keras.Sequential([*layers, keras.layers.BatchNormalization(), keras.layers.Dense(1)])
        self.model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")

    def state(self) -> dict[str, Any]:
        return {"model": self.model}

    def take(self, state: dict[str, Any]) -> None:
        assert state["model"] is self.model

    def train(self) -> float:
        return float(self.model.train_on_batch(*batch()))


class Jax:
    """A tree of parameters, optax' state, and a key."""

    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        self.jax, self.optax = jax, optax
        self.key = jax.random.key(0)
        normal = jax.random.normal
        self.params: Any = {"w": normal(self.key, (8, 16)), "b": jnp.zeros(16), "out": normal(self.key, (16, 1))}
        self.optimizer = optax.adamw(optax.cosine_decay_schedule(1e-2, 50))
        self.optimizer_state = self.optimizer.init(self.params)

        def loss(params: Any, x: Any, y: Any, key: Any) -> Any:
            hidden = jnp.tanh(x @ params["w"] + params["b"])
            hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape)
            return jnp.mean((hidden @ params["out"] - y) ** 2)

        self.gradient = jax.jit(jax.value_and_grad(loss))

    def state(self) -> dict[str, Any]:
        key = self.jax.random.key_data(self.key)
        return {"params": self.params, "optimizer": self.optimizer_state, "key": key}

    def take(self, state: dict[str, Any]) -> None:
        self.params, self.optimizer_state = state["params"], state["optimizer"]
        self.key = self.jax.random.wrap_key_data(state["key"])

    def train(self) -> float:
        self.key, key = self.jax.random.split(self.key)
        loss, gradient = self.gradient(self.params, *batch(), key)
        updates, self.optimizer_state = self.optimizer.update(gradient, self.optimizer_state, self.params)
        self.params = self.optax.apply_updates(self.params, updates)
        return float(loss)


def main() -> None:
    framework, folder, steps, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    random.seed(0)
    job: Any = {"torch": Torch, "keras": Keras, "jax": Jax}[framework]()

    def state(step: int) -> dict[str, Any]:
        return {"job": job.state(), "data": data, "python": random.getstate(), "step": step}

    checkpointer, first = wl.checkpoint.Checkpointer(folder), 0
    if checkpointer.latest() is not None:
        found = checkpointer.restore(into=state(0))
        job.take(found["job"])
        random.setstate(found["python"])
        first = found["step"]
    for step in range(first, steps):
        print(json.dumps([step, job.train().hex()]), flush=True)
        checkpointer.save(step + 1, state(step + 1))
        if step == kill_at:
            os.kill(os.getpid(), 9)
    checkpointer.close()


if __name__ == "__main__":
    main()
