"""Near misses: the command or option that was probably meant by an unknown name."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Final

# What other programs call it -> ours. Only names that a parser has are suggested.
_ELSEWHERE: Final = {
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance",
    "--guidance-scale": "--guidance",
    "--scale": "--guidance",
    "--sampler": "--solver",
    "--scheduler": "--solver",
    "--num-inference-steps": "--steps",
    "--num-steps": "--steps",
    "--negative-prompt": "--negative",
    "--num-samples": "--num-images",
    "--count": "--num-images",
    "--batch-size": "--batch",
    "--out": "--output",
    "--outdir": "--output",
    "--seeds": "--seed",
    "--backend": "--runtime",
    "--gpu": "--device",
    "--cuda": "--device",
    "--engine": "--runtime",
    "--dtype": "--precision",
    "--late-from": "--switch-at",
    "--image": "--init-image",
    "--init-img": "--init-image",
    "--input-image": "--init-image",
    "--denoise": "--strength",
    "--denoising-strength": "--strength",
    "--mask-image": "--mask",
    "--mask-blur": "--feather",
    "--extend": "--outpaint",
    "--variation-strength": "--amount",
    "--subseed-strength": "--amount",
    "--size": "--image-size",
    "--resolution": "--image-size",
}
# What no option of the command does, and what does it.
_SIZE: Final = (
    "the size of images is the bundle's; minit2i export --image-size chooses it, and --sides "
    "leaves it to generate --size"
)
_NO_OPTION: Final = dict.fromkeys(("--size", "--resolution", "--width", "--height"), _SIZE)
_UNKNOWN_OPTION: Final = re.compile(r"unrecognized arguments:.*?(--?[A-Za-z][\w-]*)")
_UNKNOWN_COMMAND: Final = re.compile(r"invalid choice: '([^']*)'")


def with_hint(message: str, *, options: Sequence[str], commands: Sequence[str]) -> str:
    """An error of a parser, with what was probably meant where something is near.

    Args:
        message: of argparse.
        options: names of the parser's options.
        commands: names of its commands or tasks.
    """
    if match := _UNKNOWN_OPTION.search(message):
        if near := near_option(match[1], options):
            return f"{message} (did you mean {near}?)"
        reason = _NO_OPTION.get(match[1].lower())
        return f"{message} ({reason})" if reason else message
    if match := _UNKNOWN_COMMAND.search(message):
        near = _near(match[1], commands)
        if near:
            return f"unknown command {match[1]!r} (did you mean {near}?)"
    return message


def near_option(name: str, known: Sequence[str]) -> str | None:
    """The option of ``known`` that was probably meant by ``name``, or None."""
    elsewhere = _ELSEWHERE.get(name.replace("_", "-").lower())
    return elsewhere if elsewhere in known else _near(name, known)


def bundle_hint(command: str, bundle: str) -> str:
    """What to add to an error where a text stands in the bundle's place, or ""."""
    if " " not in bundle or os.path.exists(bundle):
        return ""
    return f" (did you mean minit2i {command} demo {shlex.quote(bundle)}?)"


def warn_of_single_words(texts: Sequence[str]) -> None:
    """Warn on stderr of several texts that look like the words of one without its quotes."""
    if len(texts) > 1 and not any(len(text.split()) > 1 for text in texts):
        sys.stderr.write(
            f"minit2i: warning: {len(texts)} texts of one word each; if they are one text, put it "
            f"in quotes: {shlex.quote(' '.join(texts))}\n"
        )


def _near(name: str, known: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return matches[0] if matches else None
