"""Fuzz one of the Python parsers, guided by coverage (atheris, which is libFuzzer).

    python -m tests.fuzz.fuzz TARGET FOLDER [libFuzzer's options]

Runs until -max_total_time, from the seeds and what an earlier run left in FOLDER. A crash leaves its input beside the
working directory (or under -artifact_prefix): mend the parser, and make the input a named test in tests/corrupt.
"""

from __future__ import annotations

import hashlib
import importlib
import resource
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["weightlift"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS, run, seeds

    for name in ("weightlift._api", "weightlift._save", "weightlift._verify"):  # with them come all that work on files
        importlib.import_module(name)

ADDRESS_SPACE = 1 << 30
"""Bytes beyond what the process has at the start; no input of a few KiB has a claim to that."""


def main() -> None:
    name, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds()[name]:
        (corpus / f"seed-{hashlib.sha256(seed).hexdigest()[:12]}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
        atheris.Setup(
            [sys.argv[0], str(corpus), "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024", *sys.argv[3:]],
            lambda data: run(TARGETS[name], data, place),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
