"""Run the few failed tests of a pytest report once more; if all pass, they count as passed.

Usage: repeat.py JUNIT-FILE, after a run of pytest in this directory. Exit status 0: all of them passed now, the last
line names them, and the report is changed accordingly. Else 1: too many failed, or none of pytest's did, or one again.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

MOST = 5
FAILURES = ("failure", "error")


def main(report: Path) -> int:
    """Repeat, and say so; the exit status."""
    if not report.is_file():
        print("no report of the tests: they did not come to their end")
        return 1
    tree = ElementTree.parse(report)
    failed = [case for case in tree.iter("testcase") if any(case.find(kind) is not None for kind in FAILURES)]
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    if not 0 < len(failed) <= MOST:
        print(f"{len(failed)} failed: not repeated")
        return 1
    print(f"repeating {len(failed)}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--last-failed", "--last-failed-no-failures=none"]
    if subprocess.run(command, check=False).returncode != 0:
        return 1
    for case in failed:
        for kind in FAILURES:
            for mark in case.findall(kind):
                case.remove(mark)
    tree.write(report, encoding="utf-8", xml_declaration=True)
    print(", ".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
