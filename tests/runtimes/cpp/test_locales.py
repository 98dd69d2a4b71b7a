"""A host program's locale, which changes what C's printf writes, changes no name of the client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.solvers.guidance import adjust_guidance
from tests.helpers import cpp_client
from tests.helpers.cpp_client import ROOT
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# A language's numbers, and a character set of its own, so that no package of locales is needed.
LANGUAGE = """comment_char %
escape_char /
LC_NUMERIC
decimal_point ","
thousands_sep ""
grouping -1
END LC_NUMERIC
"""
CHARACTERS = "\n".join(
    [
        "<code_set_name> ASCII",
        "<comment_char> %",
        "<escape_char> /",
        "<mb_cur_min> 1",
        "<mb_cur_max> 1",
        "CHARMAP",
        *(f"<U{code:04X}> /x{code:02x} c" for code in range(128)),
        "END CHARMAP",
        "",
    ]
)
HOST = """
import ctypes, locale, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers.cpp_client import OK, Client, byref, c_void_p, generate_params, library
locale.setlocale(locale.LC_NUMERIC, "xx_XX")
text = ctypes.create_string_buffer(8)
ctypes.CDLL(None).snprintf(text, 8, b"%g", ctypes.c_double(0.5))
params = generate_params(b"a", table=b"euler-20", interval_start=0.25, interval_end=0.75)
images, calls = c_void_p(), library()
calls.minit2i_images_table.restype = ctypes.c_char_p
calls.minit2i_images_table.argtypes = (c_void_p,)
with Client(Path(sys.argv[2])) as client:
    assert calls.minit2i_generate(client.state, byref(params), byref(images)) == OK
    print(text.value.decode(), calls.minit2i_images_table(images).decode())
    calls.minit2i_images_free(images)
"""


def test_names_of_tables_have_a_point_under_a_comma(tmp_path: Path) -> None:
    (tmp_path / "language").write_text(LANGUAGE, encoding="ascii")
    (tmp_path / "characters").write_text(CHARACTERS, encoding="ascii")
    # It has no other categories, of which localedef warns; -c writes it all the same.
    command = ["localedef", "-c", "-i", "./language", "-f", "./characters", "./xx_XX"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    cpp_client.build()
    done = subprocess.run(
        [sys.executable, "-c", HOST, ROOT, tiny_bundle()],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LOCPATH": str(tmp_path)},
    )
    table = adjust_guidance(Bundle.open(tiny_bundle()).table("euler-20"), interval=(0.25, 0.75))
    assert done.stdout == f"0,5 {table.name}\n"
