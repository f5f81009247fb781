"""The saved form of the live catalogue: what comes back, and what is refused and built anew."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from service.catalogue import embedded
from service.catalogue import live as live_module
from service.catalogue.live import Agreement, LiveCatalogue
from service.catalogue.live_follower import following
from service.catalogue.live_state import Frozen, LiveState
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem
from service.catalogue.store import CatalogueStore
from service.errors import ConfigError, SavedIndexError
from service.index import saving
from service.index.saving import load_arrays, save_arrays
from service.semantic_ids import TokenLayout

LAYOUT = TokenLayout(levels=2, codes=8, experts=3, experts_per_item=1, suffixes=4)


def opened(folder: Path) -> CatalogueStore:
    store = open_store(f"embedded:{folder / 'store'}", "b", 1, LAYOUT)
    store.finish_seed()
    return store


def new(number: int, title: str | None = None) -> NewItem:
    return NewItem("films", f"i{number}", (number % 8, number // 8 % 8), (number % 3,), title)


def key(number: int) -> ItemKey:
    return ItemKey("films", f"i{number}")


def found(live: LiveCatalogue) -> dict[str, tuple[str | None, tuple[int, ...]]]:
    """Every item that the index leads to, by way of the table."""
    entries = [entry for entry in live.lookup([key(number) for number in range(100)]) if entry is not None]
    with live.searching() as view:
        tokens = LAYOUT.tokens(np.array([entry.values for entry in entries], dtype=np.int32).reshape(-1, LAYOUT.depth))
        roots = np.full(len(tokens), view.domains["films"], dtype=np.int32)
        assert view.state.find(roots, tokens).tolist() == [entry.ordinal for entry in entries]
        assert view.state.leaf_count(view.domains["films"]) == len(entries)
    return {entry.item_id: (entry.title, tuple(entry.values.tolist())) for entry in entries}


def filled(folder: Path, items: int = 60) -> LiveCatalogue:
    live = LiveCatalogue(opened(folder), folder / "index")
    live.register([new(number, f"film {number}") for number in range(items)])
    live.delete(key(3))
    live.save()
    return live


def test_a_saved_catalogue_is_there_again_with_what_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = filled(tmp_path)
    live.register([new(70, "later"), new(5, "renamed")])
    live.delete(key(7))
    monkeypatch.setattr(LiveState, "read", lambda *_: pytest.fail("the whole store was read"))
    again = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    assert again.rebuilt is None
    assert found(again) == found(live)
    assert again.domains() == live.domains() == {"films": 59}
    again.register([new(71)])
    again.delete(key(8))
    assert key(71).item_id in found(again)
    assert len(found(again)) == 59


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    filled(tmp_path)
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    again = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    again.save()
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    again.register([new(80)])
    again.save()
    assert (tmp_path / "index" / "manifest.json").read_bytes() != before
    assert len([path for path in (tmp_path / "index").iterdir() if path.is_dir()]) == 1


def flip(folder: Path) -> None:
    path = next(folder.glob("*/trie_edge_child.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = next(folder.glob("*/table_texts.npy"))
    path.write_bytes(path.read_bytes()[:-10])


def lose(folder: Path) -> None:
    next(folder.glob("*/table_packed.npy")).unlink()


def garble(folder: Path) -> None:
    (folder / "manifest.json").write_text("{]")


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return write


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "trie_edge_child.npy: is not what was saved"),
        (cut, "table_texts.npy: is not what was saved"),
        (lose, "table_packed.npy: cannot be read"),
        (garble, "is not a manifest"),
        (rewrite(lambda manifest: manifest.pop("arrays")), "is not a manifest"),
        (rewrite(lambda manifest: manifest.update(version=1)), "version is 1"),
        (rewrite(lambda manifest: manifest["about"].update(layout={})), "layout is {}"),  # type: ignore[attr-defined]
        (rewrite(lambda manifest: manifest["about"].update(generation="b:2")), "generation is 'b:2'"),  # type: ignore[attr-defined]
        (rewrite(lambda manifest: manifest["about"].update(store="other")), "store is 'other'"),  # type: ignore[attr-defined]
        (rewrite(lambda manifest: manifest["arrays"].pop("trie_roots")), "arrays are missing"),  # type: ignore[attr-defined]
        (rewrite(lambda manifest: manifest["arrays"]["trie_roots"].update(shape=[9])), "manifest says"),  # type: ignore[index]
        (rewrite(lambda manifest: manifest["about"].pop("seen")), "seen"),  # type: ignore[attr-defined]
    ],
)
def test_what_is_damaged_or_foreign_is_refused_and_built_anew(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    expected = found(filled(tmp_path))
    damage(tmp_path / "index")
    again = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    assert again.rebuilt is not None
    assert reason in again.rebuilt
    assert found(again) == expected
    assert LiveCatalogue(opened(tmp_path), tmp_path / "index").rebuilt is None, "the new one was saved"


def test_a_store_that_was_emptied_and_filled_anew_is_another_store(tmp_path: Path) -> None:
    filled(tmp_path).store.close()
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    store = opened(tmp_path)
    store.register([new(number) for number in reversed(range(90))])
    again = LiveCatalogue(store, tmp_path / "index")
    assert again.rebuilt is not None
    assert "store is" in again.rebuilt
    assert again.domains() == {"films": 90}


def test_a_log_that_does_not_go_back_far_enough_means_reading_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "CHANGES_KEPT", 3)
    live = filled(tmp_path)
    live.refresh()
    live.register([new(number) for number in range(80, 90)])
    again = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    assert again.rebuilt is not None
    assert "log no longer tells" in again.rebuilt
    assert again.domains() == {"films": 69}


def test_a_store_that_is_not_seeded_is_not_saved(tmp_path: Path) -> None:
    store = open_store(f"embedded:{tmp_path / 'store'}", "b", 1, LAYOUT)
    LiveCatalogue(store, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(ConfigError, match=r"index folder .*index: cannot be written to"):
        LiveCatalogue(opened(tmp_path), tmp_path / "index")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_without_room_or_rights_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(saving, "_write", fail)
        live = filled(tmp_path)
    assert [line["event"] for line in logs] == [
        "index could not be saved, so the next start may read the whole store"
    ] * 2
    assert os.strerror(number) in logs[0]["reason"]
    assert list((tmp_path / "index").iterdir()) == []
    live.save()
    assert LiveCatalogue(opened(tmp_path), tmp_path / "index").rebuilt is None


def test_saving_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    save_arrays(tmp_path, {"a": np.arange(3)}, {"of": 1})
    with pytest.raises(ValueError, match="pickle"):
        save_arrays(tmp_path, {"a": np.arange(4), "b": np.array([object()])}, {"of": 1})
    arrays, said = load_arrays(tmp_path, {"of": 1})
    assert (arrays["a"].tolist(), said) == ([0, 1, 2], {"of": 1})
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(SavedIndexError, match="nothing is saved here"):
        load_arrays(tmp_path / "x", {})


def test_a_folder_with_files_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "shop-1"
    for name in ("manifest.json", "texts/encoder.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"index folder .*shop-1: holds texts, .* name another"):
        LiveCatalogue(opened(tmp_path), folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["encoder.onnx", "manifest.json", "texts"]
    assert (folder / "manifest.json").read_text() == "{}"


def test_tidying_goes_on_beside_changes_and_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that come while the new state is built are in it, and it holds no slack of theirs."""
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)
    live = filled(tmp_path)
    for number in range(10, 50):
        live.delete(key(number))
    assert live._state.table.slack() > 0.6
    building, go_on = threading.Event(), threading.Event()
    compacted = LiveState.compacted

    def slowly(state: LiveState, frozen: Frozen) -> LiveState:
        result = compacted(state, frozen)
        building.set()
        assert go_on.wait(20)
        return result

    monkeypatch.setattr(LiveState, "compacted", slowly)
    with following(live, 0.01, lambda _: None):
        assert building.wait(20)
        with live.searching():
            live.register([new(11, "back"), new(90, "new"), new(4, "renamed")])
        live.delete(key(5))
        expected, before = found(live), live._state
        go_on.set()
        deadline = threading.Event()
        while live._state is before:
            deadline.wait(0.001)
    assert found(live) == expected
    assert live.domains() == {"films": 20}
    assert live._state.slack() < 0.5
    assert live.tidy() is False
    assert live.compare() is Agreement.SAME


