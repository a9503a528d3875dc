"""Fail when a Python module is longer than 400 lines: a long module hides more than one idea."""

import sys
from pathlib import Path

LIMIT = 400

long_files = [
    f"{path}: {count} lines (limit {LIMIT}); split it by idea"
    for folder in ("src", "tests", "benchmarks", "scripts")
    for path in sorted(Path(folder).rglob("*.py"))
    if (count := len(path.read_text().splitlines())) > LIMIT
]
print("\n".join(long_files), end="\n" if long_files else "")
sys.exit(1 if long_files else 0)
