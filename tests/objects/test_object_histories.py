"""Random histories of checkpoints in an object store, against Ceph's gateway.

``WEIGHTLIFT_OBJECT_HISTORIES`` sets how many (default 6).
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.objects.ceph import Gateway
from tests.unit.checkpoint_histories import Histories

from weightlift.checkpoint import Checkpointer
from weightlift.checkpoint._object_directory import ObjectFolder

pytest.importorskip("zstandard", reason="zstandard is not installed")
pytest.importorskip("obstore", reason="obstore is not installed")


def test_histories(gateway: Gateway, place: str) -> None:
    numbers = itertools.count()

    class ObjectHistories(Histories):
        folder_type = ObjectFolder

        def __init__(self) -> None:
            super().__init__()
            self.place = f"{place}/{next(numbers)}"

        def checkpointer(self, **options: Any) -> Checkpointer:
            return Checkpointer(self.place, store_options=gateway.options, **options)

    run_state_machine_as_test(
        ObjectHistories,
        settings=settings(
            max_examples=int(os.environ.get("WEIGHTLIFT_OBJECT_HISTORIES", "6")),
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
