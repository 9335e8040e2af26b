"""For those who write a format or a store: test suites to subclass, and plain reference implementations.

Needs pytest. Nothing here is needed to use Weightlift.

    from weightlift.testing import FormatContract

    class TestMyFormat(FormatContract):
        format = MyFormat()
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("weightlift.testing._format_contract", "weightlift.testing._store_contract")

from weightlift.testing._format_contract import FormatContract  # noqa: E402
from weightlift.testing._reference import (  # noqa: E402
    MemoryFiles,
    MemoryReader,
    Written,
    read_tensors,
    write_tensors,
)
from weightlift.testing._store_contract import StoreContract  # noqa: E402

__all__ = ["FormatContract", "MemoryFiles", "MemoryReader", "StoreContract", "Written", "read_tensors", "write_tensors"]
