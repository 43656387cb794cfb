"""The numbers of one shard: named vectors, versions, measurements and steps on its range. Driven by `mottle.core.shard`; no Ray."""

from mottle.vectors.memory import Holding as Holding
from mottle.vectors.memory import Offer as Offer
from mottle.vectors.memory import Publisher as Publisher
from mottle.vectors.memory import ShardMemory as ShardMemory
from mottle.vectors.memory import ShardSpec as ShardSpec
from mottle.vectors.memory import Taken as Taken
