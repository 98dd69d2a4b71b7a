"""`Form`: how one kind of checkpoint is recognized and read, and what its readers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from minit2i_deploy.checkpoints.assemble import Rule, assemble
from minit2i_deploy.checkpoints.canonical_names import canonical_shapes
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, CheckpointReport, Dropped
from minit2i_deploy.checkpoints.containers.container import Container
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.io.files import sha256_files

NOT_SELECTED: Final = "not the selected weights"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadOptions:
    """Which weights to take, and the sizes that a Flax checkpoint does not carry.

    Arguments are those of ``load_checkpoint``; ``image_size`` is the height alone.
    """

    ema: bool | str = True
    image_size: int | None = None
    prompt_length: int | None = None


class Form(ABC):
    """One form a checkpoint comes in; ``forms.FORMS`` lists them all.

    Attributes:
        description: how error messages name the form, with its article.
    """

    description: ClassVar[str]

    @abstractmethod
    def sniff(self, path: Path, head: bytes | None) -> bool:
        """Whether a path holds a checkpoint of this form, by content and not by name.

        Args:
            path: an existing file or folder.
            head: the first 64 bytes of a file, fewer if it is shorter; None for a folder.
        """

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read what ``sniff`` recognized.

        Raises:
            CheckpointError: it cannot be read as a MiniT2I model.
            UsageError: an option does not apply to this checkpoint.
            MissingDependencyError: the form needs a package that is not installed.
        """

    def counts_inside_folder(self, path: Path) -> bool:
        """Whether a match counts where the folder around it is searched for a checkpoint."""
        return True

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """Why a path that resembles this form is not one, and what to do; None if unrelated."""
        return None


def read_weights(
    container: Container,
    rule: Rule,
    config: ModelConfig,
    *,
    form: str,
    path: Path,
    weights: str,
    files: Sequence[Path],
    step: int | None = None,
    text_encoder: str | None = None,
    dropped: Sequence[Dropped] = (),
) -> Checkpoint:
    """Map a container's arrays onto the canonical names and report where they came from.

    Args:
        container: the source's arrays.
        rule: source name to canonical name.
        config: shape of the network.
        form: name of the form for the report.
        path: what was read.
        weights: which of the source's weights these are.
        files: what the report's sha256 is taken over.
        step: optimizer steps behind the weights, if known.
        text_encoder: name of the text encoder, if known.
        dropped: what else the source holds, beside what ``rule`` drops.

    Raises:
        CheckpointError: names, shapes, types or values are not those of the network.
    """
    assembled = assemble(container, rule, canonical_shapes(config), str(path))
    report = CheckpointReport(
        form=form,
        path=str(path),
        weights=weights,
        sha256=sha256_files(files, path if path.is_dir() else path.parent),
        dtypes=assembled.dtypes,
        num_parameters=sum(tensor.size for tensor in assembled.tensors.values()),
        step=step,
        text_encoder=text_encoder,
        dropped=(*assembled.dropped, *dropped),
    )
    return Checkpoint(config=config, tensors=assembled.tensors, report=report)


def check_prompt_length(path: Path, options: ReadOptions, config: ModelConfig) -> None:
    """Refuse a prompt length that contradicts the configuration of a checkpoint that has one.

    Raises:
        UsageError: names both.
    """
    option, stored = options.prompt_length, config.prompt_length
    if option is not None and option != stored:
        raise UsageError(
            f"{path}: prompt_length={option}, but the checkpoint's configuration says {stored}; "
            "omit prompt_length"
        )


def check_single_weights(path: Path, options: ReadOptions) -> None:
    """Refuse a choice of weights where the form holds one set of them.

    Raises:
        UsageError: ``ema`` is not its default.
    """
    if options.ema is not True:
        raise UsageError(
            f"{path}: ema={options.ema!r}, but this form holds one set of weights, the "
            "published ones; omit ema"
        )


def select_average(path: Path, options: ReadOptions, decay: str) -> bool:
    """Whether the EMA is to be taken, of a checkpoint with one EMA beside the online weights.

    Args:
        path: of the checkpoint, for errors.
        options: their ``ema``.
        decay: name of the EMA, empty if it has none.

    Raises:
        UsageError: another EMA is requested.
    """
    if isinstance(options.ema, str) and options.ema != decay:
        raise UsageError(
            f"{path}: no EMA {options.ema!r}; this checkpoint has {decay or 'an unnamed one'}"
        )
    return bool(options.ema)


def step_of(values: dict[str, Any]) -> int | None:
    """The integer under "step", if there is one."""
    step = values.get("step")
    return step if isinstance(step, int) else None


def tensors_under(content: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """The dictionary of tensors under a key.

    Raises:
        CheckpointError: it is something else.
    """
    value = content[key]
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors under {key}, got {type(value).__name__}; "
            "give the file as the official code saved it"
        )
    return value
