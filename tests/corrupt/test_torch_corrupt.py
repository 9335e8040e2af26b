"""Hostile and damaged torch files: nothing is run, nothing is read out of bounds, each is an error."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from tests.corrupt.hostile_pickles import PICKLES, python_pickles
from tests.unit.torch_support import DEFLATED, archive, legacy, name, number, numbers, pickled, storage, tensor, text

import weightlift as wl

FOUR = {"0": np.arange(4, dtype="<f4").tobytes()}
HOSTILE: dict[str, bytes] = {
    **PICKLES,
    # tensors
    "a persistent id that is text": text("storage") + b"Q",
    "a storage without a size": b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + b"NtQ",
    "a storage whose size is text": b"("
    + text("storage")
    + name("torch", "FloatStorage")
    + text("0")
    + text("cpu")
    + text("4")
    + b"tQ",
    "a storage of negative size": storage(numel=-1),
    "a storage of 2**62 elements": tensor(held=storage(numel=1 << 62)),
    "a storage of 2**64 elements": tensor(held=storage(numel=1 << 64)),
    "a storage larger than its member": tensor(held=storage(numel=5)),
    "a storage smaller than its member": tensor(held=storage(numel=3)),
    "a storage of doubles": tensor(held=storage(kind=name("torch", "DoubleStorage"))),
    "a storage that is not there": tensor(held=storage("7")),
    "a storage outside of the archive": tensor(held=storage("../../etc/passwd")),
    "a storage in place of the pickle": tensor(held=storage("../data.pkl")),
    "a storage of an unknown class": tensor(held=storage(kind=name("torch", "EvilStorage"))),
    "a storage of a class that is none": tensor(held=storage(kind=name("torch", "Tensor"))),
    "four-bit elements": tensor(held=storage(kind=name("torch", "QUInt4x2Storage"))),
    "a negative offset": tensor(offset=-1),
    "an offset beyond the end": tensor((1,), offset=4),
    "an offset that overflows": tensor((1,), offset=(1 << 63) - 1),
    "an offset of 2**64": tensor((1,), offset=1 << 64),
    "a negative size": tensor((-4,)),
    "a negative stride": tensor(stride=(-1,)),
    "a size beyond the end": tensor((5,)),
    "a stride beyond the end": tensor((2, 2), (3, 1)),
    "a product that overflows": tensor((1 << 40, 1 << 40), (1 << 40, 1)),
    "a repeated element of a terabyte": tensor((1 << 40,), (0,)),
    "a repeated element of 2**120 bytes": tensor((1 << 60, 1 << 60), (0, 0)),
    "fewer strides than sizes": tensor((2, 2), (1,)),
    "sizes that are text": name("torch._utils", "_rebuild_tensor") + b"(" + storage() + b"K\0" + text("4") + b"NtR",
    "a tensor in a list for a storage": tensor(held=b"]"),
    "too few arguments": name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"tR",
    "arguments in a list": name("torch._utils", "_rebuild_tensor_v2") + b"]R",
    "65 axes": tensor((1,) * 65, (1,) * 65),
    "a parameter of text": name("torch._utils", "_rebuild_parameter") + b"(" + text("w") + b"\x88NtR",
}  # fmt: skip


def write(folder: Path, data: bytes) -> Path:
    path = folder / "x.pt"
    path.write_bytes(data)
    return path


def refused(path: Path) -> wl.WeightliftError:
    """Every way to look into a file gives an error, soon, and runs nothing."""
    begin = time.monotonic()
    for look in (wl.load, wl.open, lambda p: wl.convert(p, p.with_suffix(".npz"))):
        with pytest.raises((wl.FormatError, wl.TruncatedError)) as caught:
            look(path)
        assert path.name in str(caught.value)
    assert not wl.verify(path).ok
    assert time.monotonic() - begin < 30, "this is what a bomb would take; refusing takes milliseconds"
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.pt"], "nothing was run or left behind"
    return caught.value


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is run all the same would write here."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle(case: str, tmp_path: Path) -> None:
    refused(write(tmp_path, archive(pickled(HOSTILE[case]), FOUR)))


@pytest.mark.parametrize("case", [c for c in HOSTILE if "storage" not in c])
def test_hostile_pickle_in_an_old_file(case: str, tmp_path: Path) -> None:
    refused(write(tmp_path, legacy(pickled(HOSTILE[case]), ["0"], [(4, FOUR["0"])])))


@pytest.mark.parametrize("case", python_pickles())
def test_pickle_that_runs_code(case: str, tmp_path: Path) -> None:
    error = refused(write(tmp_path, archive(python_pickles()[case])))
    if "protocol 0" not in case and "protocol 1" not in case:
        assert isinstance(error, wl.UnsafeContentError)
        assert "names" in str(error)


@pytest.mark.parametrize("levels", [40, 90])
def test_a_list_of_lists_of_lists_ends(levels: int, tmp_path: Path) -> None:
    """Each level holds the one below four times: 4**levels leaves, in a pickle of some kilobytes."""
    body = b"]q\0"
    for i in range(levels):
        body += b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 3 + b"eq" + bytes([i + 1])
    body = body + b"q\xff" + b"0" * (levels + 1) + b"h\xff"
    error = refused(write(tmp_path, archive(pickled(body))))
    assert "without end" in str(error)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    error = refused(write(tmp_path, archive(pickled(b"]" * 100_000 + b"a" * 99_999))))
    assert "deeper" in str(error)


def test_one_tensor_named_a_million_times(tmp_path: Path) -> None:
    """A list that holds one tensor so often that copies of it would fill the memory."""
    big = {"0": bytes(1 << 20)}
    body = tensor((1 << 18,), held=storage(numel=1 << 18)) + b"q\0" + b"0](" + b"h\0" * 20_000 + b"e"
    error = refused(write(tmp_path, archive(pickled(body), big)))
    assert "by sharing and repeating" in str(error)


def test_a_long_key_above_many_tensors(tmp_path: Path) -> None:
    """Names are paths: a key of a megabyte above a thousand tensors would make a gigabyte of names."""
    body = b"}" + text("k" * (1 << 20)) + b"](" + tensor() + b"q\0" + b"h\0" * 1000 + b"es"
    error = refused(write(tmp_path, archive(pickled(body), FOUR)))
    assert "characters" in str(error)


def test_opcodes_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, archive(pickled(b"N0" * 5_000_001 + b"N"), method=DEFLATED))
    with pytest.raises(wl.FormatError, match="opcodes"):  # looked at once: it takes seconds
        wl.open(path)


def test_a_pickle_may_not_be_huge(tmp_path: Path) -> None:
    error = refused(write(tmp_path, archive(pickled(b"0" * (65 << 20)), method=DEFLATED)))
    assert "at most" in str(error)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"version": b""}, "version"),
        ({"version": b"11\n"}, "version '11'"),
        ({"version": b"x"}, "version 'x'"),
        ({"version": b"3" * 2000}, "at most"),
        ({"byteorder": b"middle"}, "byteorder"),
        ({"data__pkl": b"N."}, "data.pkl"),
        ({"__weightlift/tensors__json": b"[]"}, "record"),
        ({"__weightlift/tensors__json": b'{"weightlift":1'}, "JSON"),
    ],
)
def test_archive_that_breaks_its_own_rules(members: dict[str, bytes], reason: str, tmp_path: Path) -> None:
    data = b"" if "data__pkl" in members else pickled(tensor())
    members.pop("data__pkl", None)
    assert reason in str(refused(write(tmp_path, archive(data, FOUR, **members))))


def test_a_record_of_another_pickle_is_damage(tmp_path: Path) -> None:
    record = b'{"weightlift":1,"crc32c":"00000000","pickle":"00000000"}'
    path = write(tmp_path, archive(pickled(tensor()), FOUR, **{"__weightlift/tensors__json": record}))
    with pytest.raises(wl.ChecksumError, match=r"another data\.pkl"):
        wl.load(path)
    assert not wl.verify(path).ok
    assert wl.load(path, verify=False).tolist() == [0, 1, 2, 3]


OLD = pickled(tensor())
OLD_CASES: dict[str, bytes] = {
    "a storage that is not listed": legacy(OLD, [], []),
    "a storage that is not in the object": legacy(OLD, ["0", "1"], [(4, FOUR["0"])] * 2),
    "a storage listed twice": legacy(OLD, ["0", "0"], [(4, FOUR["0"])] * 2),
    "another number of elements": legacy(OLD, ["0"], [(5, FOUR["0"])]),
    "a negative number of elements": legacy(OLD, ["0"], [(-4, FOUR["0"])]),
    "a short storage": legacy(OLD, ["0"], [(4, FOUR["0"][:-1])]),
    "bytes behind the last storage": legacy(OLD, ["0"], [(4, FOUR["0"])]) + b"x",
    "keys that are numbers": legacy(OLD, [0], [(4, FOUR["0"])]),  # type: ignore[list-item]
    "a huge storage": legacy(pickled(tensor(held=storage(numel=1 << 60))), ["0"], [(1 << 60, FOUR["0"])]),
    "a view out of its storage": legacy(
        pickled(tensor(held=storage()[:-2] + b"(" + text("1") + number(2) + number(4) + b"ttQ")),
        ["0"],
        [(4, FOUR["0"])],
    ),
    "another version": legacy(OLD, ["0"], [(4, FOUR["0"])]).replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2), 1),
}


@pytest.mark.parametrize("case", OLD_CASES)
def test_old_file_that_breaks_its_own_rules(case: str, tmp_path: Path) -> None:
    refused(write(tmp_path, OLD_CASES[case]))


def test_the_good_ones_load(tmp_path: Path) -> None:
    """What the cases above differ from is right: else they would test nothing."""
    for data in (
        archive(OLD, FOUR),
        archive(OLD, FOUR, method=DEFLATED),
        legacy(OLD, ["0"], [(4, FOUR["0"])]),
        archive(pickled(name("torch", "Size") + b"(" + numbers(2) + b"tR0" + tensor()), FOUR),
    ):
        assert wl.load(write(tmp_path, data)).tolist() == [0, 1, 2, 3]
    view = legacy(
        pickled(tensor((2,), held=storage()[:-2] + b"(" + text("1") + number(1) + number(2) + b"ttQ")),
        ["0"],
        [(4, FOUR["0"])],
    )
    assert wl.load(write(tmp_path, view)).tolist() == [1, 2]


@pytest.mark.parametrize("make", ["ours", "old"])
def test_cut_off_anywhere(make: str, tmp_path: Path) -> None:
    data = _sample(make, tmp_path)
    for length in range(0, len(data), 7):
        with pytest.raises((wl.FormatError, wl.TruncatedError)):
            wl.load(write(tmp_path, data[:length]), format="torch")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """In our own files, by a checksum or because it breaks something; else it is in bytes that mean nothing."""
    data = _sample("ours", tmp_path)
    for at in range(0, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        try:
            found = wl.load(write(tmp_path, bytes(damaged)), format="torch")
        except wl.WeightliftError:
            continue
        assert repr(found) == repr(SAMPLE), f"byte {at}"


SAMPLE = {"a": np.arange(5, dtype="f4"), "n": {"b": np.array([[1, 2]]), "epoch": 3, "note": "é"}}


def _sample(make: str, folder: Path) -> bytes:
    if make == "old":
        return legacy(OLD, ["0"], [(4, FOUR["0"])])
    wl.save(SAMPLE, folder / "x.pt", durable=False)
    return (folder / "x.pt").read_bytes()
