"""Held-out captions of the shapes data as GenEval's prompts, and what each requires."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.items import Item
from minit2i_deploy.evaluation.shapes import KINDS, Requirement, Spec, held_out_captions

FIELD: Final = "spec"


def shapes_items(per_kind: int, seed: int) -> list[Item]:
    """Captions of all six kinds, each with the metadata that GenEval's reader takes.

    Args:
        per_kind: captions of each kind.
        seed: of the choice of captions.

    Raises:
        UsageError: fewer than one caption of a kind.
    """
    captions = held_out_captions(per_kind, seed, KINDS)
    return [shapes_item(index, spec, caption) for index, (spec, caption) in enumerate(captions)]


def shapes_item(index: int, spec: Spec, caption: str) -> Item:
    """One caption with what it requires, also in GenEval's words."""
    include = [
        {"class": item.shape or "object", "count": 1}
        | ({} if item.colour is None else {"color": item.colour})
        for item in spec.required
    ]
    metadata = {"tag": spec.kind, "include": include, "prompt": caption, FIELD: _values(spec)}
    return Item(index=index, name=f"{index:05d}", prompt=caption, metadata=json.dumps(metadata))


def spec_of(metadata: Mapping[str, Any], where: str) -> Spec:
    """What the caption of a metadata line requires.

    Args:
        metadata: the line's object.
        where: its file, for the error.

    Raises:
        UsageError: the line is not one of ``shapes_items``.
    """
    try:
        values = metadata[FIELD]
        return Spec(
            kind=values["kind"],
            required=tuple(Requirement(shape=s, colour=c) for s, c in values["required"]),
            relation=values["relation"],
            background=values["background"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: has no {FIELD} of a shapes caption; generate it with minit2i eval paint "
            "shapes"
        ) from error


def _values(spec: Spec) -> dict[str, Any]:
    return {
        "kind": spec.kind,
        "required": [[item.shape, item.colour] for item in spec.required],
        "relation": spec.relation,
        "background": spec.background,
    }
