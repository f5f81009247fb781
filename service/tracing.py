"""Traces of requests through HTTP, batches, networks and store, in the terms of OpenTelemetry; off unless asked for.

A batch serves several requests, each with a trace of its own: it is run under the span of the first and linked to those
of the others, and each of them gets a span of the same time that links to it. Spans carry counts and times, never the
text of items, nor messages of errors, which may hold it. Knows nothing of what is traced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, StatusCode, Tracer, TracerProvider

from service.errors import ConfigError

SERVICE_NAME = "unitok"
EXPORT_SECONDS = 5.0
"""Longest that sending one parcel of spans, and the last one at the end, may take."""

NOTHING: AbstractContextManager[None] = nullcontext()


class Tracing:
    """Makes spans, or does nothing at the cost of one comparison.

    Parameters
    ----------
    provider : where spans go; None switches tracing off
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider
        self._tracer = None if provider is None else provider.get_tracer(SERVICE_NAME)

    def span(self, name: str, **attributes: int | str) -> AbstractContextManager[Any]:
        """A span around the block, below the current one."""
        if self._tracer is None:
            return NOTHING
        return _current(self._tracer.start_span(name, attributes=attributes))

    def here(self) -> Context | None:
        """Where the caller is, for `batch` on another thread."""
        return None if self._tracer is None else contexts.get_current()

    def trace_id(self) -> str | None:
        """The trace that the caller is in, as it is written."""
        if self._tracer is None:
            return None
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else None

    def batch(self, name: str, callers: Sequence[Context | None]) -> AbstractContextManager[Any]:
        """A span around a batch that serves these callers, one a job; a caller may stand there for several."""
        if self._tracer is None:
            return NOTHING
        return _batch(self._tracer, name, callers)


OFF = Tracing()


@contextmanager
def _batch(tracer: Tracer, name: str, callers: Sequence[Context | None]) -> Iterator[None]:
    spans = [trace.get_current_span(caller) for caller in callers if caller is not None]
    distinct = list({span.get_span_context().span_id: span for span in spans if _is_traced(span)}.values())
    attributes = {"unitok.batch.entries": len(callers)}
    # Where no caller is traced, the batch must not be either, rather than begin a trace of its own.
    first = trace.set_span_in_context([*distinct, *spans][0], Context()) if spans else Context()
    links = [Link(span.get_span_context()) for span in distinct[1:]]
    started = time.time_ns()
    span = tracer.start_span(name, first, attributes=attributes, links=links, start_time=started)
    try:
        with _current(span):
            yield
    finally:
        for other in distinct[1:]:
            seen = tracer.start_span(
                name,
                trace.set_span_in_context(other, Context()),
                attributes=attributes,
                links=[Link(span.get_span_context())],
                start_time=started,
            )
            seen.end()


@contextmanager
def _current(span: Span) -> Iterator[None]:
    """Make a span the current one while the block runs, and end it; of an error it notes the class alone."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def _is_traced(span: Span) -> bool:
    return span.get_span_context().trace_flags.sampled


def open_tracing(endpoint: str | None, share: float) -> tuple[Tracing, Callable[[], None]]:
    """Tracing that sends to a collector, and what ends it; off where there is no endpoint.

    Parameters
    ----------
    endpoint : OTLP over HTTP, as in `http://collector:4318/v1/traces`
    share : of the requests whose caller does not say, by `traceparent`, whether they are to be traced

    Raises
    ------
    ConfigError : the extra `trace` is not installed
    """
    if endpoint is None:
        return OFF, lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider as Provider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "setting trace_endpoint: needs the extra 'trace' (in a checkout: pip install --constraint constraints.txt "
            f"'.[cpu,trace]'): {error}"
        ) from None
    provider = Provider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource.create({"service.name": SERVICE_NAME}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)))
    return Tracing(provider), provider.shutdown
