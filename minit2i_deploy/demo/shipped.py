"""The models that the package brings along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import Minit2iError

ASSETS: Final = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shipped:
    """Folders of the base model, its few-step student, and their text encoder and tokenizer."""

    checkpoint: Path
    student: Path
    text_encoder: Path
    tokenizer: Path


def shipped_model(assets: Path = ASSETS) -> Shipped:
    """Find the shipped models.

    Args:
        assets: folder with model/, student/, text_encoder/ and tokenizer/.

    Raises:
        Minit2iError: the installation lacks a part of it.
    """
    for name in ("model", "student", "text_encoder", "tokenizer"):
        if not (assets / name).is_dir():
            raise Minit2iError(f"{assets / name}: missing; install minit2i-deploy again")
    return Shipped(
        checkpoint=assets / "model",
        student=assets / "student",
        text_encoder=assets / "text_encoder",
        tokenizer=assets / "tokenizer",
    )
