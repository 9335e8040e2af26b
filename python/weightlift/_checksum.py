"""CRC-32 (zip) of the core, for the formats: they compute checksums of small parts and put them together."""

from __future__ import annotations

from weightlift._core import crc32, crc32_combine, crc32c, crc32c_combine

__all__ = ["crc32", "crc32_combine", "crc32c", "crc32c_combine"]
