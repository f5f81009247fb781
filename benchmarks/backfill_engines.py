"""A backfill by the engine `ray` beside one by the engine `local`, in turns, into embedded stores of their own.

`python -m benchmarks.backfill_engines FILE --domain D`. The stores must hold the same in the end. Prints one line of
JSON a run: seconds of the whole command, and those from opening the store to the end (with `ray`: workers that start
included).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import machine
from service.bundle.files import Bundle
from service.catalogue.seeding import open_catalogue


def main() -> None:
    """Fill the stores one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--domain", required=True)
    parser.add_argument("--bundle", type=Path, default=Path("models/sample"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    engines = {"local": ["--engine", "local"], "ray": ["--engine", "ray", "--workers", str(options.workers)]}
    bundle = Bundle.open(options.bundle)
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(options.repeats):
            filled = []
            for engine, more in engines.items():
                url = f"embedded:{folder}/{engine}-{repeat}"
                open_catalogue(url, bundle).close()
                command = [sys.executable, "-m", "service.cli.main", "backfill", str(options.file), "--skip-bad"]
                command += ["--domain", options.domain, "--bundle", str(options.bundle), "--store", url, *more]
                started = time.perf_counter()
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                report = json.loads(done.stdout)
                shown = {name: report[name] for name in ("read", "created", "seconds", "items_per_second")}
                whole = round(time.perf_counter() - started, 1)
                print(json.dumps({"engine": engine, **shown, "command_seconds": whole, **machine()}), flush=True)
                store = open_catalogue(url, bundle)
                filled.append({item.key: item for batch in store.scan() for item in batch})
                store.close()
            if filled[0] != filled[1]:
                sys.exit("the engines stored different catalogues")


if __name__ == "__main__":
    main()
