"""Opens broken files in a process of its own, so that a crash of a library is a finding and not the end of the tests.

As a program it reads lines `KIND PATH` and answers each with `ok`, `refused MESSAGE`, or `escaped TRACEBACK` for an
error that is none of the project's own. `Opener` starts it, asks, and tells a crash and a hang from an answer.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

PATIENCE_SECONDS = 60.0

Mutation = Callable[[bytes], bytes]


def _set(at: float, value: int) -> Mutation:
    return lambda data: data[: (place := int(at * len(data)))] + bytes([value]) + data[place + 1 :]


def _insert(at: float, piece: bytes) -> Mutation:
    return lambda data: data[: (place := int(at * len(data)))] + piece + data[place:]


def _delete(at: float, count: int) -> Mutation:
    return lambda data: data[: (place := int(at * len(data)))] + data[place + count :]


def _repeat(at: float, count: int) -> Mutation:
    return lambda data: data[: (place := int(at * len(data)))] + data[max(0, place - count) :]


def _cut(at: float) -> Mutation:
    return lambda data: data[: int(at * len(data))]


_at = st.floats(0, 1, exclude_max=True)
mutations = st.lists(
    st.one_of(
        st.builds(_set, _at, st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)),
        st.builds(_insert, _at, st.binary(min_size=1, max_size=8)),
        st.builds(_delete, _at, st.integers(1, 64)),
        st.builds(_repeat, _at, st.integers(1, 64)),
        st.builds(_cut, _at),
    ),
    min_size=1,
    max_size=6,
)
"""Changes of a file's bytes, to be applied in turn."""


def mutated(data: bytes, changes: list[Mutation]) -> bytes:
    """The bytes with every change applied."""
    for change in changes:
        data = change(data)
    return data


class Opener:
    """The process; start it once for many files. One that crashed or hung is a failure of one file, and starts anew."""

    def __init__(self) -> None:
        self._process = self._start()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        environment = os.environ | {"POLARS_MAX_THREADS": "1", "RUST_BACKTRACE": "0", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, kind: str, path: Path) -> str:
        """What became of opening a file."""
        if self._process.poll() is not None:
            self.close()
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind} {path}\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_SECONDS):
                process.kill()
                process.wait()
                raise AssertionError(f"{kind}: no answer within {PATIENCE_SECONDS:g} s")
        line = process.stdout.readline()
        assert line, f"{kind}: the process died with status {process.wait()}"
        answer: str = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _manifest(path: Path) -> None:
    from service.bundle.files import Bundle

    Bundle.open(path)


def _bundle(path: Path) -> None:
    """Open a bundle as the service does, and use each of its parts once."""
    from service.bundle.files import Bundle
    from service.bundle.sample import SAMPLE, ProvenSample
    from service.catalogue.seeding import read_bundle_catalogue
    from service.engine.engine import Engine

    bundle = Bundle.open(path)
    engine = Engine.open(bundle, threads=1)
    read_bundle_catalogue(bundle, engine.layout)
    engine.item_tokenizer.tokenize(engine.text_encoder.encode(["the red hammer"]))
    ProvenSample.load(path / SAMPLE)


def _records(path: Path) -> None:
    from service.backfill.reading import columns_of, count_rows, format_of, read_records

    kind = format_of(path)
    columns_of(path, kind)
    count_rows(path, kind)
    for _ in read_records(path, kind, ["item_id", "title", "categories"]):
        pass


def _domain(path: Path) -> None:
    """Read a table of items as `unitok prepare` does."""
    from training.data.config import DomainConfig
    from training.data.reading import read_items
    from training.data.report import Findings

    config = DomainConfig.model_validate({"name": "d", "format": path.name.split(".")[1], "items": (path,)})
    read_items(config, Findings("d", 3), lambda count: None)


def _main() -> None:
    from service.errors import UnitokError

    # Libraries in C++ print to standard output as they please; the answers go another way.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    kinds = {"manifest": _manifest, "bundle": _bundle, "records": _records, "domain": _domain}
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split(" ", 1)
        try:
            kinds[kind](Path(path))
            answer = "ok"
        except UnitokError as error:
            answer = f"refused {error}"
        except BaseException:
            answer = "escaped " + traceback.format_exc()[-4000:]
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
