"""The MM-JiT network in PyTorch: text adapter, denoiser, step, and the whole."""

from minit2i_deploy.model.build import build_network, network_from_config
from minit2i_deploy.model.mmjit import Denoiser, MMJiT, TextAdapter
from minit2i_deploy.model.step import Step

__all__ = [
    "Denoiser",
    "MMJiT",
    "Step",
    "TextAdapter",
    "build_network",
    "network_from_config",
]
