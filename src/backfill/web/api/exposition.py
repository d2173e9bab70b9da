"""What is known of replicas and batches, in Prometheus' text format.

Counters are those of the dispatcher; nothing is counted here. Each answer has a registry of its own, because
prometheus-client's global one belongs to the whole process.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from backfill import __version__
from backfill.batch import State
from backfill.status import Bottleneck, MetricFamily, ReplicaState, ReplicaStatus

__all__ = ["expose"]


def expose(
    replicas: Sequence[ReplicaStatus], batches: Mapping[State, int], families: Sequence[MetricFamily] = ()
) -> bytes:
    """The state of one moment: replicas, how many batches are in each state, what others tell, and this process."""
    registry = CollectorRegistry()
    registry.register(_ServerCollector(replicas, batches, families))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Gauge(NamedTuple):
    name: str
    description: str
    read: Callable[[ReplicaStatus], float | None]


class _Counter(NamedTuple):
    name: str
    description: str
    label: str
    members: Mapping[str, str]
    """Value of the label -> member of ReplicaStatus."""


class _Choice(NamedTuple):
    """One of several words; each is a series of its own, 1 for the word that holds and 0 for the others."""

    name: str
    description: str
    label: str
    words: Iterable[str]


_GAUGES = (
    _Gauge("backfill_replica_in_flight", "Requests that are with the engine.", attrgetter("in_flight")),
    _Gauge(
        "backfill_replica_concurrency_limit",
        "Requests that the engine is given at most, as found so far.",
        attrgetter("concurrency_limit"),
    ),
    _Gauge(
        "backfill_replica_concurrency_ceiling",
        "Requests that the engine is given at most, as configured.",
        attrgetter("concurrency_ceiling"),
    ),
    _Gauge(
        "backfill_replica_live_in_flight",
        "Live requests that are with the engine.",
        attrgetter("live_in_flight"),
    ),
    _Gauge(
        "backfill_replica_batch_limit",
        "Requests of batches that live requests leave room for, while they do not leave all.",
        attrgetter("batch_limit"),
    ),
    _Gauge(
        "backfill_replica_waiting",
        "Requests that wait inside the engine, by its own gauges.",
        attrgetter("waiting_in_engine"),
    ),
    _Gauge(
        "backfill_replica_kv_cache_use",
        "Part of the engine's KV cache that is in use, from 0 to 1, by its own gauges.",
        attrgetter("kv_cache_use"),
    ),
)
_COUNTERS = (
    _Counter(
        "backfill_requests",
        "Requests by what became of them; reused: lines answered with the answer of an identical one.",
        "outcome",
        {outcome: outcome for outcome in ("answered", "lost", "rate_limited", "reused", "preempted")},
    ),
    _Counter(
        "backfill_tokens",
        "Tokens as the engine counts them; cached ones are among the prompt's.",
        "kind",
        {"prompt": "prompt_tokens", "completion": "completion_tokens", "cached": "cached_tokens"},
    ),
)
_CHOICES = (
    _Choice("backfill_replica_state", "1 for the state that the replica is in.", "state", ReplicaState),
    _Choice("backfill_replica_bottleneck", "1 for what keeps the replica from doing more.", "bottleneck", Bottleneck),
)


class _ServerCollector(Collector):
    """The state of one moment."""

    def __init__(
        self, replicas: Sequence[ReplicaStatus], batches: Mapping[State, int], families: Sequence[MetricFamily]
    ) -> None:
        self._replicas = replicas
        self._batches = batches
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Everything, family by family."""
        yield InfoMetricFamily("backfill_build", "The version of Backfill.", value={"version": __version__})
        yield from map(self._read_gauge, _GAUGES)
        yield from map(self._read_counter, _COUNTERS)
        yield from map(self._read_choice, _CHOICES)
        batches = GaugeMetricFamily("backfill_batches", "Batches by state, of all keys.", labels=["state"])
        for state in State:
            batches.add_metric([state.value], self._batches.get(state, 0))
        yield batches
        yield from map(_translate, self._families)

    def _read_gauge(self, gauge: _Gauge) -> Metric:
        family = GaugeMetricFamily(gauge.name, gauge.description, labels=["replica"])
        for replica in self._replicas:
            value = gauge.read(replica)
            # An engine without the gauge has no series: a 0 would say that nothing waits.
            if value is not None:
                family.add_metric([replica.name], value)
        return family

    def _read_counter(self, counter: _Counter) -> Metric:
        family = CounterMetricFamily(counter.name, counter.description, labels=["replica", counter.label])
        for replica in self._replicas:
            for word, member in counter.members.items():
                family.add_metric([replica.name, word], getattr(replica, member))
        return family

    def _read_choice(self, choice: _Choice) -> Metric:
        family = GaugeMetricFamily(choice.name, choice.description, labels=["replica", choice.label])
        for replica in self._replicas:
            holds: Any = getattr(replica, choice.label)
            for word in choice.words:
                family.add_metric([replica.name, word], float(word == holds))
        return family


def _translate(family: MetricFamily) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    translated = kind(family.name, family.description, labels=family.labels)
    for values, number in family.samples.items():
        translated.add_metric(values, number)
    return translated
