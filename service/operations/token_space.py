"""The health of the token space as Prometheus metrics: collisions, perplexity, experts, and drift.

Metrics of the catalogue are read from its census when they are collected. Drift is the quantization error of incoming
items compared with that of the tokenizer's training items: new items that fit the codebooks badly get IDs that carry
little information. Knows nothing of HTTP, stores and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from service.catalogue.census import Census

MOST_DOMAINS = 100
"""The largest domains have their own metrics; callers choose domain names, and metrics must not grow with them."""
OTHER = "other domains"
"""Label of all other domains; no domain has this name, since names contain no space."""

MOST_TIMES = 100.0
"""Upper bound of an item's error, as a multiple of the largest mean error in training. Drift shows long before that.
Callers may send any embedding, and a single absurd error would dominate a domain's sum until the next start."""


class TokenSpace(Collector):
    """Prometheus collector for the token space of one service.

    Parameters
    ----------
    registry : registry that exports the metrics
    expert_names : names of the K experts
    census : returns the catalogue's current census
    trained_error : mean quantization error by domain of the tokenizer's training items, for the domains that the bundle
        states
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        expert_names: Sequence[str],
        census: Callable[[], Census],
        trained_error: Mapping[str, float],
    ) -> None:
        self._expert_names = tuple(expert_names)
        self._census = census
        self._trained_error = dict(trained_error)
        self._most_error = MOST_TIMES * (max(self._trained_error.values(), default=0.0) or 1.0)
        self._incoming: dict[str, tuple[int, float]] = {}
        registry.register(self)

    def incoming(self, domains: Sequence[str], errors: NDArray[np.float64]) -> None:
        """Record the quantization errors float64 [n] of items tokenized together; called on the event loop."""
        census = self._census()
        names, row_of = np.unique([domain if domain in census else OTHER for domain in domains], return_inverse=True)
        counts = np.bincount(row_of, minlength=len(names)).tolist()
        sums = np.bincount(row_of, weights=np.minimum(errors, self._most_error), minlength=len(names)).tolist()
        for name, count, total in zip(names.tolist(), counts, sums, strict=True):
            before_count, before_total = self._incoming.get(name, (0, 0.0))
            self._incoming[name] = (before_count + count, before_total + total)

    def describe(self) -> list[Metric]:
        """Empty, so that registering the collector does not take a census."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The current metrics of the catalogue and of incoming items."""
        items = GaugeMetricFamily("unitok_domain_items", "Items of a domain.", labels=["domain"])
        collided = GaugeMetricFamily(
            "unitok_domain_collided_items",
            "Items whose codes and experts another item had before them, so that only a suffix tells them apart.",
            labels=["domain"],
        )
        perplexity = GaugeMetricFamily(
            "unitok_code_perplexity",
            "Effective number of codes in use at a level, 1 where all items share one.",
            labels=["domain", "level"],
        )
        share = GaugeMetricFamily(
            "unitok_expert_share", "Share of an expert among those chosen.", labels=["domain", "expert"]
        )
        trained = GaugeMetricFamily(
            "unitok_trained_quantization_error",
            "Mean quantization error of the items that the tokenizer was trained on, from the bundle.",
            labels=["domain"],
        )
        census = self._census()
        counts = census.domains()
        named = sorted(sorted(counts, key=lambda domain: (-counts[domain], domain))[:MOST_DOMAINS])
        for domain in named:
            found = census.of(domain)
            items.add_metric([domain], found.items)
            collided.add_metric([domain], found.collided)
            for level, value in enumerate(found.perplexity.tolist()):
                perplexity.add_metric([domain, str(level)], value)
            for expert, value in zip(self._expert_names, found.expert_share.tolist(), strict=True):
                share.add_metric([domain, expert], value)
        for domain, error in sorted(self._trained_error.items()):
            trained.add_metric([domain], error)
        yield from (items, collided, perplexity, share, trained, self._incoming_errors(set(named)))

    def _incoming_errors(self, named: set[str]) -> Metric:
        family = SummaryMetricFamily(
            "unitok_quantization_error",
            "Squared distance, in latent space, between incoming items and their codes.",
            labels=["domain"],
        )
        count, total = 0, 0.0
        for domain, (domain_count, domain_total) in sorted(self._incoming.items()):
            if domain in named:
                family.add_metric([domain], domain_count, domain_total)
            else:
                count, total = count + domain_count, total + domain_total
        family.add_metric([OTHER], count, total)
        return family
