"""Tensors of a device on their way to the host: the ring, with a copy engine that is late.

What only a GPU can show is in tests/frameworks/test_torch_cuda.py.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from weightlift.frameworks import _torch_device
from weightlift.frameworks._torch_device import Run, identity, on_host, pump


class LateEngine:
    """Copies in the order of the calls on a thread of its own, each some time after it was asked to.

    Until it gets there a slot holds what was in it, as a GPU's would.
    """

    def __init__(self, slots: int, nbytes: int, seed: int = 0, fail_at: int = -1) -> None:
        self.slots, self.nbytes = slots, nbytes
        self.memory = np.full((slots, nbytes), 0xAA, np.uint8)
        self.used: list[int] = []
        self.closed = False
        self._random, self._fail_at = random.Random(seed), fail_at
        self._arrived = [threading.Event() for _ in range(slots)]
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def start(self, slot: int, runs: Sequence[Run]) -> None:
        assert not self._arrived[slot].is_set(), "the slot is in use"
        self.used.append(slot)
        if len(self.used) - 1 == self._fail_at:
            raise RuntimeError("the device is lost")
        self._queue.put((slot, runs))

    def arrived(self, slot: int) -> Any:
        assert self._arrived[slot].wait(30)
        self._arrived[slot].clear()
        return self.memory[slot]

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(30)
        self.closed = True

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            time.sleep(self._random.random() / 2000)
            slot, runs = job
            for run in runs:
                count = len(run.target)
                self.memory[slot, run.at : run.at + count] = np.asarray(run.source)[run.begin : run.begin + count]
            self._arrived[slot].set()


def rows(sizes: Sequence[int]) -> list[tuple[Any, Any]]:
    numbers = np.random.default_rng(1)
    return [(numbers.integers(256, size=n, dtype=np.uint8), np.zeros(n, np.uint8)) for n in sizes]


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    "sizes",
    [[], [1], [64], [65], [63, 1, 1], [1000], [7] * 200, [640, 64, 128], [1, 1000, 0, 3, 63, 64, 65, 5000, 2]],
    ids=str,
)
def test_all_bytes_arrive_where_they_belong(sizes: list[int], slots: int, threads: int) -> None:
    copies, engine = rows(sizes), LateEngine(slots, 64, seed=slots * threads)
    pump(engine, copies, threads)
    assert engine.closed
    for source, target in copies:
        assert source.tobytes() == target.tobytes()
    assert len(engine.used) == -(-sum(sizes) // 64), "small ones share a slot"


@pytest.mark.parametrize("at", [0, 3, 9])
def test_an_error_comes_when_nothing_is_under_way(at: int) -> None:
    copies, engine = rows([1000]), LateEngine(2, 64, fail_at=at)
    with pytest.raises(RuntimeError, match="the device is lost"):
        pump(engine, copies, 2)
    assert engine.closed
    ((source, target),) = copies
    assert target[: at * 64].tobytes() == source[: at * 64].tobytes()
    assert not target[at * 64 :].any()


def test_an_error_of_a_copy_is_told() -> None:
    class Broken(LateEngine):
        def arrived(self, slot: int) -> Any:
            super().arrived(slot)
            if len(self.used) == 4:
                raise RuntimeError("an illegal access")
            return self.memory[slot]

    engine = Broken(2, 64)
    with pytest.raises(RuntimeError, match="an illegal access"):
        pump(engine, rows([1000]), 1)
    assert engine.closed


# --- tensors --------------------------------------------------------------------------------------
@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch, whose tensors are taken for those of a device with late copies."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(_torch_device, "on_device", lambda leaf: isinstance(leaf, torch.Tensor))
    monkeypatch.setattr(_torch_device, "_CudaLane", lambda device, nbytes, threads: LateEngine(2, 96))
    monkeypatch.setattr(_torch_device, "_is_streamed", _torch_device._is_dense)
    return torch


def block(nbytes: int) -> Any:
    return np.full(nbytes, 0x55, np.uint8)


def test_tensors_keep_type_shape_and_strides(torch: Any) -> None:
    tensors = {
        "plain": torch.randn(7, 5),
        "turned": torch.randn(6, 4).t(),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "part": torch.randn(10, 4)[3:7],
        "half": torch.randn(5).bfloat16(),
        "narrow": torch.randn(9).to(torch.float8_e4m3fn),
        "complex": torch.randn(3, dtype=torch.complex128),
        "bool": torch.tensor([True, False, True]),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.randn(11, 3)),
        "large": torch.randn(300_000),
    }
    made = on_host([*tensors.values(), "text", 5], block)
    assert made[-2:] == ["text", 5]
    for (name, tensor), copy in zip(tensors.items(), made, strict=False):
        assert copy.dtype == tensor.dtype and copy.shape == tensor.shape and copy.stride() == tensor.stride(), name
        assert copy.data_ptr() != tensor.data_ptr() and not copy.requires_grad
        assert torch.equal(copy.contiguous().view(torch.uint8) if copy.ndim else copy,
                           tensor.detach().contiguous().view(torch.uint8) if copy.ndim else tensor), name  # fmt: skip
    assert made[10].data_ptr() % 4096 == made[0].data_ptr() % 4096, "large ones begin on a page of the block"


def test_what_is_no_run_of_memory_comes_too(torch: Any) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    negated = torch.randn(3, dtype=torch.cfloat).conj()
    tensors = [base[:, ::2], base[:, 1:3], torch.zeros(0, 3), torch.ones(1).expand(5), negated]
    for tensor, copy in zip(tensors, on_host(tensors, block), strict=True):
        assert torch.equal(tensor, copy)


def test_one_memory_stays_one(torch: Any) -> None:
    tensor = torch.randn(4, 4)
    a, b, turned, other = on_host([tensor, tensor.view(4, 4), tensor.t(), tensor.clone()], block)
    assert a is b and turned.data_ptr() != a.data_ptr() and other is not a
    assert torch.equal(turned, tensor.t())


def test_identity(torch: Any) -> None:
    tensor = torch.randn(4, 4)
    assert identity(tensor) == identity(tensor[:]) != identity(tensor[1:]) != identity(tensor.t())
    assert identity(torch.zeros(0)) != identity(torch.zeros(0, 1))
    assert identity(torch.ones(2, device="meta")) != identity(torch.ones(2, device="meta").clone())
    assert identity(torch.ones(2, dtype=torch.cfloat).conj()) != identity(torch.ones(2, dtype=torch.cfloat))


def test_values_are_those_of_the_call(torch: Any) -> None:
    tensor = torch.zeros(4096)
    (copy,) = on_host([tensor], block)
    tensor.add_(1)
    assert not copy.any()
