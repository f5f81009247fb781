"""The search on a GPU: flat in the catalogue's size, the constraint's price, an index that stays there, and a peer.

    python -m benchmarks --full search-gpu
    python -m benchmarks.gpu                                                 # the same as lines of JSON, at once
    python -m benchmarks.gpu provider=cpu 'items=[2000, 20000]' 'batches=[1, 4]' known=2000     # a rehearsal

Random weights in TIGER's size, of a network that reads tokens and of one that reads and scores items; random items. A
part that fails says so and takes none of the others with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import T5ForConditionalGeneration

from benchmarks.catalogues import LAYOUT, one_root, random_items
from benchmarks.gpu_index import Changing
from benchmarks.gpu_placement import placement, placement_rows
from benchmarks.gpu_setting import Limits, Network, Setting, guarded, has_provider, say_rows
from benchmarks.gpu_twin import twin_rows_of
from benchmarks.recommenders import (
    PART,
    exported,
    random_histories,
    random_model,
    random_model_of_items,
    searching,
)
from benchmarks.rows import Row
from benchmarks.unconstrained import export_unconstrained, unconstrained
from service.catalogue.live_state import shared_levels
from service.engine.recommender import BeamResult, Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Provider, Runtime
from service.ranked_lists import compare_lists
from service.semantic_ids import IntArray

FLAT = 0.9
"""Least share of the smallest catalogue's speed that the largest may have."""
CONSTRAINT = 0.99
"""The constraint may take 1 % of a search."""
COMPARED = 8
"""Requests whose lists are compared with the CPU's."""
MET_OFTEN = 4
"""Searches before sizes are worth a session, and the index a copy on the device."""


def run(
    provider: Provider = "cuda",
    items: Sequence[int] = (10_000, 1_000_000, 10_000_000),
    beams: int = 50,
    batches: Sequence[int] = (1, 32, 256),
    *,
    known: int = 100_000,
    bulk: int = 10_000,
    twin_items: int = 1_000_000,
    twin_rows: int = 128,
    repeats: int = 30,
    seconds: float = 0.7,
    threads: int = 0,
) -> Iterator[Row]:
    """All rows; none, with a word about it, where ONNX Runtime has no such provider.

    Parameters
    ----------
    provider : where both sides run
    items : sizes of the catalogue
    beams : W
    batches : requests searched together
    known : items that the network that reads items has vectors of
    bulk : items that come in one change
    twin_items, twin_rows : what the peer searches, at most as many as the largest catalogue; requests it takes at once
    repeats, seconds : of a measurement, whichever is reached first
    threads : of an operator on the CPU
    """
    if not has_provider(provider, "search-gpu"):
        return
    random, runtime = np.random.default_rng(0), Runtime(provider, threads)
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(
            runtime=runtime,
            beams=beams,
            batches=batches,
            asked={batch: random_histories(batch, random) for batch in {*batches, COMPARED}},
            indexes={count: one_root(random_items(count, random), shared_levels(LAYOUT)) for count in sorted(items)},
            resident=ResidentIndexes(runtime),
            twin_index=one_root(random_items(min(twin_items, max(items)), random)),
            twin_rows=twin_rows,
            limits=Limits(repeats, seconds),
            folder=Path(name),
        )
        yield from guarded("reading tokens", _of_tokens(setting, bulk))
        yield from guarded("reading items", _of_items(setting, random_items(known, random)))


def _of_tokens(setting: Setting, bulk: int) -> Iterator[Row]:
    """All parts of the network that reads tokens, and what concerns the index alone."""
    network = _opened(setting, "reading tokens", random_model())
    yield from _common(setting, network)
    yield from guarded("constraint", _constraint(setting, network))
    yield from guarded("residence", _residence(setting, network.recommender))
    largest = setting.indexes[max(setting.indexes)]
    changing = Changing(largest, network.recommender, setting.resident, setting.beams, setting.limits.repeats)
    yield from guarded("patches", changing.rows(setting.runtime.provider, bulk))
    yield from guarded("twin", twin_rows_of(setting, network))


def _of_items(setting: Setting, known: IntArray) -> Iterator[Row]:
    """All parts of the network that reads items; `known` int32 [I, depth] tokens."""
    network = _opened(setting, "reading items", random_model_of_items(known))
    yield from _common(setting, network)
    yield from guarded("twin of a network that reads items", twin_rows_of(setting, network))


def _opened(setting: Setting, reads: str, model: T5ForConditionalGeneration) -> Network:
    folder = setting.folder / reads
    folder.mkdir()
    path = exported(model, folder)
    captured = Recommender.open(path, PART, LAYOUT, setting.runtime, setting.resident, captured=True)
    return Network(reads, model, replace(captured, _fixed=None), captured)


def _common(setting: Setting, network: Network) -> Iterator[Row]:
    yield from guarded(f"sizes, {network.reads}", _sizes(setting, network))
    yield from guarded(f"replayed, {network.reads}", _replayed(setting, network))
    yield from guarded(f"placement, {network.reads}", _placement(setting, network))
    yield from guarded(f"as the CPU, {network.reads}", _as_the_cpu(setting, network))


