"""Strategies by the name that job files use."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mottle.core.naming import Spec, configured, lookup, parse
from mottle.core.strategy import Strategy
from mottle.strategies.abs_sgd import ABSConfig
from mottle.strategies.asynchronous import AsyncConfig
from mottle.strategies.auto import AutoConfig
from mottle.strategies.auto_fedrl import AutoFedRLConfig
from mottle.strategies.backup import BackupConfig
from mottle.strategies.diloco import DiLoCoConfig
from mottle.strategies.domo import DOMOConfig
from mottle.strategies.fedasync import FedAsyncConfig
from mottle.strategies.fedbuff import FedBuffConfig
from mottle.strategies.fedfix import FedFixConfig
from mottle.strategies.gradient_coding import GradientCodingConfig
from mottle.strategies.kardam import KardamConfig
from mottle.strategies.lb_bsp import LBBSPConfig
from mottle.strategies.local_adaalter import LocalAdaAlterConfig
from mottle.strategies.local_sgd import LocalSGDConfig
from mottle.strategies.m_sgc import MSGCConfig
from mottle.strategies.sign_momentum import SignMomentumConfig
from mottle.strategies.single_merging import SingleMergingConfig
from mottle.strategies.slowmo import SlowMoConfig
from mottle.strategies.slsgd import SLSGDConfig
from mottle.strategies.sr_sgc import SRSGCConfig
from mottle.strategies.ssp import SSPConfig
from mottle.strategies.streaming_diloco import StreamingDiLoCoConfig
from mottle.strategies.synchronous import SyncConfig
from mottle.strategies.zenopp import ZenoPPConfig

_STRATEGIES: dict[str, Any] = {
    "sync": SyncConfig,
    "backup": BackupConfig,
    "lb_bsp": LBBSPConfig,
    "abs_sgd": ABSConfig,
    "async": AsyncConfig,
    "ssp": SSPConfig,
    "fedbuff": FedBuffConfig,
    "fedfix": FedFixConfig,
    "zeno++": ZenoPPConfig,
    "kardam": KardamConfig,
    "local_sgd": LocalSGDConfig,
    "diloco": DiLoCoConfig,
    "streaming_diloco": StreamingDiLoCoConfig,
    "slowmo": SlowMoConfig,
    "sign_momentum": SignMomentumConfig,
    "local_adaalter": LocalAdaAlterConfig,
    "domo": DOMOConfig,
    "slsgd": SLSGDConfig,
    "single_merging": SingleMergingConfig,
    "fedasync": FedAsyncConfig,
    "gradient_coding": GradientCodingConfig,
    "sr_sgc": SRSGCConfig,
    "m_sgc": MSGCConfig,
    "auto": AutoConfig,
    "auto_fedrl": AutoFedRLConfig,
}


def catalogue() -> dict[str, type]:
    """Name -> config class."""
    return dict(_STRATEGIES)


def takes_rule(name: str) -> bool:
    """Whether the strategy puts a robust rule in the place of its mean."""
    return "rule" in {field.name for field in fields(lookup(name, _STRATEGIES, "strategy"))}


def takes_batch_policy(name: str) -> bool:
    """Whether its steps are of one batch for the whole crew, whose size may follow the crew."""
    return "batch_policy" in {field.name for field in fields(lookup(name, _STRATEGIES, "strategy"))}


def takes_local_steps(name: str) -> bool:
    """Whether its workers take steps of the job's optimizer and push where these led, instead of gradients."""
    return "optimizer" in {field.name for field in fields(lookup(name, _STRATEGIES, "strategy"))}


def is_coded(name: str) -> bool:
    """Whether its workers push coded sums, which only together give a step."""
    return getattr(lookup(name, _STRATEGIES, "strategy"), "coded", False)


def counts_its_workers(name: str) -> bool:
    """Whether its configuration says how many workers it cannot do without."""
    return hasattr(lookup(name, _STRATEGIES, "strategy"), "least_workers")


def config_of(spec: Spec, defaults: Mapping[str, object] | None = None) -> Any:
    """The configuration of the strategy that `spec` names; see `build`."""
    name, options = parse(spec, "strategy")
    config = lookup(name, _STRATEGIES, "strategy")
    known = {field.name for field in fields(config)}
    given = {key: value for key, value in (defaults or {}).items() if key in known}
    return configured(config, {**given, **options}, f"strategy {name}")


def build(spec: Spec, defaults: Mapping[str, object] | None = None) -> Strategy:
    """The strategy that `spec` names.

    Args:
        spec: `"sync"` or `{"zeno++": {"rho": 0.001}}`.
        defaults: values (batch_size, lr, optimizer, rule) that the job gives elsewhere; those that the strategy has no field for are
            left out.
    Raises:
        ConfigError: unknown name or option, with the nearest one; or values that cannot be.
    """
    strategy: Strategy = config_of(spec, defaults).build()
    return strategy
