"""Pictures and captions for training: shards, mixes of them, and the shapes that are drawn."""

from __future__ import annotations

from minit2i_deploy.training.data.batches import Batches, DataBatch
from minit2i_deploy.training.data.normalization import to_network_range

__all__ = ["Batches", "DataBatch", "to_network_range"]