def _sizes(setting: Setting, network: Network) -> Iterator[Row]:
    """Milliseconds and requests a second by catalogue size."""
    smallest = min(setting.indexes)
    for batch in setting.batches:
        first: float | None = None
        for count, trie in setting.indexes.items():
            search = searching(network.recommender, setting.asked[batch], trie.arrays(), setting.beams)
            taken = setting.limits.milliseconds(search)
            median, name = float(np.median(taken)), f"{setting.name(count, batch)}, {network.reads}"
            first = first or median
            note = f"the same with {smallest:,} items; {len(taken)} repeats"
            curve = f"{setting.runtime.provider}, {setting.beams} beams, batch {batch}, {network.reads}"
            yield Row(f"constrained search, {name}", median, "ms", first, note, FLAT, curve=curve, at=count)
            yield Row(f"99th percentile, {name}", float(np.percentile(taken, 99)), "ms", note=f"{len(taken)} repeats")
            yield Row(f"requests, {name}", 1e3 * batch / median, "requests/s")


def _replayed(setting: Setting, network: Network) -> Iterator[Row]:
    """Searches of fixed sizes, which a GPU replays, beside those of open sizes: milliseconds, and equal lists."""
    count, fixed = max(setting.indexes), network.captured._fixed
    assert fixed is not None
    index, sides = setting.indexes[count].arrays(), (network.captured, network.recommender)
    for batch in setting.batches:
        replayed, plain = (searching(side, setting.asked[batch], index, setting.beams) for side in sides)
        for _ in range(MET_OFTEN):
            replayed()
        fixed.settle()
        before = fixed.answered
        taken, peer = setting.limits.milliseconds(replayed), setting.limits.median(plain)
        refused = "" if fixed.answered > before else "; refused, so that these are open too"
        name, repeats = f"{setting.name(count, batch)}, {network.reads}", f"{len(taken)} repeats"
        yield Row(f"replayed, {name}", float(np.median(taken)), "ms", peer, f"open sizes{refused}; {repeats}")
        yield Row(f"99th percentile replayed, {name}", float(np.percentile(taken, 99)), "ms", note=repeats)
        yield _equal(f"replayed, {name}", plain(), replayed(), "those of open sizes")


def _placement(setting: Setting, network: Network) -> Iterator[Row]:
    """Which operators run where."""
    count, trie = next(iter(setting.indexes.items()))
    batch, provider = setting.batches[0], setting.runtime.provider
    found = placement(network.recommender, provider, setting.asked[batch], trie.arrays(), setting.beams)
    yield from placement_rows(found, f"{setting.name(count, batch)}, {network.reads}")


def _as_the_cpu(setting: Setting, network: Network) -> Iterator[Row]:
    """How many ranked lists are those of the CPU."""
    count, trie = next(iter(setting.indexes.items()))
    ours, asked = network.recommender, setting.asked[COMPARED]
    cpu = Recommender.open(ours._session.path, PART, LAYOUT, Runtime("cpu", setting.runtime.threads))
    expected, found = (searching(side, asked, trie.arrays(), setting.beams)() for side in (cpu, ours))
    yield _equal(f"{setting.name(count, COMPARED)}, {network.reads}", expected, found, "the CPU's")


def _equal(name: str, expected: BeamResult, found: BeamResult, whose: str) -> Row:
    """How many ranked lists are those of a peer."""
    lists = zip(expected.tokens, expected.log_prob, found.tokens, found.log_prob, strict=True)
    compared = [compare_lists(*each) for each in lists]
    problems = [each.problem for each in compared if each.problem]
    note = f"{whose}; scores differ by {max(each.difference for each in compared):.1e} at most"
    if problems:
        note += f"; {problems[0]}"
    return Row(f"equal lists, {name}", float(len(compared) - len(problems)), "lists", len(compared), note, 1.0)


def _constraint(setting: Setting, network: Network) -> Iterator[Row]:
    """The search beside one in which any token may follow any other."""
    path, count = setting.folder / "unconstrained.onnx", max(setting.indexes)
    export_unconstrained(network.model, path)
    for batch in setting.batches:
        asked, index = setting.asked[batch], setting.indexes[count].arrays()
        off = setting.limits.median(unconstrained(path, setting.runtime, asked, setting.beams))
        on = setting.limits.median(searching(network.recommender, asked, index, setting.beams))
        note = f"constraint off; {100 * (on - off) / on:.1f} % of a search"
        yield Row(f"constraint on, {setting.name(count, batch)}", on, "ms", off, note, CONSTRAINT)


def _residence(setting: Setting, recommender: Recommender) -> Iterator[Row]:
    """The index on the device beside one that is sent along with every call."""
    for count, trie in setting.indexes.items():
        for batch in setting.batches[:2]:
            sides = (recommender, replace(recommender, _resident=None))
            calls = [searching(side, setting.asked[batch], trie.arrays(), setting.beams) for side in sides]
            kept, sent = map(setting.limits.median, calls)
            yield Row(f"index kept there, {setting.name(count, batch)}", kept, "ms", sent, "sent with every call")


if __name__ == "__main__":
    say_rows(run)
