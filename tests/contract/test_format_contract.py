"""Every format of the library keeps the promises of ``weightlift.testing.FormatContract``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from tests.unit.mxnet_support import numpy_graph

from weightlift.formats import FORMATS, by_name, by_suffix
from weightlift.protocols import Format
from weightlift.testing import FormatContract, MemoryFiles, write_tensors
from weightlift.testing._reference import Written


class TestMxnet(FormatContract):
    format = by_name("mxnet")


class TestMxnetV2(FormatContract):
    format = by_name("mxnet-v2")

    @pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
    def test_what_was_saved_comes_back(self, shape: tuple[int, ...]) -> None:
        """It has no scalars and no arrays without elements."""
        super().test_what_was_saved_comes_back(shape)

    def test_layout_fits_its_files(self) -> None:
        """What is read is of one format, whichever version was written."""
        written = self.write(self.sample())
        assert by_name("mxnet").read(MemoryFiles(written.files), written.name).format == "mxnet"


class TestMxnetSymbol(FormatContract):
    format = by_name("mxnet-symbol")

    def write(self, tensors: Mapping[str, Any], **options: Any) -> Written:
        """With a symbol, which has no structure, and which is what was asked for."""
        extra = {"modelTopology": numpy_graph([name for name in tensors if name != "data"])}
        written = super().write(tensors, extra=extra, **{**options, "structure": None})
        return replace(written, name=self.target())

    def test_is_named(self) -> None:
        """Its ending is more than a suffix, as MXNet has it."""
        assert (self.format.name, list(self.format.suffixes)) == ("mxnet-symbol", ["-symbol.json"])

    def test_metadata_and_structure_come_back(self) -> None:
        """Metadata goes to the sidecar."""
        assert self.write(self.sample(), metadata={"note": "é"}).packing.sidecar


class TestFlax(FormatContract):
    format = by_name("flax")


class TestGguf(FormatContract):
    format = by_name("gguf")

    def sample(self) -> dict[str, Any]:
        return {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "c": np.arange(5, dtype=np.int32)}


class TestNpy(FormatContract):
    format = by_name("npy")
    single = True


class TestNpyPickle(FormatContract):
    format = by_name("npy-pickle")
    file_name = "x.pickle.npy"


class TestNpz(FormatContract):
    format = by_name("npz")


needs_h5py = pytest.mark.skipif(find_spec("h5py") is None, reason="h5py is not installed")


@needs_h5py
class TestHdf5(FormatContract):
    format = by_name("hdf5")


class TestOnnx(FormatContract):
    format = by_name("onnx")


class TestSafetensors(FormatContract):
    format = by_name("safetensors")


class TestSafetensorsIndex(FormatContract):
    format = by_name("safetensors")
    file_name = "x.safetensors.index.json"


class TestTfjs(FormatContract):
    format = by_name("tfjs")
    file_name = "model.json"


class TestTorch(FormatContract):
    format = by_name("torch")


class TestTensorBundle(FormatContract):
    format = by_name("tensorbundle")


class TestTensorBundleKeys(FormatContract):
    format = by_name("tensorbundle-keys")


ALL = [
    TestMxnet,
    TestMxnetSymbol,
    TestFlax,
    TestGguf,
    TestOnnx,
    TestNpy,
    TestNpyPickle,
    TestNpz,
    TestHdf5,
    TestSafetensors,
    TestSafetensorsIndex,
    TestTfjs,
    TestTorch,
    TestTensorBundle,
]
READ_ONLY = {"dcp", "orbax"}
"""Formats that the contract, which writes first, cannot try; tests/unit/test_dcp.py and test_orbax.py do."""

SUITES = [pytest.param(suite, marks=[needs_h5py] if suite is TestHdf5 else []) for suite in ALL]


def test_every_format_has_a_suite() -> None:
    assert {suite.format.name for suite in ALL} | READ_ONLY == {fmt.name for fmt in FORMATS}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("other", FORMATS, ids=lambda f: f.name)
def test_formats_do_not_claim_each_others_files(suite: type[FormatContract], other: Format) -> None:
    contract = suite()
    written = contract.write(contract.sample())
    data = written.files[written.name]
    assert other.sniff(data[:4096], len(data)) == (other.name == contract.format.name)


@pytest.mark.parametrize("suite", SUITES)
def test_suffixes_find_their_format(suite: type[FormatContract]) -> None:
    contract = suite()
    assert by_suffix(contract.target()) is contract.format
    assert by_suffix(contract.target().upper()) is contract.format


def test_the_contract_catches_a_format_that_breaks_it() -> None:
    """A suite that cannot fail is no suite."""

    class Careless:
        """npy that drops the last byte and never checks anything."""

        def __getattr__(self, name: str) -> object:
            return getattr(by_name("npy"), name)

        def sniff(self, head: bytes, size: int) -> bool:
            return True

        def seal(self, packing: object, checksums: object) -> dict[int, list[tuple[int, bytes]]]:
            return {0: [(130, b"\0")]}

    class Suite(FormatContract):
        format = Careless()  # type: ignore[assignment]
        single = True

    suite = Suite()
    assert write_tensors(suite.format, suite.sample(), "x.npy", suite.options()).files
    with pytest.raises(AssertionError):
        suite.test_patches_change_literals_only()
    with pytest.raises(AssertionError):
        suite.test_what_was_saved_comes_back((7,))
    with pytest.raises(AssertionError):
        suite.test_sniff_takes_no_other(b"")
