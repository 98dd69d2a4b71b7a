"""The C++ client as others take it: installed, moved, linked as docs/guides/cpp.md says, run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import cpp_client
from tests.helpers.cpp_client import ROOT
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

MAX_STRIPPED_BYTES = 2 * 2**20
HEADER = ROOT / "runtimes" / "cpp" / "include" / "minit2i.h"
GUIDE = ROOT / "docs" / "guides" / "cpp.md"
SCRIPTS = ROOT / "scripts"


def run(*command: object, **environment: str) -> str:
    """Standard output of a command in a bare environment, as another user has it."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def blocks(language: str) -> list[str]:
    """The guide's code blocks in a language."""
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", params=["shared", "static"])
def prefix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed copy that was moved after its installation."""
    if request.param == "shared":
        folder = cpp_client.build()
    else:
        folder = ROOT / "build" / "cpp-static"
        options = ("-DBUILD_SHARED_LIBS=OFF", "-DMINIT2I_STRICT=ON")
        run("sh", SCRIPTS / "build_cpp.sh", folder, sys.executable, *options)
        # What users get by default.
        programs = {path.name for path in folder.iterdir() if path.is_file()}
        assert "minit2i-embed" in programs
        assert not programs & {"fuzz_readers", "soak", "embed_c", "libidle_plugin.so"}
    root = tmp_path_factory.mktemp(request.param)
    run("cmake", "--install", folder, "--prefix", root / "installed", "--strip")
    return Path(shutil.move(root / "installed", root / "another place"))


def is_shared(prefix: Path) -> bool:
    return bool(list(prefix.glob("lib/libminit2i.so*")))


def test_the_guides_program_with_cmake(prefix: Path, tmp_path: Path) -> None:
    # The complete program comes first; other blocks are excerpts.
    (lists,), (program, *_) = blocks("cmake"), blocks("cpp")
    (tmp_path / "CMakeLists.txt").write_text(lists)
    (tmp_path / "app.cpp").write_text(program)
    (commands,) = [block for block in blocks("sh") if "cmake -S ." in block]
    assert "./build/app BUNDLE" in commands
    commands = commands.replace("BUNDLE", f"'{tiny_bundle()}'")
    run("sh", "-ec", f"cd '{tmp_path}'; {commands}", PREFIX=str(prefix))
    assert (tmp_path / "circle.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "square.png").is_file()


def test_the_guides_program_with_pkg_config(prefix: Path, tmp_path: Path) -> None:
    (program,) = blocks("c")
    (tmp_path / "app.c").write_text(program)
    (commands,) = [block for block in blocks("sh") if "pkg-config" in block]
    # pkg-config escapes blanks, which the shell's expansion does not undo.
    plain = Path(shutil.copytree(prefix, tmp_path / "plain", symlinks=True))
    run("sh", "-ec", f"cd '{tmp_path}'; {commands}", PREFIX=str(plain))
    assert run(tmp_path / "app", tiny_bundle()).startswith("4 tokens, first value ")


def test_installed_programs_start(prefix: Path, tmp_path: Path) -> None:
    bundle, output = tiny_bundle(), tmp_path / "a.png"
    run(prefix / "bin/minit2i-generate", bundle, "a red circle", "-o", output)
    assert run(prefix / "bin/minit2i-embed", bundle, "a red circle", "--tokens").endswith(" 1\n")


def test_installed_files_name_no_folder_of_the_build(prefix: Path) -> None:
    for path in prefix.rglob("*"):
        if path.is_file() and not path.is_symlink() and "onnxruntime" not in path.name:
            assert str(ROOT / "build").encode() not in path.read_bytes(), path


def test_stripped_size(prefix: Path) -> None:
    files = [*prefix.glob("lib/libminit2i.so.*.*.*"), *prefix.glob("bin/*")]
    size = sum(file.stat().st_size for file in files)
    # Measured 0.9 MB with both programs, shared.
    assert not is_shared(prefix) or (len(files) == 3 and size < MAX_STRIPPED_BYTES)


def test_only_the_headers_functions_are_exported(prefix: Path) -> None:
    if not is_shared(prefix):
        pytest.skip("a static library exports nothing")
    library = prefix / "lib" / "libminit2i.so"
    names = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).splitlines()}
    declared = set(re.findall(r"\b(minit2i_\w+)\(", HEADER.read_text(encoding="utf-8")))
    assert names == declared
    assert "Library soname: [libminit2i.so.0.1]" in run("readelf", "-d", library)
    # A version of ONNX Runtime's symbols would bind it to that release.
    assert "VERS_1" not in run("readelf", "-V", library)


def test_the_header_compiles_for_every_kind_of_library(tmp_path: Path) -> None:
    """With the macros of other systems, which no compiler here is for."""
    include = f"-I{HEADER.parent}"
    source = tmp_path / "a.c"
    source.write_text(
        "#include <minit2i.h>\n#if MINIT2I_VERSION_NUMBER < 100\n#error old\n#endif\n"
    )
    run("cc", "-std=c99", "-pedantic", "-Wall", "-Werror", include, "-fsyntax-only", source)
    for macros, expected in (
        (("-D_WIN32", "-DMINIT2I_BUILD"), "__declspec(dllexport) const char *minit2i_version"),
        (("-D_WIN32",), "__declspec(dllimport) const char *minit2i_version"),
        (("-DMINIT2I_STATIC",), "\n const char *minit2i_version"),
    ):
        text = run("cc", "-E", "-P", *macros, include, source)
        assert expected in text or expected.strip() in text.splitlines()


@pytest.mark.parametrize("version", [".1", ".1.21", ""])
def test_the_library_asks_for_the_name_of_the_onnx_runtime_it_is_built_with(
    tmp_path: Path, version: str
) -> None:
    """Debian 13's has its minor version in the name; a library of one constant stands for it."""
    cpp_client.build()
    sdk, name = tmp_path / "sdk", f"libonnxruntime.so{version}"
    (sdk / "lib").mkdir(parents=True)
    (sdk / "include").symlink_to(ROOT / "build" / "onnxruntime-sdk" / "include")
    (tmp_path / "a.c").write_text("const int constant = 1;\n")
    library = sdk / "lib" / f"{name}.0"
    run("cc", "-shared", f"-Wl,-soname,{name}", "-o", library, tmp_path / "a.c")
    (sdk / "lib" / "libonnxruntime.so").symlink_to(library.name)
    options = ("-G", "Ninja", f"-DONNXRUNTIME_ROOT={sdk}", "-DMINIT2I_PROGRAMS=OFF")
    run("cmake", "-S", HEADER.parents[1], "-B", tmp_path / "build", *options)
    run("cmake", "--build", tmp_path / "build", "--target", "onnxruntime_stub")
    stub = tmp_path / "build" / "stub" / "libonnxruntime.so"
    assert f"Library soname: [{name}]" in run("readelf", "-d", stub)


