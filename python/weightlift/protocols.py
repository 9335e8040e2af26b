"""The verbs: what a reader, a store, a format and an IOHandler must be able to do.

Each protocol is as small as its use. Third parties may implement any of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from weightlift._dtypes import DType
    from weightlift._layout import Layout, ReadOptions, TensorEntry
    from weightlift._packing import Checksums, Encoding, Packing, PackOptions, TensorSpecs
    from weightlift.types import ModelArtifacts, ModelArtifactsInfo, SaveResult

__all__ = [
    "Choose",
    "CommitsTogether",
    "EncodesStrings",
    "Files",
    "Format",
    "HoldsModels",
    "HoldsParts",
    "IOHandler",
    "KeepsEncodings",
    "KeepsSidecar",
    "KeepsValues",
    "KnowsOtherNames",
    "KnowsPlaces",
    "LendsReader",
    "LiveTensors",
    "LiveTree",
    "ModelManager",
    "NamesVariables",
    "NumbersFiles",
    "OpensRemotely",
    "Reader",
    "ReadsSome",
    "ReplacesFiles",
    "SendsInOrder",
    "SendsSideBySide",
    "Slot",
    "Store",
    "StoresBlocks",
    "SupportsLoad",
    "SupportsMap",
    "SupportsPreload",
    "SupportsSave",
    "TakesDocument",
    "TakesReadOptions",
    "Writer",
    "WritesAgain",
]


@runtime_checkable
class Reader(Protocol):
    """Exact positional reads of one file whose identity is pinned."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Exactly ``nbytes`` bytes, or TruncatedError."""


