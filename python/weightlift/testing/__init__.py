"""For those who write a format or a store: test suites to subclass, and plain reference implementations.

The suites need pytest; see ``FormatContract`` for an example of use. Nothing here is needed to use Weightlift.
"""

from __future__ import annotations

from weightlift.testing._reference import MemoryFiles, MemoryReader, read_tensors, write_tensors

__all__ = ["MemoryFiles", "MemoryReader", "read_tensors", "write_tensors"]
