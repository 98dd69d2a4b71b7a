"""Where a checkpoint's text encoder is; found before torch is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from minit2i_deploy.errors import UsageError

_FOLDER: Final = "text_encoder"


def find_text_encoder(checkpoint: Path, given: Path | None) -> Path:
    """The folder of the T5 encoder in Hugging Face form.

    Args:
        checkpoint: the file or folder the network was read from; without ``given``, a folder
            ``text_encoder`` is looked for in it, beside it, and beside the folder that holds a
            Hub release's ``transformer``.
        given: what the user named: that folder, or one that holds it as ``text_encoder``.

    Raises:
        UsageError: no such folder.
    """
    if given is not None:
        places = [given, given / _FOLDER]
    else:
        # Not resolved: in the hub's cache every file is a link to a folder of hashes.
        parents = list(checkpoint.absolute().parents)
        places = [root / _FOLDER for root in (checkpoint, *parents[:2])]
    for place in places:
        if (place / "config.json").is_file():
            return place
    if given is not None:
        raise UsageError(f"{given}: no config.json there or in text_encoder/; name a T5 folder")
    raise UsageError(
        f"{checkpoint}: no folder text_encoder in it or beside it; pass --text-encoder DIR, a T5"
        " encoder in Hugging Face form (for the official releases google/flan-t5-large)"
    )
