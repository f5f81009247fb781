"""The drift metric: what one caller sends must not drown what all others do."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from dummy_engine import DummyEngine
from prometheus_client import CollectorRegistry

from service.catalogue.census import Census
from service.operations.token_space import MOST_TIMES, TokenSpace


@pytest.mark.parametrize(
    ("trained", "most"),
    [({"films": 0.01, "games": 0.05}, 0.05 * MOST_TIMES), ({}, MOST_TIMES), ({"films": 0.0}, MOST_TIMES)],
)
def test_an_absurd_error_counts_as_a_large_one(trained: Mapping[str, float], most: float) -> None:
    """An embedding of numbers like 1e6 put 4.6e13 into the sum, and no mean was of use until the next start."""
    registry = CollectorRegistry()
    space = TokenSpace(registry, ["films", "games"], lambda: Census(DummyEngine().layout), trained)
    space.incoming(["d", "d", "d"], np.array([0.02, 4.6e13, 0.03]))
    labels = {"domain": "other domains"}
    assert registry.get_sample_value("unitok_quantization_error_count", labels) == 3
    assert registry.get_sample_value("unitok_quantization_error_sum", labels) == pytest.approx(0.05 + most)
