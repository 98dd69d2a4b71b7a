"""Images and captions for training: shards, mixes of them, and shapes drawn during training."""

from __future__ import annotations

from minit2i_deploy.training.data.batches import Batches, DataBatch
from minit2i_deploy.training.data.images import to_network_range

__all__ = ["Batches", "DataBatch", "to_network_range"]
