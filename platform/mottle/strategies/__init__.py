"""When the model changes and who computes what: pure state machines behind `mottle.core.strategy.Strategy`."""

from mottle.strategies.abs_sgd import ABSConfig as ABSConfig
from mottle.strategies.asynchronous import AsyncConfig as AsyncConfig
from mottle.strategies.backup import BackupConfig as BackupConfig
from mottle.strategies.catalogue import build as build
from mottle.strategies.catalogue import catalogue as catalogue
from mottle.strategies.catalogue import takes_local_steps as takes_local_steps
from mottle.strategies.catalogue import takes_rule as takes_rule
from mottle.strategies.diloco import DiLoCoConfig as DiLoCoConfig
from mottle.strategies.domo import DOMOConfig as DOMOConfig
from mottle.strategies.fedasync import FedAsyncConfig as FedAsyncConfig
from mottle.strategies.fedbuff import FedBuffConfig as FedBuffConfig
from mottle.strategies.fedfix import FedFixConfig as FedFixConfig
from mottle.strategies.fitting import check_coded as check_coded
from mottle.strategies.gradient_coding import GradientCodingConfig as GradientCodingConfig
from mottle.strategies.kardam import KardamConfig as KardamConfig
from mottle.strategies.lb_bsp import LBBSPConfig as LBBSPConfig
from mottle.strategies.local_adaalter import LocalAdaAlterConfig as LocalAdaAlterConfig
from mottle.strategies.local_sgd import LocalSGDConfig as LocalSGDConfig
from mottle.strategies.m_sgc import MSGCConfig as MSGCConfig
from mottle.strategies.sign_momentum import SignMomentumConfig as SignMomentumConfig
from mottle.strategies.slowmo import SlowMoConfig as SlowMoConfig
from mottle.strategies.slsgd import SLSGDConfig as SLSGDConfig
from mottle.strategies.sr_sgc import SRSGCConfig as SRSGCConfig
from mottle.strategies.ssp import SSPConfig as SSPConfig
from mottle.strategies.synchronous import SyncConfig as SyncConfig
from mottle.strategies.zenopp import ZenoPPConfig as ZenoPPConfig
