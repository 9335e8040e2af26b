"""The generators that a job draws from without naming one: Python's, NumPy's, PyTorch's on the CPU and on each GPU."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["restore_rng", "rng_state"]


def rng_state() -> dict[str, Any]:
    """Their states, as a checkpoint holds them."""
    import torch

    legacy = np.random.RandomState()
    legacy.set_state(np.random.get_state())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": legacy, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put them into these states; those of GPUs that are not here are left out."""
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"].get_state())
    torch.set_rng_state(state["torch"])
    for device, one in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(one, device)