WRONG_SOURCES = {
    "nowhere": "expected a Python, a wheel, a release archive of ONNX Runtime or its folder",
    "nowhere.whl": "no such file",
    "empty": "has no libonnxruntime.so; wheels have it from 1.19 on",
    "damaged.tgz": "cannot be unpacked; download it again",
    "old": "is onnxruntime 1.18.1, but 1.19 or later (1.x) is needed",
    "foreign": "its library is for another processor than",
}


@pytest.mark.parametrize("name", WRONG_SOURCES)
def test_wrong_sources_are_refused_before_anything_is_installed(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.tgz").write_bytes(b"no archive")
    for folder, version in (("old", "1.18.1"), ("foreign", "1.30.0")):
        (tmp_path / folder / "lib").mkdir(parents=True)
        # Bytes 18 and 19 are the processor; 243 is RISC-V.
        library = tmp_path / folder / "lib" / f"libonnxruntime.so.{version}"
        library.write_bytes(b"\x7fELF" + bytes(14) + bytes([243, 0]) + bytes(44))
    before = sorted(tmp_path.rglob("*"))
    # Programs that would install or compile something stand for themselves.
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("apt-get", "cmake"):
        (tools / tool).write_text("#!/bin/sh\necho installed >&2\nexit 9\n")
        (tools / tool).chmod(0o755)
    done = subprocess.run(
        ["sh", SCRIPTS / "build_cpp.sh", tmp_path / "build" / "cpp", tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
    )
    assert done.returncode == 1 and "installed" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{tmp_path / name}: ") and WRONG_SOURCES[name] in line
    remaining = set(tmp_path.rglob("*")) - set(before) - {tools, *tools.iterdir()}
    assert remaining == {tmp_path / "build", tmp_path / "build" / "cpp"}


def test_a_release_archive_and_its_folder(tmp_path: Path) -> None:
    cpp_client.build()
    built = ROOT / "build" / "onnxruntime-sdk"
    folder = tmp_path / "onnxruntime-linux-x64-1.32.0"
    shutil.copytree(built, folder, symlinks=True, ignore=shutil.ignore_patterns("source"))
    archive = tmp_path / "onnxruntime.tgz"
    run("tar", "-C", tmp_path, "-czf", archive, folder.name)
    for source in (folder, archive):
        sdk = tmp_path / "sdk"
        run("sh", SCRIPTS / "onnxruntime_sdk.sh", sdk, source)
        names = {path.name for path in (sdk / "lib").iterdir()}
        assert {"libonnxruntime.so", "libonnxruntime.so.1"} <= names
        assert (sdk / "lib" / "libonnxruntime.so.1").resolve().is_file()
        assert list(sdk.glob("include/**/onnxruntime_cxx_api.h"))
