"""minit2i completion: a script that completes commands and options in a shell."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Final

_EPILOG: Final = """\
install:
  bash  minit2i completion bash > ~/.local/share/bash-completion/completions/minit2i
  zsh   minit2i completion zsh > ~/.zfunc/_minit2i    (~/.zfunc in fpath before compinit)
  fish  minit2i completion fish > ~/.config/fish/completions/minit2i.fish
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionOptions:
    """Options of minit2i completion."""

    shell: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Print a script that completes commands, options and file names."
    parser.epilog = _EPILOG
    parser.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish"
    )


def run(options: CompletionOptions) -> None:
    """Print the script."""
    from minit2i_deploy.cli.support.completion_scripts import SCRIPTS

    print(SCRIPTS[options.shell](), end="")
