"""Print what a CI run did, stage by stage and test by test, and exit 1 if anything failed.

Usage: report.py FOLDER, where .ci/run left stages.tsv, junit/*.xml and logs/.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Tests:
    """The tests of one report file."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def read_junit(path: Path) -> Tests:
    """Count one JUnit file of pytest or ctest."""
    tests = Tests()
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tests.failed.append(name)
        elif skipped is not None:
            tests.skipped[_reason(skipped)] += 1
        else:
            tests.passed += 1
    return tests


def _reason(skipped: ElementTree.Element) -> str:
    """Why a test was skipped. Of a module that skips itself, pytest has the reason in the text only."""
    message = skipped.get("message") or "no reason given"
    if message == "collection skipped":
        found = re.search(r"'Skipped: (.*)'\)$", skipped.text or "")
        return found[1] if found else message
    return message


def read_optional(path: Path) -> list[re.Pattern[str]]:
    """The reasons for which something may be skipped."""
    lines = (line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#"))
    return [re.compile(re.split(r"\s{2,}", line, maxsplit=1)[0]) for line in lines]


def main(folder: Path) -> int:
    """Print the tables; the exit status."""
    optional = read_optional(Path(__file__).with_name("optional.txt"))
    stages = [line.split("\t") for line in (folder / "stages.tsv").read_text().splitlines()]
    reports = {path.stem: read_junit(path) for path in sorted((folder / "junit").glob("*.xml"))}
    skips: Counter[str] = Counter()
    for report in reports.values():
        skips += report.skipped
    problems = [f"stage {name}: {reason}" for name, result, _, reason in stages if result == "failed"]
    problems += [f"test {name} ({title})" for title, report in reports.items() for name in report.failed]
    skips += Counter(reason for _, result, _, reason in stages if result == "skipped")
    problems += [
        f"skipped without leave, {count} times: {reason}"
        for reason, count in skips.items()
        if not any(pattern.search(reason) for pattern in optional)
    ]

    print(f"\n{'stage':<12} {'result':<8} {'seconds':>8}")
    for name, result, seconds, reason in stages:
        print(f"{name:<12} {result:<8} {seconds:>8}  {reason}")
    print(f"\n{'tests':<16} {'passed':>8} {'failed':>8} {'skipped':>8}")
    for title, report in reports.items():
        print(f"{title:<16} {report.passed:>8} {len(report.failed):>8} {report.skipped.total():>8}")
    if skips:
        print("\nskipped")
        for reason, count in skips.most_common():
            print(f"{count:>6}  {reason}")
    if problems:
        print("\nfailed")
        for problem in problems:
            print(f"  {problem}")
    passed = sum(report.passed for report in reports.values())
    failed = sum(len(report.failed) for report in reports.values())
    skipped = sum(report.skipped.total() for report in reports.values())
    print(f"\n{sum(int(seconds) for _, _, seconds, _ in stages)} s in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
