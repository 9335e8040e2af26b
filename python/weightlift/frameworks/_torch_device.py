"""Tensors of a GPU on their way into the host's memory.

``tensor.cpu()`` has the driver copy through a small buffer of its own into memory that is faulted in page by page, one
tensor after the other, with the host waiting for each. Here the GPU's copy engine fills a ring of page-locked slots,
on a stream of its own, while threads carry what has arrived to where it belongs. Large tensors go through several
slots, small ones share one. Only the ring is page-locked, whatever the size of the state.

Source: CUDA C++ Programming Guide, "Asynchronous Concurrent Execution"; PyTorch notes, "CUDA semantics".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from weightlift import _core

if TYPE_CHECKING:
    import torch

__all__ = ["Lane", "Run", "identity", "on_device", "on_host", "pump"]

Bytes = npt.NDArray[np.uint8]
Memory = Callable[[int], Bytes]
"""Gives so many bytes, which begin on a page."""

_SLOT = 16 << 20
"""Bytes of a slot: long enough that starting a copy costs nothing, short enough for a ring that any machine grants."""

_THREADS = 8
"""That empty the ring, at most: they carry more than the bus of a GPU brings."""

_ALIGNMENT = 4096
"""Of large tensors, so that they can be written past the page cache from where they are."""

_LARGE = 1 << 20


def on_device(leaf: Any) -> bool:
    """Whether a leaf is a tensor of torch's that lies in the memory of a device."""
    if type(leaf).__module__.partition(".")[0] != "torch" or not hasattr(leaf, "device"):
        return False
    return leaf.device.type not in ("cpu", "meta")


def on_host(leaves: Sequence[Any], memory: Memory) -> list[Any]:
    """``leaves`` with tensors on the CPU in the place of those on devices; those that are one memory stay one.

    They have the values that the current stream of their device comes to.

    Args:
        leaves: Anything.
        memory: Where to copy to.
    """
    if not any(kind.__module__.partition(".")[0] == "torch" for kind in set(map(type, leaves))):
        return list(leaves)  # one look at each, of a hundred thousand
    first: dict[Any, int] = {}
    same = [first.setdefault(identity(leaf), i) if on_device(leaf) else i for i, leaf in enumerate(leaves)]
    chosen = sorted(first.values())
    streamed = [i for i in chosen if _is_streamed(leaves[i])]
    made = list(leaves)
    for i in set(chosen).difference(streamed):
        made[i] = leaves[i].detach().cpu()
    for i, copy in zip(streamed, _through_rings([leaves[i] for i in streamed], memory), strict=True):
        made[i] = copy
    return [made[i] for i in same]


def identity(tensor: torch.Tensor) -> Any:
    """Equal for two tensors that are the same elements of the same memory, whatever device it is of."""
    if tensor.device.type == "meta" or not _is_plain(tensor) or not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the elements in its memory are those that it has: no views that negate them, no wrappers."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or str(tensor.layout) != "torch.strided":
        return False
    return not any((tensor.is_quantized, tensor.is_conj(), tensor.is_neg()))


def _is_streamed(tensor: torch.Tensor) -> bool:
    return bool(tensor.device.type == "cuda") and _is_dense(tensor)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements are one run of memory, in whatever order."""
    if not _is_plain(tensor):
        return False
    step = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != step:
            return False
        step *= size
    return bool(tensor.numel())


# --- the ring -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a tensor that go through a slot together."""

    at: int
    """In the slot."""
    source: Any
    """The tensor, as a row of bytes on the device."""
    begin: int
    """In the source."""
    target: Bytes
    """Where they belong; as many."""


class Lane(Protocol):
    """The slots of a device, and its copy engine."""

    slots: int
    nbytes: int
    """Of a slot."""

    def start(self, slot: int, runs: Sequence[Run]) -> None:
        """Have the device copy into a slot, once it gets there."""

    def arrived(self, slot: int) -> Bytes:
        """Wait for the last copies that were started into a slot, and give its memory."""

    def close(self) -> None:
        """Wait for all that was started."""


