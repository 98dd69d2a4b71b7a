"""`Checkpoint`: configuration, tensors, and a report of where they came from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from minit2i_deploy.checkpoints.lora_text_encoder import TextEncoderAdapter
from minit2i_deploy.checkpoints.text_identity import TextIdentity
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.solvers.mean_flow import StudentSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Tensors of the source that are not part of the network, and why they were dropped."""

    what: str
    num_tensors: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraReport:
    """A merged adapter: W += strength * scale * B @ A on num_modules matrices.

    Args:
        path: of its weights.
        rank: of the pairs, the largest where they differ.
        alpha: of such a pair.
        scale: factor of its B @ A.
        num_modules: merged matrices of the network.
        sha256: of its settings and its weights, as ``sha256_files`` makes it of two files.
        weights_sha256: of the weights alone, which earlier releases recorded in manifests.
        strength: the user's factor of the complete sum, beside the adapter's own scale.
        one_pass_guidance: scale of guidance that the merged weights give in one branch, or None.
        num_text_modules: matrices of the text encoder, merged when that is opened.
    """

    path: str
    rank: int
    alpha: float
    scale: float
    num_modules: int
    sha256: str
    weights_sha256: str
    strength: float = 1.0
    one_pass_guidance: float | None = None
    num_text_modules: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointReport:
    """Where the tensors came from.

    Args:
        form: one of "huggingface", "payload", "torch-training", "minit2i-training",
            "flax-msgpack", "flax-orbax", "looped-training", "looped-folder",
            "auto-model" and "single-file".
        path: the file or folder that was read.
        weights: which of the source's weights were read, for example "EMA 0.99995".
        sha256: of the one weight file; of several, the sha256 of the lines that ``sha256sum``
            prints for them, in the order of their names relative to ``path``.
        dtypes: number of tensors per type in the source; they are float32 here.
        num_parameters: of the network, without what was dropped.
        step: optimizer steps behind the weights, if the source says.
        text_encoder: name of the text encoder the network was trained with, if it says.
        text_identity: which text encoder and tokenizer these were, if the source says.
        dropped: what else the source holds.
        adapters: what was merged onto the weights, in the order of their digests.
        trained_size: height and width of the images that the weights were trained for, where the
            configuration has another size.
    """

    form: str
    path: str
    weights: str
    sha256: str
    dtypes: dict[str, int]
    num_parameters: int
    step: int | None = None
    text_encoder: str | None = None
    text_identity: TextIdentity | None = None
    dropped: tuple[Dropped, ...] = ()
    adapters: tuple[LoraReport, ...] = ()
    trained_size: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = dataclasses.asdict(self)
        for name in ("dropped", "adapters"):
            values[name] = list(values[name])
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A network's weights under canonical names.

    Args:
        config: shape of the network.
        tensors: exactly the names and shapes of ``canonical_shapes(config)``, in that order;
            float32, contiguous, writable and finite. A source in half precision is widened,
            which is exact; ``report.dtypes`` records its type.
        report: where they came from.
        conditions: omega, t_min and t_max that a few-step student samples best with, if the
            source says; None for the released recipe's.
        text_adapters: what merged adapters add to the text encoder, which is no part of a
            checkpoint: ``merge_into_text_encoder`` adds it. The network expects it there.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray]
    report: CheckpointReport
    conditions: StudentSettings | None = None
    text_adapters: tuple[TextEncoderAdapter, ...] = ()

    def with_image_size(self, width: int, height: int) -> Checkpoint:
        """The same weights for images of another size; the report then has the trained one.

        Raises:
            UsageError: a side is no positive multiple of the patch.
        """
        config = self.config.with_image_size(width, height)
        if config == self.config:
            return self
        _, *trained = self.config.image_shape
        report = dataclasses.replace(self.report, trained_size=(trained[0], trained[1]))
        return dataclasses.replace(self, config=config, report=report)
