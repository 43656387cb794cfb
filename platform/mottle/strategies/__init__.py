"""When the model changes and who computes what: pure state machines behind `mottle.core.strategy.Strategy`."""

from mottle.strategies.abs_sgd import ABSConfig as ABSConfig
from mottle.strategies.asynchronous import AsyncConfig as AsyncConfig
from mottle.strategies.backup import BackupConfig as BackupConfig
from mottle.strategies.catalogue import build as build
from mottle.strategies.catalogue import catalogue as catalogue
from mottle.strategies.catalogue import takes_rule as takes_rule
from mottle.strategies.fedbuff import FedBuffConfig as FedBuffConfig
from mottle.strategies.fedfix import FedFixConfig as FedFixConfig
from mottle.strategies.lb_bsp import LBBSPConfig as LBBSPConfig
from mottle.strategies.ssp import SSPConfig as SSPConfig
from mottle.strategies.synchronous import SyncConfig as SyncConfig
from mottle.strategies.zenopp import ZenoPPConfig as ZenoPPConfig
