"""The MM-JiT network in PyTorch: text adapter, denoiser, step, complete network."""

from minit2i_deploy.model.build import build_network, network_from_config
from minit2i_deploy.model.mmjit import Denoiser, MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.model.student import StudentAdapter
from minit2i_deploy.model.text_adapter import TextAdapter

__all__ = [
    "Denoiser",
    "MMJiT",
    "Step",
    "StudentAdapter",
    "TextAdapter",
    "build_network",
    "network_from_config",
]