@runtime_checkable
class SupportsPreload(Protocol):
    """A reader of which each read costs a round trip, and which can fetch what will be asked for in few."""

    def preload(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Ranges as (offset, nbytes), in any order; those beyond the end are cut. Kept until the next call."""


@runtime_checkable
class SupportsMap(Protocol):
    """A reader of a local file, which can be mapped into memory."""

    @property
    def on_network(self) -> bool:
        """Whether another machine may cut the file short, which kills who touches the mapping: then it is not mapped
        unless the caller asks for it.
        """

    def map(self) -> Any:
        """The bytes of the whole file, as a read-only buffer that holds the file open."""


@runtime_checkable
class LendsReader(Reader, Protocol):
    """A reader that plans do not read through: it lends them one of the core's, whose bytes flow without Python.

    Every reader that is not one of the core's own must do so, if its tensors are to be loaded.
    """

    def holding(self, ranges: Sequence[tuple[int, int]]) -> Any:
        """A reader of the core's from which these ranges (offset, nbytes) can be read; what is missing is fetched."""


class Files(Protocol):
    """What a parser is given: the files beside the one it parses, by relative name."""

    @property
    def remote(self) -> bool:
        """Whether opening a file, or reading a few bytes of it, costs a round trip."""

    def open(self, relative: str) -> Reader:
        """A reader, opened once and kept; NotFoundError; UnsafeContentError for a path that escapes."""

    def prepare(self, names: Sequence[str]) -> None:
        """Says which files will be opened next, so that remote ones can be opened at once."""


class Writer(Protocol):
    """Positional writes of one file that appears whole on ``commit`` or not at all."""

    def write_at(self, offset: int, data: Any) -> None:
        """Write all of ``data``."""

    def sync(self) -> None:
        """Make what was written durable."""

    def commit(self) -> None:
        """Publish under the final name."""

    def abort(self) -> None:
        """Forget it."""


@runtime_checkable
class WritesAgain(Protocol):
    """A writer whose file may be written once more from its first byte, after writing or committing it has failed."""

    def again(self) -> bool:
        """Wait as long as is due and return True; False, or the failure once more, where another try is no use."""


class Store(Protocol):
    """A place that holds files: a directory, memory, a server. Only the store joins names to paths."""

    @property
    def url(self) -> str:
        """What the relative names are relative to."""

    def path(self, relative: str) -> str:
        """What messages and results call a file: its path or URL. UnsafeContentError for a name that escapes."""

    def open(self, relative: str) -> Reader:
        """A reader of an existing file."""

    def create(self, relative: str, nbytes: int, *, durable: bool = True) -> Writer:
        """A writer of a file that will have ``nbytes`` bytes."""

    def exists(self, relative: str) -> bool:
        """Whether there is such a file."""

    def list(self) -> Iterable[str]:
        """Relative names of all files."""

    def delete(self, relative: str) -> None:
        """Remove a file; NotFoundError."""


@runtime_checkable
class CommitsTogether(Protocol):
    """A store that publishes several files sooner together than one after another."""

    def commit_all(self, writers: Sequence[Any]) -> None:
        """Commit writers of this store; none is published before all are durable."""


@runtime_checkable
class OpensRemotely(Protocol):
    """A store in which opening a file costs a round trip.

    Files are opened when something of them is needed, several at a time; manifests are believed until then.
    """

    def open_for(self, relative: str, ranges: Sequence[tuple[int, int]]) -> Reader:
        """As ``Store.open``, when only these ranges (offset, nbytes) will be read: no more need be fetched."""


@runtime_checkable
class SendsInOrder(Protocol):
    """A store that sends a file while it is written: its writers take bytes front to back, once; see ``_send``."""

    @property
    def keeps_sidecars(self) -> bool:
        """Whether a second file can be written beside the one that is asked for: its checksums."""


@runtime_checkable
class SendsSideBySide(Protocol):
    """A store that ``SendsInOrder``, and takes so many files at a time."""

    files_at_once: int


@runtime_checkable
class TakesDocument(Protocol):
    """A store that ``SendsInOrder``, into which the document of a model goes before its weights, and not as a file."""

    def stored_name(self, planned: str) -> str:
        """What the document calls the data file ``planned``."""

    def begin(self, document: bytes) -> None:
        """Take the document, before the first data file is created."""


class Format(Protocol):
    """One weight file format: pure functions from bytes to a Layout, and from specs to a Packing."""

    @property
    def name(self) -> str:
        """As in ``format="safetensors"``."""

    @property
    def suffixes(self) -> Sequence[str]:
        """File name endings, with the dot, longest first."""

    def sniff(self, head: bytes, size: int) -> bool:
        """Whether a file of ``size`` bytes that begins with ``head`` (up to 4 KiB) is of this format."""

    def read(self, files: Files, name: str) -> Layout:
        """The validated layout of file ``name``; reads headers only, within a byte budget."""

    def encode(self, specs: TensorSpecs, quantize: Mapping[str, str] | str | None) -> dict[int, str]:
        """Settle how rows are stored, editing ``specs`` (dtypes, encodings, nbytes).

        Returns the rows that need an affine quantisation, whose ranges the caller finds (``"uint8"``, ``"uint16"``),
        and those for which the caller is to choose a type (``"auto:TOLERANCE"``). UnsupportedFeatureError lists
        every tensor that the format cannot hold, and says what to do (``dtype=``).
        """

    def pack(self, specs: TensorSpecs, name: str, options: PackOptions) -> Packing:
        """Where everything goes when the target is called ``name``."""

    def seal(self, packing: Packing, checksums: Checksums) -> Mapping[int, Sequence[tuple[int, bytes]]]:
        """Patches by file number, now that the checksums are known: (offset, bytes)."""

    def manifest(self, packing: Packing, checksums: Checksums, names: Mapping[str, str]) -> bytes:
        """The manifest, with data files under the names that ``names`` gives them."""


Choose = Callable[[Sequence[str]], Set[str] | None]
"""Picks tensors by name: from the names of all, the chosen ones; None if something that was asked for is not there."""


@runtime_checkable
class ReadsSome(Protocol):
    """A format in whose files each tensor has headers of its own: those of tensors that nobody wants cost nothing."""

    def read_some(self, files: Files, name: str, choose: Choose) -> Layout | None:
        """As ``Format.read``, of the tensors alone that ``choose`` picks; None if the whole file must be read.

        The structure around the tensors and the user's metadata may be left out.
        """


@runtime_checkable
class TakesReadOptions(Protocol):
    """A format whose files can be read in more than one way; to all others the options make no difference."""

    def read_with(self, files: Files, name: str, options: ReadOptions) -> Layout:
        """As ``Format.read``."""


@runtime_checkable
class KeepsSidecar(Protocol):
    """A format without room for checksums: a file beside its own has them, and what else the format forgets."""

    @property
    def metadata_in_file(self) -> bool:
        """Whether the user's metadata is in the file itself; else it is the sidecar's."""


@runtime_checkable
class StoresBlocks(Protocol):
    """A format whose quantised tensors are blocks of bytes (ggml)."""

    def blocks(
        self, quantize: Any, names: Sequence[str], dtypes: Sequence[DType], shapes: Sequence[tuple[int, ...]]
    ) -> Mapping[int, str]:
        """The rows that ``quantize`` asks to be stored in blocks, and in which type; UnsupportedFeatureError."""


@runtime_checkable
class KeepsEncodings(Protocol):
    """A format that can take encoded (quantised) tensors of its own files over as they are stored."""

    def keep(self, entry: TensorEntry) -> Encoding | None:
        """How ``entry`` is stored, as an encoding without steps; None if it must be decoded."""


@runtime_checkable
class TakesLateRanges(Protocol):
    """A format that needs the ranges of quantised tensors (``TensorSpecs.late``) for its ``manifest`` only.

    They are then found while the tensors are written, from memory that is read once instead of twice.
    """

    @property
    def takes_late_ranges(self) -> bool:
        """Whether it does."""


@runtime_checkable
class KeepsValues(Protocol):
    """A format that holds plain values (numbers, text, None ...) beside tensors: they are not made arrays."""

    @property
    def keeps_values(self) -> bool:
        """Whether it does."""


@runtime_checkable
class HoldsModels(Protocol):
    """A format of whole models, beside TensorFlow.js's."""

    @property
    def model_keys(self) -> Collection[str]:
        """What it has room for, by the keys of ``PackOptions.extra`` and ``Layout.extra``."""

    def model_beside(self, name: str) -> str | None:
        """The file beside file ``name`` of weights that makes a model of them; None for names that are none of its."""


@runtime_checkable
class EncodesStrings(Protocol):
    """A format that stores strings in its own way; others get what ``_strings.encode_strings`` makes."""

    def encode_strings(self, strings: Sequence[bytes]) -> tuple[bytes, int]:
        """Their stored bytes, and the format's own checksum of them, which ``TensorSpecs.string_sums`` keeps."""


@runtime_checkable
class NumbersFiles(Protocol):
    """A format whose manifest cannot give data files any name: their names follow from its own and from numbers."""

    def other_names(self, planned: Sequence[str], taken: Callable[[str], bool]) -> Mapping[str, str]:
        """Names for all data files until their planned ones are free, by these; none of which is taken."""


@runtime_checkable
class ReplacesFiles(Protocol):
    """A format of several files, some of which a save over an older model may leave without use."""

    def replaced(self, files: Files, name: str, manifest: str | None) -> Sequence[str]:
        """Data files and manifests of the model now stored as ``name``, as they would be removed.

        Args:
            files: The directory of ``name``.
            name: The target of the save that is to come.
            manifest: The manifest that it will write; None if it writes a single file.

        Only names as this format's own saves give them: a manifest may come from anyone and name anything. Errors of
        a manifest that is missing or malformed pass on.
        """


class SupportsSave(Protocol):
    """The saving half of an IOHandler."""

    def save(self, artifacts: ModelArtifacts) -> SaveResult | Awaitable[SaveResult]:
        """Store a model."""


class SupportsLoad(Protocol):
    """The loading half of an IOHandler."""

    def load(self) -> ModelArtifacts | Awaitable[ModelArtifacts]:
        """Fetch a model."""


class IOHandler(SupportsSave, SupportsLoad, Protocol):
    """Any object with ``save`` and/or ``load``, as TensorFlow.js's ``tf.io.IOHandler``."""


class ModelManager(Protocol):
    """Lists and removes the models of one URL scheme, as TensorFlow.js's ``ModelStoreManager``."""

    def list(self, url: str | None, options: Mapping[str, Any]) -> Mapping[str, ModelArtifactsInfo]:
        """The models by URL: all (None), or those at and below ``url``; ``options`` are the caller's."""

    def remove(self, url: str, options: Mapping[str, Any]) -> None:
        """Remove a model; NotFoundError."""


@runtime_checkable
class KnowsPlaces(Protocol):
    """A manager that can tell whether two URLs mean one place, however they are written."""

    def place(self, url: str, options: Mapping[str, Any]) -> object:
        """Equal for two URLs that mean the same model."""


# --- live models ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slot:
    """A tensor of a live object, as a load sees it.

    Attributes:
        shape: In elements; None: any, as it is not settled yet.
        dtype: Element type that the values must have, by name (``"bfloat16"``); None: as they are stored.
        memory: The tensor's own memory, as a writable array of this shape and type in C order: values are read straight
            into it. None: they are handed to ``take``.
        tied: Equal for all names of one tensor, which is then read once; None: this name is its only one.
        optional: It may be missing from a file.
        empty: It has no memory that could be filled, only a place: it needs ``assign=True``.
        plain: A number or text of Python, no tensor: ``take`` gets such a value, or an array without axes.
    """

    shape: tuple[int, ...] | None
    dtype: str | None
    memory: Any = None
    tied: Hashable = None
    optional: bool = False
    empty: bool = False
    plain: bool = False


@runtime_checkable
class LiveTensors(Protocol):
    """A live model as named tensors: what the adapter of its framework makes of it (``frameworks/_adapters``)."""

    def tree(self) -> Any:
        """What is saved: a dict by name, or nested containers, of arrays and plain values.

        Names that are one tensor give arrays of the same memory.
        """

    def slots(self) -> Mapping[str, Slot]:
        """Its tensors by the same names, in order. Changes nothing."""

    def take(self, arrays: Mapping[str, Any], *, assign: bool) -> Any:
        """Take values by name; called once, when all bytes have been read and verified.

        Args:
            arrays: NumPy arrays of the slots' shapes and types, owned by the receiver; all names of one tensor get the
                same array object. Without ``assign``, slots with memory are filled already and are not in it.
            assign: The arrays become the tensors, instead of being copied into them. UnsupportedFeatureError where the
                framework cannot.

        Returns:
            The object, or the one that takes its place, where objects do not change.
        """


@runtime_checkable
class NamesVariables(LiveTensors, Protocol):
    """A live model whose framework has names of its own for its tensors, in the files of one format."""

    def names_in(self, format: str) -> Mapping[str, str]:
        """Their names in files of this format, by the names that ``slots`` has; those left out are called the same."""


@runtime_checkable
class KnowsOtherNames(LiveTensors, Protocol):
    """A live object that knows what other names files of its framework may have for its tensors."""

    def own_names(self, names: Sequence[str], chosen: Collection[str]) -> Mapping[str, str]:
        """The names that ``slots`` has, by those of ``names``, which are all of a file; only what is certain.

        It is called before ``slots``. ``chosen``: those that will be read.
        """


@runtime_checkable
class HoldsParts(LiveTensors, Protocol):
    """Named tensors beside objects that judge themselves what they are given."""

    def parts(self) -> Mapping[str, LiveTree]:
        """Those objects, by the path to each: what the file has there is theirs, and no slot's."""


@runtime_checkable
class LiveTree(Protocol):
    """A live object that judges itself what it is given: an optimizer, a module with hooks of its own."""

    @property
    def framework(self) -> str:
        """Whose tensors it takes, as ``framework=`` of :func:`weightlift.load`."""

    def tree(self) -> Any:
        """What is saved, as in :class:`LiveTensors`."""

    def take_tree(self, tree: Any, *, strict: bool, assign: bool) -> tuple[Sequence[str], Sequence[str]]:
        """Take what was saved; the names that were missing and those that were not expected.

        MismatchError for a tree that does not fit; with ``strict`` also for missing and unexpected names.
        """
