"""What the brain may order."""

from mottle.core.protocol.to_shards import Batch
from mottle.core.protocol.to_shell import (
    Finished,
    ForgetCheckpoint,
    Introduce,
    MakeReplica,
    Notice,
    PlanWanted,
    Published,
    Retire,
    SaveCheckpoint,
    SetTimer,
    Verdict,
)
from mottle.core.protocol.to_validator import Evaluate, Refresh, SaveModel, Score
from mottle.core.protocol.to_workers import Abandon, Compute, Cut, Dismiss, Mix, Reattach, SaveSlot

Command = (
    Compute
    | Cut
    | Abandon
    | Dismiss
    | Mix
    | SaveSlot
    | Reattach
    | Batch
    | Refresh
    | Score
    | Evaluate
    | SaveModel
    | SetTimer
    | Verdict
    | Notice
    | Published
    | SaveCheckpoint
    | ForgetCheckpoint
    | MakeReplica
    | Introduce
    | PlanWanted
    | Retire
    | Finished
)
