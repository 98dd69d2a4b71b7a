"""Texts to embed, as clients send them: strings, lists of them, and token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.serving.engine.served_model import ServedModel
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.service import Service
from minit2i_deploy.tokenizer import Encoded


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRules:
    """What a dialect takes.

    Args:
        param: name of the field, for errors.
        max_texts: most texts of one request.
        too_many: status where there are more.
        truncates: whether longer texts are cut; else they are refused with ``too_many``.
    """

    param: str
    max_texts: int
    too_many: int = 400
    truncates: bool = True


async def read_texts(
    service: Service, model: ServedModel, value: Any, rules: TextRules
) -> list[Encoded]:
    """Tokenize what came.

    Args:
        service: tokenizes.
        model: whose tokenizer it is.
        value: a string, a list of strings, a list of token ids, or a list of such lists.
        rules: of the dialect.

    Raises:
        HttpError: another type, no text, too many texts, or token ids of another tokenizer.
        UsageError: a text with a NUL character or broken Unicode.
    """
    items = _items(value, rules)
    if len(items) > rules.max_texts:
        raise HttpError(
            rules.too_many,
            f"{rules.param} has {len(items)} texts; at most {rules.max_texts} are taken at once",
            param=rules.param,
        )
    if all(isinstance(item, str) for item in items):
        encoded = await service.tokenize(model, items)
    elif all(isinstance(item, list) for item in items):
        encoded = [_from_ids(model, item, rules) for item in items]
    else:
        raise _wrong(rules)
    if not rules.truncates and (long := [item for item in encoded if item.truncated]):
        raise HttpError(
            rules.too_many,
            f"a text has more than {model.bundle.config.prompt_length} tokens: {long[0].notice}; "
            "shorten it or send truncate: true",
            param=rules.param,
        )
    return encoded


def mean_vectors(
    sequences: Sequence[np.ndarray], *, normalize: bool
) -> list[Float32[np.ndarray, " width"]]:
    """Mean over each text's tokens, float32 [width], summed in float64.

    Args:
        sequences: float32 [tokens, width] each.
        normalize: whether it is scaled to length 1, as ``minit2i embed --pooled`` does.
    """
    means = [sequence.mean(axis=0, dtype=np.float64) for sequence in sequences]
    if normalize:
        means = [mean / np.linalg.norm(mean) for mean in means]
    return [mean.astype(np.float32) for mean in means]


def _items(value: Any, rules: TextRules) -> list[Any]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise _wrong(rules)
    if not value:
        raise HttpError(400, f"{rules.param} is empty; send at least one text", param=rules.param)
    return [value] if all(_is_id(item) for item in value) else value


def _from_ids(model: ServedModel, ids: list[Any], rules: TextRules) -> Encoded:
    tokenizer = model.bundle.tokenizer()
    size = tokenizer.rust.get_vocab_size()
    if not ids or not all(_is_id(item) for item in ids):
        raise _wrong(rules)
    if not all(0 <= item < size for item in ids):
        raise HttpError(
            400,
            f"token ids must be 0 to {size - 1}, got {max(ids, key=abs)}; these are another "
            "tokenizer's, so send text (LangChain: check_embedding_ctx_length=False)",
            param=rules.param,
        )
    most = tokenizer.prompt_length
    short = ids if len(ids) <= most else [*ids[: most - 1], tokenizer.eos_id]
    return Encoded(
        text=f"{len(ids)} token ids",
        ids=np.array(short, np.int64),
        num_characters_used=0,
        truncated=len(ids) > most,
    )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(rules: TextRules) -> HttpError:
    return HttpError(
        400,
        f"{rules.param} must be a string, a list of strings, or token ids",
        param=rules.param,
    )
