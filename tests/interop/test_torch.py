"""PyTorch itself reads what is written here, bit for bit, and what it writes is read."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import weightlift as wl
from weightlift.formats._torch_pickle import KINDS

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

WAYS: dict[str, dict[str, Any]] = {
    "weights only": {"weights_only": True},
    "everything": {"weights_only": False},
    "mapped": {"weights_only": True, "mmap": True},
}


def bits(value: Any) -> bytes:
    """The bytes of an array or a tensor in C order."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    packed = torch.empty(value.numel(), dtype=value.dtype)
    packed.copy_(value.detach().reshape(-1))
    return bytes(packed.view(torch.uint8).numpy().tobytes())


def assert_same(found: Any, expected: Any) -> None:
    """Equal containers and values; arrays and tensors equal in type, shape and bits."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray) or torch.is_tensor(expected):
        assert tuple(found.shape) == tuple(expected.shape)
        assert str(found.dtype).removeprefix("torch.") == str(expected.dtype).removeprefix("torch.")
        assert bits(found) == bits(expected)
    else:
        assert repr(found) == repr(expected)


def sample() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kinds = [np.dtype(getattr(ml_dtypes, k, k)) for k in KINDS if k != "float4_e2m1fn"]
    tensors = {str(k): rng.integers(0, 2, (3, 5)).astype(k) for k in kinds}
    return {
        **tensors,
        "scalar": np.array(7, "i8"),
        "empty": np.zeros((3, 0, 2), "f2"),
        "large": rng.normal(size=(600, 700)).astype("f4"),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4))),
        "swapped": np.arange(6, dtype=">i4"),
        "nested": [{"a": (np.arange(3), 1, 2.5, None)}, "text é", True, [], (), {}],
        "numbers": {0: -1, 300: 70_000, "big": -(1 << 80), "inf": float("-inf"), "nan": float("nan")},
        "others": [b"\0\xff", b"", 1 - 2j, {1, 2}],
    }


def as_torch_gives(value: Any) -> Any:
    """Byte order and memory order do not survive, and need not."""
    if isinstance(value, dict):
        return {key: as_torch_gives(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(as_torch_gives(item) for item in value)
    return value.astype(value.dtype.newbyteorder("=")) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("way", WAYS)
def test_torch_reads_what_was_saved(way: str, tmp_path: Path) -> None:
    wl.save(sample(), tmp_path / "x.pt")
    assert_same(torch.load(tmp_path / "x.pt", **WAYS[way]), as_torch_gives(sample()))


@pytest.mark.parametrize("obj", [np.arange(4.0), [np.arange(2), np.ones(3)], {}, {"w": np.ones(2)}, (np.ones(1),)])
def test_single_tensors_and_containers(obj: Any, tmp_path: Path) -> None:
    wl.save(obj, tmp_path / "x.pth")
    assert_same(torch.load(tmp_path / "x.pth", weights_only=True), obj)
    assert_same(wl.load(tmp_path / "x.pth"), obj)


def test_our_record_is_in_nobodys_way(tmp_path: Path) -> None:
    """Zip tools, torch's own reader of archives, and a load of meta tensors."""
    wl.save(sample(), tmp_path / "x.pt", metadata={"note": "é"})
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        assert any("weightlift" in name for name in archive.namelist())
    reader = torch._C.PyTorchFileReader(str(tmp_path / "x.pt"))
    assert reader.get_record("data/0") is not None and b"crc32c" in reader.get_record(".weightlift/tensors.json")
    shapes = torch.load(tmp_path / "x.pt", map_location="meta", weights_only=True)
    assert tuple(shapes["large"].shape) == (600, 700)
    with pytest.raises(RuntimeError):  # as of any file of torch.save
        torch.jit.load(str(tmp_path / "x.pt"))


