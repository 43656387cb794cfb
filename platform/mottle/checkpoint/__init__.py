"""Checkpoints on storage: written in parts, visible when the manifest is there; restored on any number of shards."""

from mottle.checkpoint.manifest import Manifest as Manifest
from mottle.checkpoint.manifest import forget_after as forget_after
from mottle.checkpoint.manifest import latest as latest
from mottle.checkpoint.manifest import numbers as numbers
from mottle.checkpoint.manifest import prune as prune
from mottle.checkpoint.manifest import read_manifest as read_manifest
from mottle.checkpoint.manifest import write_manifest as write_manifest
from mottle.checkpoint.parts import Saved as Saved
from mottle.checkpoint.parts import WorkerPart as WorkerPart
from mottle.checkpoint.parts import folder_of as folder_of
from mottle.checkpoint.parts import read_model as read_model
from mottle.checkpoint.parts import read_optimizer as read_optimizer
from mottle.checkpoint.parts import read_part as read_part
from mottle.checkpoint.parts import write_model as write_model
from mottle.checkpoint.parts import write_optimizer as write_optimizer
from mottle.checkpoint.parts import write_worker as write_worker
