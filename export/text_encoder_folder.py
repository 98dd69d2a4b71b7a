"""Finding a checkpoint's text encoder, without loading torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from minit2i_deploy.errors import UsageError

_FOLDER: Final = "text_encoder"


def find_text_encoder(checkpoint: Path, named: Path | None) -> Path:
    """The folder of the T5 encoder in Hugging Face form.

    Args:
        checkpoint: the file or folder the network was read from. If ``named`` is None, a folder
            ``text_encoder`` is looked for in it, beside it, and beside the parent of a Hub
            release's ``transformer``.
        named: by the user: that folder, or one that contains it as ``text_encoder``.

    Raises:
        UsageError: there is none.
    """
    if named is not None:
        places = [named, named / _FOLDER]
    else:
        # Not resolved: in the hub's cache every file is a link to a folder of hashes.
        parents = list(checkpoint.absolute().parents)
        places = [root / _FOLDER for root in (checkpoint, *parents[:2])]
    for place in places:
        if (place / "config.json").is_file():
            return place
    if named is not None:
        raise UsageError(f"{named}: no config.json in it or in text_encoder/; pass a T5 folder")
    raise UsageError(
        f"{checkpoint}: no folder text_encoder in it or beside it; pass --text-encoder DIR, a T5"
        " encoder in Hugging Face form (google/flan-t5-large for the official releases)"
    )