def test_offsets_are_looked_up_and_not_computed(tmp_path: Path) -> None:
    """torch can be told to compute where storages are; files without its record of the layout are safe from that."""
    from torch.utils.serialization import config

    wl.save(sample(), tmp_path / "x.pt")
    before = config.load.calculate_storage_offsets
    config.load.calculate_storage_offsets = True
    try:
        found = torch.load(tmp_path / "x.pt", mmap=True, map_location="meta", weights_only=True)
        assert tuple(found["large"].shape) == (600, 700)
        assert_same(torch.load(tmp_path / "x.pt", weights_only=True), as_torch_gives(sample()))
    finally:
        config.load.calculate_storage_offsets = before


def views() -> dict[str, Any]:
    base = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)
    flat = torch.arange(50, dtype=torch.int64)
    complexes = torch.complex(torch.arange(4.0), torch.arange(4.0) - 2)
    return {
        "base": base,
        "channels last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(1, 3),
        "reversed axes": base.permute(3, 2, 1, 0),
        "slice": base[:, 1:],
        "steps": base[:, ::2, 1:3, ::3],
        "column": base[0, 0, :, 2],
        "one element": base[1, 2, 3, 4],
        "one element, axes": base[1:, 2:, 3:, 4:],
        "empty slice": base[:, 3:],
        "repeated": torch.ones(1).expand(4, 6),
        "repeated row": flat[3:8].expand(4, 5),
        "head": flat[:10],
        "tail": flat[40:],
        "overlapping": flat.as_strided((5, 5), (2, 3), 4),
        "conjugate": complexes.conj(),
        "conjugate of steps": complexes[::2].conj(),
        "negative": torch._neg_view(flat.to(torch.float64)),
        "imaginary part of a conjugate": complexes.clone().conj().imag,
        "parameter": torch.nn.Parameter(base[0, 0].t()),
        "half": base.to(torch.bfloat16).transpose(0, 2),
        "quarter": base.to(torch.float8_e4m3fn).transpose(0, 2),
        "bool": (base > 50)[:, :, 1],
    }


@pytest.mark.parametrize("old", [False, True], ids=["archive", "legacy"])
@pytest.mark.parametrize("memory", ["arena", "tensor", "map"])
def test_views_of_all_kinds(memory: str, old: bool, tmp_path: Path) -> None:
    found = views()
    torch.save(found, tmp_path / "v.pt", _use_new_zipfile_serialization=not old)
    assert_same(wl.load(tmp_path / "v.pt", memory=memory), dict(found))
    with wl.open(tmp_path / "v.pt") as weights:
        assert_same({n: view[...] for n, view in weights.items()}, dict(found))
        for name, tensor in found.items():
            if tensor.dim() and len(tensor) > 1:
                assert bits(np.ascontiguousarray(weights[name][1:2])) == bits(tensor[1:2]), name


@pytest.mark.parametrize("target", ["v.safetensors", "v.npz", "w.pt"])
def test_views_are_converted(target: str, tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "v.pt")
    wl.convert(tmp_path / "v.pt", tmp_path / target)
    assert wl.diff(tmp_path / "v.pt", tmp_path / target).same
    assert wl.verify(tmp_path / target).ok and not wl.verify(tmp_path / target).unchecked


