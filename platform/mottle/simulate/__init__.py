"""The machines of the live system under a virtual clock, a seeded network and fault scripts."""

from mottle.simulate.faults import Fault as Fault
from mottle.simulate.timing import Fleet as Fleet
from mottle.simulate.timing import Simulation as Simulation
