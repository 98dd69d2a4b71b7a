"""Pieces of a page: words stay words, numbers stand to the right, pictures are inside."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from minit2i_deploy.io.html import document, escape, image, shorten, table, verdict

HOSTILE = "<b>\"red\" & 'blue'</b>"


class Reader(HTMLParser):
    """Keeps start tags with their attributes, and the words between."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += [data] if data.strip() else []


def test_text_round_trips() -> None:
    read = Reader(f'<p title="{escape(HOSTILE)}">{escape(HOSTILE)}</p>')
    assert read.words == [HOSTILE]
    assert read.tags == [("p", {"title": HOSTILE})]


def test_a_page_is_whole_and_needs_no_other_file() -> None:
    page = document("A & B", "p { color: red; }", ["<p>one</p>", image(b"\x00png", HOSTILE)])
    read = Reader(page)
    assert read.open == [] and page.startswith("<!doctype html>\n") and page.endswith("\n")
    assert read.words.count("A & B") == 2 and "one" in read.words
    assert any("p { color: red; }" in text for text in read.words)
    (picture,) = (attributes for tag, attributes in read.tags if tag == "img")
    assert picture["alt"] == HOSTILE
    kind, data = str(picture["src"]).split(",")
    assert (kind, base64.b64decode(data)) == ("data:image/png;base64", b"\x00png")
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_columns_of_numbers_stand_to_the_right() -> None:
    read = Reader(table(("what", "n"), [("a < b", "1"), ("c", "2")], numbers=(1,)))
    assert read.words == ["what", "n", "a < b", "1", "c", "2"]
    cells = [attributes for tag, attributes in read.tags if tag == "td"]
    assert cells == [{}, {"class": "n"}] * 2


def test_verdicts_and_long_texts() -> None:
    assert [Reader(verdict(correct)).words for correct in (True, False)] == [["right"], ["wrong"]]
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("x" * 11, 10) == "x" * 7 + "..."