def test_a_view_is_cast_on_the_way(tmp_path: Path) -> None:
    torch.save(views(), tmp_path / "v.pt")
    found = wl.load(tmp_path / "v.pt", names="steps", dtype="float64")["steps"]
    assert found.dtype == np.float64 and np.array_equal(found, views()["steps"].numpy())


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_packed_again(order: str, compression: int, tmp_path: Path) -> None:
    """By a zip tool, which aligns nothing and may deflate; and from a machine of the other byte order."""
    found = {k: v for k, v in views().items() if k not in ("quarter", "half")}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({k: v.detach() for k, v in found.items()}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(tmp_path / "z.pt", "w", compression) as new:
        pickle = old.read("archive/data.pkl")
        words = _words_of(pickle) if order == "big" else {}
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("byteorder"):
                data = order.encode()
            elif "data/" in name and ".data" not in name and order == "big":
                word = words[name.rpartition("/")[2]]
                data = np.frombuffer(data, np.uint8).reshape(-1, word)[:, ::-1].tobytes()
            if "format_version" not in name and "storage_alignment" not in name:
                new.writestr(name, data)
    assert_same(wl.load(tmp_path / "z.pt"), dict(found))
    assert wl.verify(tmp_path / "z.pt").ok


def _words_of(pickle: bytes) -> dict[str, int]:
    """Bytes that are swapped together, by storage."""
    from weightlift.formats._pickle import decode_pickle
    from weightlift.formats._torch_vocabulary import TorchVocabulary

    sizes = {"float32": 4, "float64": 8, "int64": 8, "complex64": 4, "bool": 1}
    words = TorchVocabulary()
    decode_pickle(pickle, words)
    return {key: sizes[str(held.dtype)] for key, held in words.storages.items()}


def test_a_whole_training_state(tmp_path: Path) -> None:
    """Model and optimizer go through every format and come back into live ones."""
    torch.manual_seed(0)
    make = lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten())  # noqa: E731
    model = make().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images = torch.randn(2, 3, 8, 8)
    model(images).square().sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(state, tmp_path / "a.ckpt")
    for source, target in (("a.ckpt", "b.safetensors"), ("b.safetensors", "c.npz"), ("c.npz", "d.pt")):
        wl.convert(tmp_path / source, tmp_path / target)
    back = torch.load(tmp_path / "d.pt", weights_only=True)
    assert back["epoch"] == 3
    again = make()
    again.load_state_dict(back["model"])
    other = torch.optim.Adam(again.parameters())
    other.load_state_dict(back["optimizer"])
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    weight = np.arange(1 << 12, dtype="f4").reshape(64, 64)
    result = wl.save({"embed": weight, "head": weight, "other": weight.T}, tmp_path / "x.pt")
    assert result.shared == (("embed", "head"),) and result.stored_once
    assert result.crc32c["embed"] == result.crc32c["head"] != 0
    assert result.nbytes < 2.5 * weight.nbytes
    wl.convert(tmp_path / "x.pt", tmp_path / "y.pt")
    for name in ("x.pt", "y.pt"):
        found = torch.load(tmp_path / name, weights_only=True)
        assert found["embed"].data_ptr() == found["head"].data_ptr() != found["other"].data_ptr()
        assert_same(found, {"embed": weight, "head": weight, "other": weight.T})
        assert wl.verify(tmp_path / name).ok
    result = wl.save({"a": weight, "b": weight}, tmp_path / "z.pt", dtype={"b": "float16"})
    assert not result.stored_once
    assert_same(torch.load(tmp_path / "z.pt"), {"a": weight, "b": weight.astype("f2")})


def test_scripted_modules(tmp_path: Path) -> None:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(3, 4)
            self.two = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.BatchNorm1d(2))

        def forward(self, x: Any) -> Any:
            return self.two(self.one(x))

    net = Net().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, torch.ones(2, 3)).save(str(tmp_path / "s.pt"))
    found = wl.load(tmp_path / "s.pt")
    expected = {k: v for k, v in net.state_dict().items() if k in found}
    assert len(expected) >= 6
    assert_same({k: found[k] for k in expected}, dict(expected))


class Holder(torch.nn.Module):  # type: ignore[misc]
    """Tensors in a list and in a dict, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [torch.ones(2), torch.zeros(3)]
        self.named = {"k": torch.arange(4)}
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return x * self.scale + self.parts[0] + self.named["k"][0]


def test_a_scripted_module_with_tensors_in_containers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Holder()).save(str(tmp_path / "s.pt"))
    found = {name: array.tolist() for name, array in wl.load(tmp_path / "s.pt").items()}
    assert found == {"parts.0": [1, 1], "parts.1": [0, 0, 0], "named.k": [0, 1, 2, 3]}


def test_what_torch_refuses_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(wl.UnsafeContentError, match=r"torch\.nn\.modules\.linear\.Linear"):
        wl.load(tmp_path / "module.pt")


@pytest.mark.parametrize("kind", ["S3", "U2"])
def test_types_without_a_counterpart_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(wl.UnsupportedFeatureError, match="'x'"):
        wl.save({"x": np.zeros(2, kind)}, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
