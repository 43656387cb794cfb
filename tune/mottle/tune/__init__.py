"""Sweeps with Ray Tune: every field of a job file can be searched; each trial is a run of its own."""

from mottle.tune.arbiter import Arbiter as Arbiter
from mottle.tune.population import PopulationBasedTraining as PopulationBasedTraining
from mottle.tune.tuner import Tuner as Tuner
from mottle.tune.tuner import trainable as trainable
