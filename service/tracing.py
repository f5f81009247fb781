"""OpenTelemetry traces of requests through HTTP, batches, networks and store; off by default.

A batch serves several requests, each with its own trace. Its span is a child of the first request's span and links to
those of the others; each of the others gets a span of the same duration that links to the batch's span. Spans carry
counts and times, never the text of items, nor error messages, which may contain it. Knows nothing of what is traced.
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
"""Timeout for sending one batch of spans, also for the last one at shutdown."""

NOTHING: AbstractContextManager[None] = nullcontext()


class Tracing:
    """Makes spans, or does nothing at the cost of one comparison.

    Parameters
    ----------
    provider : receives the spans; None switches tracing off
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider
        self._tracer = None if provider is None else provider.get_tracer(SERVICE_NAME)

    def span(self, name: str, **attributes: int | str) -> AbstractContextManager[Any]:
        """A span around the block, a child of the current span."""
        if self._tracer is None:
            return NOTHING
        return _current(self._tracer.start_span(name, attributes=attributes))

    def here(self) -> Context | None:
        """The caller's trace context, for `batch` on another thread."""
        return None if self._tracer is None else contexts.get_current()

    def trace_id(self) -> str | None:
        """The id of the caller's trace in text form; None if there is none."""
        if self._tracer is None:
            return None
        found = trace.get_current_span().get_span_context()
        return trace.format_trace_id(found.trace_id) if found.is_valid else None

    def batch(self, name: str, callers: Sequence[Context | None]) -> AbstractContextManager[Any]:
        """A span around a batch, given the caller of each job; a caller may have several jobs."""
        if self._tracer is None:
            return NOTHING
        return _batch(self._tracer, name, callers)


OFF = Tracing()


@contextmanager
def _batch(tracer: Tracer, name: str, callers: Sequence[Context | None]) -> Iterator[None]:
    spans = [trace.get_current_span(caller) for caller in callers if caller is not None]
    distinct = list({span.get_span_context().span_id: span for span in spans if _is_traced(span)}.values())
    attributes = {"unitok.batch.entries": len(callers)}
    # If no caller is traced, the batch must not be traced either, instead of starting its own trace.
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
    """Make a span the current one while the block runs, and end it; of an error only the class is recorded."""
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
    """Open tracing to a collector; returns it with the function that ends it. Off without an endpoint.

    Parameters
    ----------
    endpoint : OTLP over HTTP, as in `http://collector:4318/v1/traces`
    share : sampling rate for requests without a `traceparent` header, which otherwise decides

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
