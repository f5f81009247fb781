"""A server that carried a change out, and whose answer did not arrive."""

from __future__ import annotations

from places import LAYOUT, new
from proxy import Proxy
from redis_server import RedisServer

from service.catalogue.live import Agreement, LiveCatalogue
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey


def test_a_change_whose_answer_was_lost_says_what_it_did(own_server: RedisServer) -> None:
    """The client repeats it, and by then the item was there, or gone, already."""
    with Proxy(own_server.port) as proxy:
        store = open_store(proxy.url, "b", 1, LAYOUT, serving=True)
        store.finish_seed()
        live = LiveCatalogue(store)
        live.register([new("old"), new("gone")])
        live.delete(ItemKey("films", "gone"))
        proxy.lose_answer = True
        registered = live.register([new("old", title="T"), new("a"), new("a"), new("gone")])
        assert not proxy.lose_answer
        assert registered.created.tolist() == [False, True, False, True]
        assert not live.register([new("a"), new("gone")]).created.any(), "that was another call"
        proxy.lose_answer = True
        assert live.delete(ItemKey("films", "a"))
        assert not proxy.lose_answer
        assert not live.delete(ItemKey("films", "a"))
        proxy.lose_answer = True
        assert not live.delete(ItemKey("films", "never"))
        assert live.compare() is Agreement.SAME
        assert live.domains() == {"films": 2}
        other = open_store(own_server.url, "b", 1, LAYOUT)
        other.register([new("b")])
        other.delete(ItemKey("films", "old"))
        assert not live.register([new("b")]).created.any(), "new to this replica alone"
        assert not live.delete(ItemKey("films", "old"))
        other.close()
        store.close()
