"""Decision side of the robust rules: from exact sums to who is kept. Needs numpy only; nothing here may load torch."""

from mottle.aggregation.decisions.base import Choice, ColumnPlan, Evidence, Gram, Measurement, RuleConfig
from mottle.aggregation.decisions.bulyan import Bulyan
from mottle.aggregation.decisions.catalogue import Breakdown, Entry, Parameter, breakdown, catalogue
from mottle.aggregation.decisions.centered_clipping import CenteredClipping
from mottle.aggregation.decisions.columns import MeaMed, Mean, Median, Phocas, TrimmedMean
from mottle.aggregation.decisions.decide import Decision, decide
from mottle.aggregation.decisions.fltrust import FLTrust
from mottle.aggregation.decisions.geometric_median import GeometricMedian
from mottle.aggregation.decisions.krum import Krum, MultiKrum
from mottle.aggregation.decisions.nnm import Nnm
from mottle.aggregation.decisions.registry import RULES, build_config
from mottle.aggregation.decisions.rfa import Rfa
from mottle.aggregation.decisions.rulebook import Rules
from mottle.aggregation.decisions.statistics import Statistics, total
from mottle.aggregation.decisions.zeno import Zeno

__all__ = [
    "RULES",
    "Breakdown",
    "Bulyan",
    "CenteredClipping",
    "Choice",
    "ColumnPlan",
    "Decision",
    "Entry",
    "Evidence",
    "FLTrust",
    "GeometricMedian",
    "Gram",
    "Krum",
    "MeaMed",
    "Mean",
    "Measurement",
    "Median",
    "MultiKrum",
    "Nnm",
    "Parameter",
    "Phocas",
    "Rfa",
    "RuleConfig",
    "Rules",
    "Statistics",
    "TrimmedMean",
    "Zeno",
    "breakdown",
    "build_config",
    "catalogue",
    "decide",
    "total",
]
