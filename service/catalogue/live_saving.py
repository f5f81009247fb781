"""Snapshot of a live catalogue in a folder, memory-mapped at start if it belongs to the same store.

Independent of what changes the catalogue, and of threads.
"""

from __future__ import annotations

import errno
import secrets
from pathlib import Path
from typing import Any

from service.catalogue.live_state import LiveState
from service.catalogue.store import CatalogueStore
from service.catalogue.store_rules import layout_of_ids
from service.errors import ConfigError, SavedIndexError
from service.logs import get_logger

NO_ROOM_OR_RIGHT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of a disk that cannot be written to, although the path is valid."""

IDENTITY = "live catalogue: identity of this store"
"""Checkpoint with a random identifier of this store; it changes when the store is emptied."""


class SavedState:
    """Snapshot folder of one replica, for one store.

    Attributes
    ----------
    rebuilt : why the snapshot could not be used; None if it could
    """

    def __init__(self, folder: Path, store: CatalogueStore) -> None:
        self._folder = folder
        self._store = store
        self.rebuilt: str | None = None

    def save(self, state: LiveState, seen: int) -> bool:
        """Save a state that includes all changes up to `seen` and must not change meanwhile. False if not saved.

        Without disk space or write permission, a warning is logged and the old snapshot is kept: snapshots only speed
        up the start.

        Raises
        ------
        ConfigError : the folder is unusable
        NotReady, StoreUnavailable : nothing was saved
        """
        about = {**self._about(), "seen": seen, "key": self._key_of(seen)}
        try:
            state.save(self._folder, about)
        except OSError as error:
            if error.errno not in NO_ROOM_OR_RIGHT:
                raise ConfigError(f"index folder {self._folder}: cannot be written to: {error}") from error
            get_logger("unitok.catalogue").warning(
                "index could not be saved, so the next start may read the whole store",
                folder=str(self._folder),
                reason=str(error),
            )
            return False
        except SavedIndexError as error:
            raise ConfigError(f"index folder {error}; name another, which is empty or not there yet") from error
        return True

    def load(self) -> tuple[LiveState, int] | None:
        """The saved state and the number of its last change; None if unusable, with the reason in `rebuilt`."""
        try:
            state, said = LiveState.load(self._store.layout, self._folder, self._about())
            seen = int(said["seen"])
        except (SavedIndexError, KeyError, ValueError, TypeError) as error:
            self.rebuilt = str(error)
            return None
        if said.get("key") is not None and said["key"] != self._key_of(seen):
            self.rebuilt = (
                f"{self._folder}: was saved at change {seen}, which was of another item than the store's log says now"
            )
            return None
        if self._store.changes(seen, 1).gap:
            self.rebuilt = f"{self._folder}: was saved at change {seen}, from which on the store's log no longer tells"
            return None
        return state, seen

    def _key_of(self, seen: int) -> list[str] | None:
        """The key of a change, None if no longer in the log; a reverted store assigns the same number again."""
        if not seen:
            return None
        keys = self._store.changes(seen - 1, 1).keys
        return list(keys[0]) if keys else None

    def _about(self) -> dict[str, Any]:
        """Metadata that identifies this catalogue."""
        status = self._store.status()
        identity = self._store.checkpoint(IDENTITY)
        if identity is None:
            identity = secrets.token_hex(16)
            self._store.save_checkpoint(IDENTITY, identity)
        ids, expert_first = layout_of_ids(self._store.layout), self._store.layout.expert_first
        return {"generation": status.generation, "layout": ids, "expert_first": expert_first, "store": identity}
