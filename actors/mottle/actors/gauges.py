"""A run's numbers as Ray metrics, for Prometheus and Ray's dashboard."""

from ray.util.metrics import Gauge

from mottle.observe.snapshot import VERDICTS, Snapshot


class Gauges:
    """Gauges of one run; every one is tagged with its name."""

    def __init__(self, run: str) -> None:
        tags = {"run": run}
        self._samples = Gauge("mottle_samples", "Samples spent: applied, unselected or rejected.", ("run",))
        self._version = Gauge("mottle_version", "Newest published version.", ("run",))
        self._updates = Gauge("mottle_updates", "Acknowledged updates by verdict.", ("run", "verdict"))
        self._metric = Gauge("mottle_metric", "Latest metrics of the model.", ("run", "metric"))
        self._speed = Gauge("mottle_worker_samples_per_second", "Recent speed of a worker.", ("run", "worker"))
        self._staleness = Gauge("mottle_worker_staleness", "Versions that a worker's latest update was behind.", ("run", "worker"))
        for gauge in (self._samples, self._version, self._updates, self._metric, self._speed, self._staleness):
            gauge.set_default_tags(tags)

    def show(self, snapshot: Snapshot) -> None:
        self._samples.set(snapshot.samples)
        self._version.set(snapshot.version)
        for verdict in VERDICTS:
            self._updates.set(getattr(snapshot.updates, verdict), {"verdict": verdict})
        for name, value in snapshot.metrics.items():
            self._metric.set(value, {"metric": name})
        for worker in snapshot.workers:
            self._speed.set(worker.samples_per_s, {"worker": worker.id})
            if worker.staleness is not None:
                self._staleness.set(worker.staleness, {"worker": worker.id})
