"""Ten thousand requests made from the OpenAPI document, good and bad, against the real service: `make fuzz`.

schemathesis makes them (by rule, at random, and in sequences that use what earlier answers said) and checks every
answer: no failure of the server, a documented status, the documented schema and content type, wrong data refused, keys
asked for. Long, so not part of the test suite; what it finds becomes a test there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.processes import service
from service.access.keys import KeyScope, new_key

CASES = 10_000
OPERATIONS = 5
"""Operations with enough to vary; the share of each is `--max-examples`."""

LEFT_OUT = ("positive_data_acceptance",)
"""The schema cannot say that a domain must hold items, so some requests that fit it are rightly refused."""

CONFIGURATION = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 429, 503]
"""
"""A body with too many items may also be too large, and is then refused with 413 before it is read to its end."""


def main() -> int:
    """Run, print what failed, and return schemathesis' exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/sample"))
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=int, help="search for so long, in place of so many cases")
    options = parser.parse_args()
    key = new_key("fuzzer", list(KeyScope))
    with (
        tempfile.TemporaryDirectory() as folder,
        service(options.bundle, {"UNITOK_API_KEYS": key.entry}) as served,
    ):
        report, output, settings = (Path(folder) / name for name in ("report.json", "output.txt", "schemathesis.toml"))
        settings.write_text(CONFIGURATION)
        command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(settings)]
        command += ["run", f"{served.address}/openapi.json"]
        command += ["--header", f"Authorization: Bearer {key.secret}", "--seed", str(options.seed)]
        command += ["--max-examples", str(options.cases // OPERATIONS), "--workers", str(options.workers)]
        command += ["--checks", "all", "--exclude-checks", ",".join(LEFT_OUT), "--continue-on-failure", "--no-shrink"]
        # Coverage sends bodies of thousands of items, which a busy machine takes long to refuse.
        command += ["--suppress-health-check", "all", "--no-color", "--report", "json", "--request-timeout", "120"]
        command += ["--report-json-path", str(report)]
        if options.minutes:
            command += ["--max-time", str(60 * options.minutes)]
        with output.open("w") as log:
            status = subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT).returncode
        found = json.loads(report.read_text())
        cases = found["test_cases"]
        print(
            f"{cases['generated']} cases in {found['running_time']:.0f} s, seed {found['seed']}, {found['stop_reason']}"
        )
        for failure in found["failures"]:
            print(f"  {failure['code']} {failure['title']}: {', '.join(failure['operations'])}")
        if status:
            # Reproductions may carry bodies of megabytes: of each line, its beginning is enough to see what was sent.
            print("\n".join(line[:500] for line in output.read_text(errors="replace").splitlines()))
        return status


if __name__ == "__main__":
    sys.exit(main())
