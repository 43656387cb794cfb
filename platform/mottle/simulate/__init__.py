"""The machines of the live system under a virtual clock, a seeded network and fault scripts."""

from mottle.simulate.faults import Fault as Fault
from mottle.simulate.fleet import Fleet as Fleet
from mottle.simulate.fleet import Messages as Messages
from mottle.simulate.fleet import Servers as Servers
from mottle.simulate.fleet import Validator as Validator
from mottle.simulate.fleet import Workers as Workers
from mottle.simulate.fleet import Workload as Workload
from mottle.simulate.fleetfile import fleet_yaml as fleet_yaml
from mottle.simulate.fleetfile import read_fleet as read_fleet
from mottle.simulate.learning import Learning as Learning
from mottle.simulate.learning import Problem as Problem
from mottle.simulate.numbers import Numbers as Numbers
from mottle.simulate.numbers import Synthetic as Synthetic
from mottle.simulate.simulation import Simulation as Simulation
from mottle.simulate.speed import Lognormal as Lognormal
from mottle.simulate.speed import Trace as Trace
from mottle.simulate.torch_problem import TorchProblem as TorchProblem
