"""HDF5 files between us, Keras 3 on TensorFlow and tf_keras: weights and outputs are equal bit for bit."""

from __future__ import annotations

from pathlib import Path

from tests.frameworks.environments import run_script


def test_files_go_both_ways(tmp_path: Path) -> None:
    answer = run_script("tensorflow", Path(__file__).with_name("hdf5_cases.py"), tmp_path)
    assert len(answer) == 16
    assert [case for case, ok in answer.items() if not ok] == []
