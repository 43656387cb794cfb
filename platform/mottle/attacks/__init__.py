"""Faulty and hostile workers, for tests and studies.

>>> from mottle import attacks
>>> attack = attacks.build({"ipm": {"epsilon": 0.5}})
>>> attack.knowledge.name
'HONEST'
"""

from mottle.attacks.alie import Alie, alie_z
from mottle.attacks.base import Arrival, Attack, Stage, State, Turn, generator_for
from mottle.attacks.bit_flip import BitFlip, flip_bits
from mottle.attacks.count_inflation import CountInflation
from mottle.attacks.gambler import Gambler
from mottle.attacks.gaussian import Gaussian
from mottle.attacks.honest_mean import InnerProductManipulation, Omniscient, Zero, ZeroSum
from mottle.attacks.label_flip import LabelFlip
from mottle.attacks.malformed import Malformed
from mottle.attacks.mimic import Mimic, MimicState
from mottle.attacks.min_max import MinMax, MinSum
from mottle.attacks.non_finite import NonFinite
from mottle.attacks.optimised import Optimised
from mottle.attacks.registry import Entry, Parameter, Spec, build, catalogue
from mottle.attacks.sign_flip import SignFlip
from mottle.attacks.stale_replay import StaleReplay, StaleState
from mottle.attacks.sybil import Sybil
from mottle.attacks.view import Knowledge, Message, RoundView, Rule
from mottle.attacks.wrapper import Honest, Wrapper

__all__ = [
    "Alie",
    "Arrival",
    "Attack",
    "BitFlip",
    "CountInflation",
    "Entry",
    "Gambler",
    "Gaussian",
    "Honest",
    "InnerProductManipulation",
    "Knowledge",
    "LabelFlip",
    "Malformed",
    "Message",
    "Mimic",
    "MimicState",
    "MinMax",
    "MinSum",
    "NonFinite",
    "Omniscient",
    "Optimised",
    "Parameter",
    "RoundView",
    "Rule",
    "SignFlip",
    "Spec",
    "Stage",
    "StaleReplay",
    "StaleState",
    "State",
    "Sybil",
    "Turn",
    "Wrapper",
    "Zero",
    "ZeroSum",
    "alie_z",
    "build",
    "catalogue",
    "flip_bits",
    "generator_for",
]
