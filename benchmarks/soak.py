"""Hours of a mixed load in short: does the service keep its memory, its answers and its pace?

Recommends, tokenizes, registers and deletes at a modest rate, against the real service and a real store server, and
samples the memory of both. As many items go as come, so that what grows is a leak.

    python -m benchmarks.soak --minutes 30                # 10 calls a second, about a tenth of a core
    python -m benchmarks.soak --minutes 30 --samples soak.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from benchmarks.catalogues import items_of
from benchmarks.open_loop import Answer, Call, Outcome, offer
from benchmarks.processes import processor_seconds, resident_bytes, service, store_server
from benchmarks.rows import Row, report

SAMPLE_SECONDS = 10.0
WARM_SHARE = 1 / 3
"""Share of the samples, the first ones, that tell nothing: caches and pools fill up."""

REMEMBERED = 50
"""Items registered before the first of them is deleted; from then on as many go as come."""

MOST_GROWTH = 5.0
"""MB an hour that are taken for noise."""

DOMAIN = "soak"
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory at a moment, in bytes, and the processor's seconds that the service has used since its start."""

    seconds: float
    service: int
    store: int
    processor: float


def calls(bundle: Path, random: random.Random) -> Iterator[Call]:
    """Requests without end: half recommend, a quarter tokenize, the rest register and delete in turns."""
    known = items_of(bundle).select("domain", "item_id", "title").rows()
    registered: list[str] = []
    number = 0
    while True:
        kind = random.random()
        if kind < 0.5:
            history = [{"domain": domain, "item_id": name} for domain, name, _ in random.sample(known, 10)]
            yield Call.post("/recommend", {"history": history, "k": 10})
        elif kind < 0.75:
            texts = [random.choice(known)[2] for _ in range(4)]
            items = [{"domain": DOMAIN, "title": f"{text} {random.random():.6f}"} for text in texts]
            yield Call.post("/tokenize", {"items": items})
        elif len(registered) <= REMEMBERED or kind < 0.875:
            number += 1
            registered.append(f"item {number}")
            title = f"{random.choice(known)[2]} {number}"
            item = {"domain": DOMAIN, "item_id": registered[-1], "title": title}
            call = Call.post("/tokenize", {"items": [item], "register": True})
            yield Call("register", call.method, call.path, call.body)
        else:
            yield Call("delete", "DELETE", f"/items/{DOMAIN}/{quote(registered.pop(0))}")


async def soak(bundle: Path, minutes: float, rate: float) -> tuple[list[Answer], list[Sample]]:
    """All answers, and the samples taken meanwhile."""
    samples: list[Sample] = []
    source = calls(bundle, random.Random(0))
    with (
        tempfile.TemporaryDirectory() as folder,
        store_server(Path(folder)) as store,
        service(bundle, {"UNITOK_STORE": store.url}) as served,
    ):
        began = time.monotonic()

        async def watch() -> None:
            while True:
                samples.append(
                    Sample(
                        round(time.monotonic() - began, 1),
                        resident_bytes(served.pid),
                        resident_bytes(store.pid),
                        processor_seconds(served.pid),
                    )
                )
                await asyncio.sleep(SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        answers = await offer(served.address, (next(source) for _ in range(round(60 * minutes * rate))), rate)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    return answers, samples


def slope(samples: Sequence[Sample], memory: Sequence[int]) -> float:
    """MB an hour by which memory grew after the start, by least squares."""
    first = int(len(samples) * WARM_SHARE)
    hours = np.array([sample.seconds for sample in samples[first:]]) / 3600
    return float(np.polyfit(hours, np.array(memory[first:]) / MEGABYTE, 1)[0])


def run(bundle: Path, minutes: float, rate: float, file: Path | None = None) -> list[Row]:
    """Soak, and say what became of memory and answers."""
    answers, samples = asyncio.run(soak(bundle, minutes, rate))
    if file is not None:
        file.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
    of = f"soak of {minutes:g} minutes at {rate:g} calls/s"
    errors = Counter((answer.name, answer.status) for answer in answers if not 200 <= answer.status < 300)
    held = [sample.service for sample in samples]
    warm = held[int(len(held) * WARM_SHARE)]
    worked = (samples[-1].processor - samples[0].processor) / (samples[-1].seconds - samples[0].seconds)
    rows = [
        Row(
            f"{of}, memory of the service",
            slope(samples, held),
            "MB/h",
            note=f"{warm / MEGABYTE:.1f} MB when warm, {held[-1] / MEGABYTE:.1f} at the end; a share of "
            f"{worked:.2f} of a core",
            goal=MOST_GROWTH,
        ),
        Row(f"{of}, memory of the store", slope(samples, [sample.store for sample in samples]), "MB/h"),
        Row(f"{of}, answers that are not 2xx", sum(errors.values()), "count", note=str(dict(errors) or "none"), goal=0),
    ]
    for name in sorted({answer.name for answer in answers}):
        outcome = Outcome.of([answer for answer in answers if answer.name == name], 60 * minutes)
        note = f"median {outcome.median:.1f} ms, {outcome.statuses.get(200, 0)} answers of 200"
        rows.append(Row(f"{of}, {name}, 99th percentile", outcome.late, "ms", note=note))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/sample"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=10, help="calls a second")
    parser.add_argument("--samples", type=Path, help="file for a line of JSON a sample")
    asked = parser.parse_args()
    report(run(asked.bundle, asked.minutes, asked.rate, asked.samples))


if __name__ == "__main__":
    main()