def pump(lane: Lane, copies: Sequence[tuple[Any, Bytes]], threads: int) -> None:
    """Copy rows of bytes on a device each into its place on the host.

    Nothing is under way any more when it returns, or raises.
    """
    free: SimpleQueue[int] = SimpleQueue()
    for slot in range(lane.slots):
        free.put(slot)

    def land(slot: int, runs: Sequence[Run]) -> None:
        try:
            data = lane.arrived(slot)
            for run in runs:
                np.copyto(run.target, data[run.at : run.at + len(run.target)])
        finally:
            free.put(slot)

    landing: list[Future[None]] = []
    with ThreadPoolExecutor(threads, "weightlift-device") as pool:
        try:
            for runs in _slotfuls(copies, lane.nbytes):
                slot = free.get()
                lane.start(slot, runs)
                landing.append(pool.submit(land, slot, runs))
        finally:
            lane.close()
    for done in landing:
        done.result()


def _slotfuls(copies: Sequence[tuple[Any, Bytes]], nbytes: int) -> Iterator[list[Run]]:
    runs: list[Run] = []
    used = 0
    for source, target in copies:
        begin = 0
        while begin < len(target):
            count = min(nbytes - used, len(target) - begin)
            runs.append(Run(used, source, begin, target[begin : begin + count]))
            used, begin = used + count, begin + count
            if used == nbytes:
                yield runs
                runs, used = [], 0
    if runs:
        yield runs


# --- CUDA -----------------------------------------------------------------------------------------
def _through_rings(tensors: Sequence[torch.Tensor], memory: Memory) -> list[torch.Tensor]:
    """Copies of dense CUDA tensors, in one block of memory, with the strides that they have."""
    places, end = [], 0
    for tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        step = _ALIGNMENT if nbytes >= _LARGE else 64
        places.append(-(-end // step) * step)
        end = places[-1] + nbytes
    if not tensors:
        return []
    import torch

    block = memory(end)
    copies: dict[torch.device, list[tuple[Any, Bytes]]] = {}
    made = []
    for tensor, at in zip(tensors, places, strict=True):
        source = tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8)
        target = block[at : at + len(source)]
        copies.setdefault(tensor.device, []).append((source, target))
        made.append(torch.from_numpy(target).view(tensor.dtype).as_strided(tensor.shape, tensor.stride()))
    for device, wanted in copies.items():
        _fetch(device, wanted)
    return made


def _fetch(device: torch.device, copies: Sequence[tuple[Any, Bytes]]) -> None:
    threads = min(_THREADS, _core.pool_threads())
    try:
        lane = _CudaLane(device, sum(len(target) for _, target in copies), threads)
    except RuntimeError:  # no memory may be page-locked here
        for source, target in copies:
            target[:] = source.cpu().numpy()
        return
    pump(lane, copies, threads)


class _CudaLane:
    """:class:`Lane` of a CUDA device.

    The slots come from PyTorch's cache of page-locked memory: only the first ring of a process costs something.
    """

    def __init__(self, device: torch.device, nbytes: int, threads: int) -> None:
        """A ring for ``nbytes`` in all, emptied by ``threads``."""
        import torch

        self.nbytes = min(_SLOT, nbytes)
        self.slots = min(threads + 2, -(-nbytes // self.nbytes))
        self._memory = [torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=True) for _ in range(self.slots)]
        cuda: Any = torch.cuda
        self._stream = cuda.Stream(device)
        with cuda.device(device):
            self._arrived = [cuda.Event(blocking=True) for _ in range(self.slots)]
        self._stream.wait_stream(cuda.current_stream(device))  # behind what computes the tensors

    def start(self, slot: int, runs: Sequence[Run]) -> None:
        """See the class."""
        import torch

        memory = self._memory[slot]
        with torch.cuda.stream(self._stream):
            for run in runs:
                count = len(run.target)
                source = run.source[run.begin : run.begin + count]
                memory[run.at : run.at + count].copy_(source, non_blocking=True)
            self._arrived[slot].record(self._stream)

    def arrived(self, slot: int) -> Bytes:
        """See the class."""
        self._arrived[slot].synchronize()
        data: Bytes = self._memory[slot].numpy()
        return data

    def close(self) -> None:
        """See the class."""
        self._stream.synchronize()
