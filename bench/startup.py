"""Claim 8: what a program pays to begin: import and --help."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from harness import Case, arguments, claim, finish, measure, table

CASES = [
    Case("python -c pass", "python", "", "roofline", args={"arguments": ["-c", "pass"]}),
    Case("import numpy", "python", "", args={"arguments": ["-c", "import numpy"]}),
    Case("import weightlift", "python", "", "us", args={"arguments": ["-c", "import weightlift"]}),
    Case("weightlift --help", "python", "", "us", args={"arguments": ["-m", "weightlift", "--help"]}),
    Case("import safetensors.numpy", "python", "", args={"arguments": ["-c", "import safetensors.numpy"]}),
]


def python(params: dict[str, Any]) -> Any:
    command = [sys.executable, *params["arguments"]]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL) and None


def main() -> None:
    args = arguments(__doc__ or "", 1 << 30, 1 << 30)
    rows = measure("startup", CASES, {}, args.rounds if args.quick else max(args.rounds, 15), warmup=args.warmup)
    records = table("start-up (ms; the rates mean nothing here)", rows, 1 << 30)
    by = {r.case.name: r.median * 1e3 for r in rows}
    records.append(
        claim(
            "import weightlift, ms beyond an empty python",
            by["import weightlift"] - by["python -c pass"],
            100,
            at_most=True,
        )
    )
    records.append(claim("weightlift --help, ms in all", by["weightlift --help"], 150, at_most=True))
    finish(args, "startup", records)


if __name__ == "__main__":
    main()
