"""A host program's locale, which changes what C's printf writes, changes no name of the client."""

from __future__ import annotations

import shutil
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

SOURCE = Path("/usr/share/i18n/locales/de_DE")
HOST = """
import ctypes, locale, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.helpers.cpp_client import OK, Client, byref, c_void_p, generate_params, library
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
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


@pytest.mark.skipif(
    shutil.which("localedef") is None or not SOURCE.is_file(), reason="needs Debian's locales"
)
def test_names_of_tables_have_a_point_under_a_comma(tmp_path: Path) -> None:
    command = ["localedef", "-i", SOURCE, "-f", "UTF-8", tmp_path / "de_DE.UTF-8"]
    subprocess.run(command, check=True, capture_output=True)
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