def test_what_was_tidied_is_saved_without_slack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = filled(tmp_path)
    for number in range(10, 50):
        live.delete(key(number))
    live.save()
    assert not live.tidy(), "it is too small to matter"
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)
    assert LiveCatalogue(opened(tmp_path), tmp_path / "index")._state.slack() > 0.6
    assert live.tidy()
    live.save()
    again = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    assert again.rebuilt is None
    assert again._state.slack() == 0
    assert found(again) == found(live)


def test_tidying_gives_way_to_what_was_read_anew_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read holds changes that nobody applied to the state before it."""
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)
    monkeypatch.setattr(embedded, "CHANGES_KEPT", 3)
    live = filled(tmp_path)
    for number in range(10, 50):
        live.delete(key(number))
    other = LiveCatalogue(opened(tmp_path))
    compacted = LiveState.compacted

    def overtaken(state: LiveState, frozen: Frozen) -> LiveState:
        result = compacted(state, frozen)
        other.register([new(number) for number in range(70, 80)])
        other.delete(key(5))
        assert live.refresh() == 1, "the log does not go back far enough"
        return result

    monkeypatch.setattr(LiveState, "compacted", overtaken)
    assert live.tidy() is False
    assert found(live) == found(other)
    assert live.domains() == other.domains() == {"films": 28}
    assert live.compare() is Agreement.SAME


@pytest.mark.parametrize("step", ["frozen", "compacted", "apply"])
def test_tidying_that_fails_collects_no_more_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Changes that come while a new state is built are kept for it; for one that never comes they would pile up."""
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)
    live = filled(tmp_path)
    for number in range(10, 50):
        live.delete(key(number))
    expected = found(live)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        if step == "apply":
            real = LiveState.compacted

            def changed(state: LiveState, frozen: Frozen) -> LiveState:
                live.register([new(91)])
                patched.setattr(LiveState, "apply", fail)
                return real(state, frozen)

            expected["i91"] = (None, (3, 3, 1, 0))
            patched.setattr(LiveState, "compacted", changed)
        else:
            patched.setattr(LiveState, step, fail)
        with pytest.raises(MemoryError):
            live.tidy()
    assert live._missed is None
    assert found(live) == expected
    assert live.tidy()
    assert found(live) == expected


def test_titles_that_are_renewed_for_ever_take_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renewal writes a text behind the others; what no item shows any more counts, restarts included."""
    monkeypatch.setattr(live_module, "LEAST_TIDIED_BYTES", 0)
    live = LiveCatalogue(opened(tmp_path), tmp_path / "index")
    live.register([new(number, "a" * 100) for number in range(4)])
    least, tidied = live._state.nbytes()["texts"], 0
    for turn in range(40):
        live.register([new(0, f"{turn:0100}")])
        live.save()
        live.store.close()
        live = LiveCatalogue(opened(tmp_path), tmp_path / "index")
        assert live.rebuilt is None
        tidied += live.tidy()
        assert live._state.nbytes()["texts"] <= 2 * least
    assert 4 <= tidied <= 20
    assert [entry and entry.title for entry in live.lookup([key(0), key(1)])] == [f"{39:0100}", "a" * 100]
    for number in range(3):
        live.delete(key(number))
    live.tidy()
    assert live._state.nbytes()["texts"] <= least / 2
