"""What every Format promises, as a suite to subclass."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from weightlift._dtypes import DTYPES
from weightlift._packing import PackOptions
from weightlift._tree import SINGLE
from weightlift.errors import FormatError, NotFoundError, UnsupportedFeatureError, WeightliftError
from weightlift.protocols import Format
from weightlift.testing._reference import MemoryFiles, Written, read_tensors, write_tensors

__all__ = ["FormatContract"]

Array = npt.NDArray[Any]

_SHAPES: Mapping[str, tuple[int, ...]] = {"scalar": (), "vector": (7,), "empty": (3, 0, 2), "cube": (2, 3, 4)}
_NAMES = ("w", "layer.0/weight:0", "with space", "é重み\U0001f3cb", 'quote"and\\', "x" * 200, "..", "../x", "/abs")
_STRANGE_HEADS = (b"", b"\0" * 64, b"<!DOCTYPE html><html>404</html>", b"version https://git-lfs.github.com/spec/v1\n")


class FormatContract:
    """Subclass it, set ``format``, and let pytest collect the subclass.

    Attributes:
        format: The Format under test.
        file_name: A target for it; by default ``x`` and the shortest suffix.
        single: It holds one array, not several.
        dtypes: Element types to try; the format may refuse any of them, by name.

    Example::

        class TestMyFormat(FormatContract):
            format = MyFormat()
    """

    format: ClassVar[Format]
    file_name: ClassVar[str | None] = None
    single: ClassVar[bool] = False
    dtypes: ClassVar[Sequence[str]] = tuple(name for name, dtype in DTYPES.items() if not dtype.packed)

    # --- helpers, which subclasses may replace ---------------------------------------------------
    def target(self) -> str:
        """The name that files are saved under."""
        return self.file_name or "x" + min(self.format.suffixes, key=len)

    def sample(self) -> dict[str, Array]:
        """Tensors that the format can hold."""
        if self.single:
            return {SINGLE: np.arange(12, dtype=np.float32).reshape(3, 4)}
        return {
            "a": np.arange(12, dtype=np.float32).reshape(3, 4),
            "b": np.array([True, False]),
            "c": np.arange(5, dtype=np.int32),
        }

    def options(self, **changes: Any) -> PackOptions:
        """Options for ``sample``."""
        return PackOptions(**{"structure": SINGLE if self.single else None, **changes})

    def write(self, tensors: Mapping[str, Array], **options: Any) -> Written:
        """Save in memory."""
        return write_tensors(self.format, tensors, self.target(), self.options(**options))

    def read(self, written: Written, files: Mapping[str, bytes] | None = None) -> dict[str, Array]:
        """Load what was written, or other content under the same names."""
        memory = MemoryFiles(written.files if files is None else files)
        return read_tensors(self.format.read(memory, written.name), memory)

    def assert_sample(self, written: Written, found: Mapping[str, Array]) -> None:
        """``found`` is what ``sample`` gave, in any order."""
        assert set(found) == set(written.specs.names)
        for name, array in zip(written.specs.names, self.sample().values(), strict=True):
            assert np.array_equal(found[name], array), name

    def supports(self, array: Array) -> bool:
        """Whether ``encode`` takes an array; if not, the error must name it."""
        try:
            self.write({SINGLE if self.single else "w": array})
        except UnsupportedFeatureError as error:
            assert self.single or "w" in str(error)
            assert str(array.dtype) in str(error), "the error says which dtype is the trouble"
            return False
        return True

    # --- names -----------------------------------------------------------------------------------
    def test_is_named(self) -> None:
        """A name, and suffixes, the longest first."""
        assert self.format.name == self.format.name.lower() != ""
        suffixes = list(self.format.suffixes)
        assert suffixes == sorted(suffixes, key=len, reverse=True)
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in suffixes)

    @pytest.mark.parametrize("name", _NAMES)
    def test_any_name_comes_back_or_is_refused(self, name: str) -> None:
        """Names of tensors are text, not paths."""
        if self.single:
            return
        array = np.arange(3, dtype=np.float32)
        try:
            written = self.write({name: array})
        except UnsupportedFeatureError:
            return
        assert np.array_equal(self.read(written)[name], array)

    # --- values ----------------------------------------------------------------------------------
    @pytest.mark.parametrize("shape", _SHAPES.values(), ids=_SHAPES)
    def test_what_was_saved_comes_back(self, shape: tuple[int, ...]) -> None:
        """Bit for bit, in the dtype that ``encode`` settled, for every dtype."""
        supported = 0
        for dtype in self.dtypes:
            array = _any_values(dtype, shape)
            if not self.supports(array):
                continue
            supported += 1
            written = self.write({SINGLE if self.single else "w": array})
            (found,) = self.read(written).values()
            (expected,) = written.specs.dtypes
            assert found.shape == shape
            if not written.packing.sidecar:  # which would restore what the format forgets
                assert found.dtype == expected.numpy
            assert found.tobytes() == array.astype(expected.numpy).tobytes(), dtype
        assert supported

    def test_all_tensors_come_back_under_their_names(self) -> None:
        """Nothing more, nothing less."""
        written = self.write(self.sample())
        self.assert_sample(written, self.read(written))

    def test_no_tensor_at_all(self) -> None:
        """An empty dict is a file too."""
        if not self.single:
            assert self.read(self.write({})) == {}

    def test_metadata_and_structure_come_back(self) -> None:
        """Unless they go to the sidecar."""
        sample = self.sample()
        structure = {"list": list(sample)}
        if self.single:
            return
        written = self.write(sample, structure=structure, metadata={"note": "é"})
        if written.packing.sidecar:
            assert written.packing.structure is not None
            return
        layout = self.format.read(MemoryFiles(written.files), written.name)
        assert layout.structure == structure
        assert layout.metadata["note"] == "é"

    # --- the plan --------------------------------------------------------------------------------
    def test_placements_cover_every_tensor_once(self) -> None:
        """In order, inside their files, never over a literal."""
        written = self.write(self.sample())
        where = written.packing.placements
        rows = sorted(
            zip(
                where.tensor.tolist(), where.start.tolist(), where.nbytes.tolist(), where.file.tolist(),
                where.offset.tolist(), strict=True,
            )
        )  # fmt: skip
        covered = [0] * len(written.specs)
        taken: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(written.packing.files))}
        for tensor, start, nbytes, file, offset in rows:
            assert start == covered[tensor]
            covered[tensor] += nbytes
            taken[file].append((offset, offset + nbytes))
        assert covered == written.specs.nbytes.tolist()
        order = list(zip(where.file.tolist(), where.offset.tolist(), strict=True))
        assert order == sorted(order)
        for number, file in enumerate(written.packing.files):
            ranges = [r for r in taken[number] if r[0] < r[1]]
            ranges += [(offset, offset + len(literal)) for offset, literal in file.literals]
            ranges.sort()
            assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))
            assert not ranges or (ranges[0][0] >= 0 and ranges[-1][1] <= file.nbytes)

    def test_patches_change_literals_only(self) -> None:
        """Sealing never moves or touches the payload."""
        written = self.write(self.sample())
        for number, patches in self.format.seal(written.packing, written.checksums).items():
            literals = written.packing.files[number].literals
            for offset, patch in patches:
                assert any(at <= offset and offset + len(patch) <= at + len(text) for at, text in literals)

    def test_file_names_are_plain(self) -> None:
        """Beside the target, and unique."""
        packing = self.write(self.sample()).packing
        names = [file.name for file in packing.files]
        if packing.manifest is not None:
            names.append(packing.manifest.name)
        assert self.target() in names or packing.manifest is not None
        assert len(set(names)) == len(names)
        assert all(name and "/" not in name and "\\" not in name for name in names)

    def test_equal_content_gives_equal_files(self) -> None:
        """No clock, no chance."""
        assert self.write(self.sample()).files == self.write(self.sample()).files

    def test_unknown_compression_is_refused(self) -> None:
        """By its name."""
        with pytest.raises(UnsupportedFeatureError, match="snake-oil"):
            self.write(self.sample(), compression="snake-oil")

    # --- reading ---------------------------------------------------------------------------------
    def test_only_headers_are_read(self) -> None:
        """A table costs far fewer bytes than its tensors."""
        written = self.write({SINGLE if self.single else "w": np.zeros(1 << 20, np.float32)})
        memory = MemoryFiles(written.files)
        self.format.read(memory, written.name)
        assert sum(reader.bytes_read for reader in memory.readers.values()) < 1 << 18

    def test_layout_fits_its_files(self) -> None:
        """It names them, passes validation again, and knows its format."""
        written = self.write(self.sample())
        memory = MemoryFiles(written.files)
        layout = self.format.read(memory, written.name)
        assert layout.format == self.format.name
        assert layout.damaged is None
        assert layout.validate([memory.open(name).size for name in layout.sources]) is layout

    def test_checksums_are_those_of_the_stored_bytes(self) -> None:
        """CRC-32C where the format keeps them itself."""
        written = self.write(self.sample())
        if written.packing.sidecar:
            return
        layout = self.format.read(MemoryFiles(written.files), written.name)
        for name, value in zip(written.specs.names, written.checksums.crc32c, strict=True):
            checksum = layout.tensors[name].checksum
            assert checksum is not None
            assert (checksum.kind, checksum.value) == ("crc32c", value)

    def test_checksums_can_be_left_out(self) -> None:
        """And then the file loads as well."""
        written = self.write(self.sample(), checksums=False)
        self.assert_sample(written, self.read(written))

    # --- content that is not ours ----------------------------------------------------------------
    def test_sniff_knows_its_own_files(self) -> None:
        """By their first 4 KiB."""
        written = self.write(self.sample())
        data = written.files[written.name]
        assert self.format.sniff(data[:4096], len(data))

    @pytest.mark.parametrize("head", _STRANGE_HEADS)
    def test_sniff_takes_no_other(self, head: bytes) -> None:
        """And does not fail on anything."""
        assert not self.format.sniff(head, len(head))

    @pytest.mark.parametrize("head", _STRANGE_HEADS)
    def test_other_content_is_an_error(self, head: bytes) -> None:
        """A page, a pointer, an empty file: FormatError, not a crash."""
        with pytest.raises(WeightliftError):
            self.format.read(MemoryFiles({self.target(): head}), self.target())

    def test_missing_file_is_not_found(self) -> None:
        """Whether it is the one asked for or one that it names."""
        with pytest.raises(NotFoundError):
            self.format.read(MemoryFiles({}), self.target())
        written = self.write(self.sample())
        for name in written.files:
            rest = {other: data for other, data in written.files.items() if other != name}
            with pytest.raises((NotFoundError, FormatError)):
                self.read(written, rest)

    def test_truncated_anywhere_is_an_error(self) -> None:
        """In every file, at every byte of small ones; space at the end of a text may go."""
        written = self.write(self.sample())
        for name, data in written.files.items():
            for length in _positions(len(data.rstrip(b" \n"))):
                with pytest.raises(WeightliftError):
                    self.read(written, {**written.files, name: data[:length]})

    def test_flipped_bits_are_found_or_harmless(self) -> None:
        """With checksums nothing false is ever loaded; without, nothing worse than another value is."""
        written = self.write(self.sample())
        for name, data in written.files.items():
            for at in _positions(len(data)):
                damaged = bytearray(data)
                damaged[at] ^= 1 << at % 8
                memory = MemoryFiles({**written.files, name: bytes(damaged)})
                try:
                    layout = self.format.read(memory, written.name)
                    found = read_tensors(layout, memory)
                except WeightliftError:
                    continue
                checked = all(entry.checksum is not None for entry in layout.tensors.values())
                if checked and layout.damaged is None and not written.packing.sidecar:
                    self.assert_sample(written, found)


def _any_values(dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of any bits but those of unusual NaNs, which conversions may change."""
    target = DTYPES[dtype].numpy
    count = int(np.prod(shape)) * target.itemsize
    data = np.random.default_rng(len(dtype)).integers(0, 256, count, np.uint8)
    array: Array = np.ndarray(shape, target, bytearray(data & 1 if dtype == "bool" else data))
    strange = array != array
    if strange.any():
        array[strange] = np.nan
    return array


def _positions(size: int) -> range:
    """Every byte of small files, some hundreds of large ones."""
    return range(0, size, max(1, size // 997))
