"""Identity of a text encoder and its tokenizer: which pair a network was trained with.

Two encoders of one shape cannot be told apart by their sizes, and a network exported with another
one than it was trained with ignores its prompts. So a run records the pair: digests that do not
depend on the files' form, and the encoder's values for one text, which tell a copy in half
precision from another encoder.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.errors import CheckpointError, PrecisionWarning
from minit2i_deploy.tokenizer import Tokenizer

KEY: Final = "text_identity"
PROBE_TEXT: Final = "two red circles to the left of a blue square, on a white background"
_PROBE_VALUES: Final = 16
# Weights rounded to bf16 change the values by about 1%, other weights by all of them.
ROUNDING: Final = 0.1
# Parts of tokenizer.json that decide ids; the others are settings of whoever saved it.
_TOKENIZER_PARTS: Final = ("added_tokens", "model", "normalizer", "pre_tokenizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextIdentity:
    """A text encoder and its tokenizer.

    Args:
        encoder_sha256: of the encoder's tensors as float32, under their sorted names.
        tokenizer_sha256: of the parts of tokenizer.json that decide ids.
        probe_ids: ids of PROBE_TEXT.
        probe_values: the first values of the encoder's mean output for these ids.
    """

    encoder_sha256: str
    tokenizer_sha256: str
    probe_ids: tuple[int, ...]
    probe_values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "encoder_sha256": self.encoder_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "probe_ids": list(self.probe_ids),
            "probe_values": list(self.probe_values),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> TextIdentity:
        """From ``to_dict``'s form.

        Raises:
            CheckpointError: a value is missing or of another type.
        """
        try:
            identity = cls(
                encoder_sha256=str(values["encoder_sha256"]),
                tokenizer_sha256=str(values["tokenizer_sha256"]),
                probe_ids=tuple(int(value) for value in values["probe_ids"]),
                probe_values=tuple(float(value) for value in values["probe_values"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {KEY} is corrupt; copy the folder again") from error
        if not all(map(math.isfinite, identity.probe_values)):
            raise CheckpointError(f"{where}: {KEY} is corrupt; copy the folder again")
        return identity


def identify_text(encoder: Any, tokenizer: Tokenizer) -> TextIdentity:
    """The identity of an opened pair.

    Args:
        encoder: what ``open_text_encoder`` returned.
        tokenizer: opened; its prompt length does not matter.
    """
    import torch

    ids = _probe_ids(tokenizer)
    with torch.no_grad():
        inputs = torch.tensor([ids])
        hidden = encoder(inputs, torch.ones_like(inputs)).last_hidden_state[0]
    values = hidden.double().mean(0)[:_PROBE_VALUES].tolist()
    return TextIdentity(
        encoder_sha256=encoder_digest(
            {name: partial(_read, value) for name, value in encoder.state_dict().items()}
        ),
        tokenizer_sha256=_tokenizer_digest(tokenizer),
        probe_ids=ids,
        # Six digits are more than two machines agree on, and keep the file readable.
        probe_values=tuple(float(f"{value:.6g}") for value in values),
    )


def recorded_identity(path: Path) -> TextIdentity | None:
    """What a training checkpoint says of its text encoder; None for others and older ones.

    Raises:
        CheckpointError: checkpoint.json cannot be read.
    """
    description = path / "checkpoint.json"
    if not description.is_file():
        return None
    values = read_json(description).get(KEY)
    return None if values is None else TextIdentity.from_dict(values, str(description))


def check_text_identity(
    expected: TextIdentity | None, actual: TextIdentity, source: str, text_encoder: Path
) -> None:
    """Compare the pair in use with the one a network was trained with.

    Warns where the weights differ only by rounding, or the tokenizer by its file.

    Args:
        expected: recorded by the training run; None where nothing is known.
        actual: of the pair in use.
        source: of the network, for messages.
        text_encoder: folder of the pair in use, for messages.

    Raises:
        CheckpointError: another tokenizer or another encoder.
    """
    if expected is None:
        return
    if actual.probe_ids != expected.probe_ids:
        raise CheckpointError(
            f"{text_encoder}: its tokenizer splits text into other tokens than the one {source} "
            "was trained with; use the tokenizer that the network was trained with"
        )
    error = _probe_error(expected, actual)
    if not error <= ROUNDING:
        raise CheckpointError(
            f"{text_encoder}: is not the text encoder that {source} was trained with (sha256 "
            f"{actual.encoder_sha256:.12}.., expected {expected.encoder_sha256:.12}.., values "
            f"differ by {error:.0%}); use that text encoder"
        )
    if actual.encoder_sha256 != expected.encoder_sha256:
        warnings.warn(
            f"{text_encoder}: the weights of this text encoder are a rounded copy of those {source}"
            f" was trained with (values differ by {error:.2%}); use the original if you have it",
            PrecisionWarning,
            stacklevel=2,
        )
    elif actual.tokenizer_sha256 != expected.tokenizer_sha256:
        warnings.warn(
            f"{text_encoder}: the tokenizer of this text encoder is saved otherwise than the one "
            f"{source} was trained with; a test text has the same tokens",
            PrecisionWarning,
            stacklevel=2,
        )


def check_stored_text(
    expected: TextIdentity | None,
    tensors: Mapping[str, Callable[[], np.ndarray]],
    tokenizer: Tokenizer,
    source: str,
    bundle: Path,
) -> None:
    """Compare a bundle's text encoder, which is not run, with the one a network was trained with.

    Args:
        expected: recorded by the training run; None where nothing is known.
        tensors: of the bundle's encoder, as ``encoder_digest`` takes them.
        tokenizer: of the bundle.
        source: of the network, for messages.
        bundle: its folder, for messages.

    Raises:
        CheckpointError: another tokenizer, or an encoder with other weights.
    """
    if expected is None:
        return
    actual = encoder_digest(tensors)
    if actual != expected.encoder_sha256 or _probe_ids(tokenizer) != expected.probe_ids:
        raise CheckpointError(
            f"{bundle}: its text encoder and tokenizer are not those that {source} was trained "
            f"with (encoder sha256 {actual:.12}.., expected {expected.encoder_sha256:.12}..); run "
            "minit2i export with the ones it was trained with"
        )


def _probe_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    ids = tokenizer.rust.encode(PROBE_TEXT, add_special_tokens=False).ids
    return (*ids, tokenizer.eos_id)


def _probe_error(expected: TextIdentity, actual: TextIdentity) -> float:
    """Relative difference of the values, by root mean square."""
    left, right = np.array(actual.probe_values), np.array(expected.probe_values)
    if left.shape != right.shape:
        return math.inf
    return float(np.linalg.norm(left - right)) / max(float(np.linalg.norm(right)), 1e-12)


def encoder_digest(tensors: Mapping[str, Callable[[], np.ndarray]]) -> str:
    """The sha256 of an encoder's tensors, whatever file they are in.

    Args:
        tensors: Hugging Face names to functions that read a float32 tensor, one at a time.
    """
    digest = hashlib.sha256()
    # The embedding under a second name, which not every file has.
    for name in sorted(tensors.keys() - {"encoder.embed_tokens.weight"}):
        value = tensors[name]()
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()


def _read(value: Any) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().float().numpy()
    return array


def _tokenizer_digest(tokenizer: Tokenizer) -> str:
    values = json.loads(tokenizer.rust.to_str())
    parts = {name: values.get(name) for name in _TOKENIZER_PARTS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
