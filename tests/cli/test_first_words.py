"""What people type first: a prompt in the bundle's place, a prompt without its quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run


@pytest.mark.parametrize(
    ("command", "rest"), [("generate", ()), ("embed", ("-o", "a.npz"))], ids=["generate", "embed"]
)
def test_a_prompt_in_the_bundles_place_is_understood(
    command: str, rest: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(capsys, command, "a red circle", *rest)
    assert done.code == 2
    assert done.error.endswith(f"(did you mean minit2i {command} demo 'a red circle'?)")
    # A folder may have a space in its name.
    done = run(capsys, command, __file__, *rest)
    assert "did you mean" not in done.error


@pytest.mark.parametrize(
    ("words", "warns"), [(("red", "circle"), True), (("red", "a circle"), False), (("red",), False)]
)
def test_words_without_quotes_bring_a_warning(
    words: tuple[str, ...],
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(Path("b"))
    for command in (
        ("generate", "b", *words, "-o", "out/"),
        ("embed", "b", *words, "-o", "out.npz"),
    ):
        done = run(capsys, *command, "--runtime", "fake")
        assert done.code == 0
        expected = "minit2i: warning: 2 texts of one word each; if they are one text, put it in"
        assert done.err == (f"{expected} quotes: 'red circle'\n" if warns else "")
