"""The options of a placed worker: one model in stages, each in a process of its own."""

from dataclasses import dataclass
from typing import Literal

from mottle.core.errors import ConfigError
from mottle.core.naming import suggestion
from mottle.placement.pipeline import SCHEDULES as FLUSHING
from mottle.placement.pipeline import ScheduleName

Schedule = ScheduleName | Literal["dsp"]
SCHEDULES: tuple[Schedule, ...] = (*FLUSHING, "dsp")
Hosts = Literal["any", "apart"]
HOSTS: tuple[Hosts, ...] = ("any", "apart")
Transport = Literal["gloo", "ray"]
TRANSPORTS: tuple[Transport, ...] = ("gloo", "ray")
ACTIVATIONS = ("auto", "keep", "recompute", "offload")
Calibrate = Literal["rates", "ops"]
CALIBRATIONS: tuple[Calibrate, ...] = ("rates", "ops")


@dataclass(frozen=True, kw_only=True)
class PlacedConfig:
    """A worker that is a gang of processes, one for each stage of its model.

    Raises:
        ConfigError: out of range.
    """

    stages: int
    """Processes of the worker, at least 2. Each has the resources that its group declares."""
    schedule: Schedule = "1f1b"
    """Order of the micro-batches' passes: `gpipe`, or `1f1b`, which keeps the activations of fewer of them. Or `dsp`, with which the
    pipeline does not run empty between inner steps, and every stage but the last learns from gradients that are late."""
    slots: int = 1
    """Of each queue between two stages with `dsp`: stage k learns from gradients that are twice that times the stages behind it late, in
    micro-batches. With 0 it waits for each of them, and is synchronous."""
    microbatches: int = 4
    """Micro-batches that go through the pipeline together; between such rounds it runs empty and orders can be cut short."""
    hosts: Hosts = "any"
    """`apart`: no two stages on one host."""
    transport: Transport = "gloo"
    """How activations travel: `gloo` between the processes, `ray` through its object store, for hosts that cannot connect otherwise."""
    activations: Literal["auto", "keep", "recompute", "offload"] = "auto"
    """Until the backward pass a stage's activations are kept, computed again from what came in (a third more computing), or lie in the
    host's memory (for GPUs); `auto` keeps them where the memory allows it, else computes them again."""
    calibrate: Calibrate = "rates"
    """What the cut is made by: `rates` of the processes, rounded, so that the same machines give the same cut every time; or `ops`, the
    model's own, run in every process at the start. That fits better, and wants room for the whole model and its gradients in each."""
    replan: bool = True
    """Whether the model is cut anew, where that is worth it, once 20 rounds in a row are over 15 % off their prediction. The cut then
    follows the clock; without it the same machines give the same cut every time."""
    stage_delay_s: float = 0.0
    """Declared extra time of each stage's forward pass of a micro-batch, and twice that of its backward pass; for studies of schedules."""

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be an integer of at least {least}, got {value!r}"
            for name, value, least in (("stages", self.stages, 2), ("microbatches", self.microbatches, 1), ("slots", self.slots, 0))
            if type(value) is not int or value < least
        ]
        for name, value, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("hosts", self.hosts, HOSTS),
            ("transport", self.transport, TRANSPORTS),
            ("activations", self.activations, ACTIVATIONS),
            ("calibrate", self.calibrate, CALIBRATIONS),
        ):
            if value not in known:
                wrong.append(f"{name} {value!r} is unknown; {suggestion(str(value), known)}")
        if self.replan not in (True, False):
            wrong.append(f"replan must be true or false, got {self.replan!r}")
        if not self.stage_delay_s >= 0:
            wrong.append(f"stage_delay_s must not be negative, got {self.stage_delay_s!r}")
        if wrong:
            raise ConfigError("; ".join(wrong))

    @property
    def held(self) -> Literal["keep", "recompute", "offload"] | None:
        """As `mottle.placement.staging.cut_stages` takes it; what comes back late is always computed again."""
        if self.schedule == "dsp":
            return "recompute"
        return None if self.activations == "auto" else self.activations

    @property
    def flushing(self) -> ScheduleName:
        """The schedule of a round after which the pipeline is empty; with `dsp`, what a step is estimated by."""
        return "1f1b" if self.schedule == "dsp" else self.schedule
