"""Pack what benchmarks/gpu_first.py needs on a machine without a network.

    python benchmarks/gpu_first_pack.py OUT --python 3.12 --capability 90

OUT gets pieces of at most 30 MB, a list of their hashes, and unpack.py. The first archive holds
this checkout, small packages, bundles of B/16 and L/16 without their weights, and a small one to
rehearse with; it is enough for the parts of PyTorch. The second one holds onnxruntime-gpu with code
for one GPU architecture.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.first_half_hour.fatbin import prune
from benchmarks.first_half_hour.pieces import Source, write_pieces
from benchmarks.first_half_hour.stripped_bundle import strip
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import VARIANTS
from minit2i_deploy.demo.ready import ready_bundle

ROOT: Final = Path(__file__).resolve().parents[1]
MAX_BYTES: Final = 30_000_000
# Variant and precision in the order of measuring; the first one is measured in every way.
BUNDLES: Final = (("b-16", "fp16"), ("b-16", "bf16"), ("l-16", "fp16"))
ONNXRUNTIME: Final = "onnxruntime-gpu==1.31.1"
# Beside torch, which brings numpy.
PACKAGES: Final = (
    "beartype", "iniconfig", "jaxtyping", "packaging", "pillow", "pluggy", "pygments", "pytest",
    "safetensors", "tokenizers", "wadler_lindig",
)  # fmt: skip
# Weights, images and pages are not read there.
_LARGEST_FILE: Final = 500_000
_EXCLUDED: Final = ("docs/", "examples/", "findings/", "minit2i_deploy/demo/assets/bundles/")
_LIBRARY: Final = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
# For programs in C, and for TensorRT.
_UNUSED: Final = ("libonnxruntime.so*", "libonnxruntime_providers_tensorrt.so")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="minit2i-pack-") as folder:
        work = Path(folder)
        bundles = options.bundles or make_bundles(work)
        packages = get_packages(work / "small", PACKAGES, options.python)
        rehearsal = work / "rehearsal"
        strip(ready_bundle("demo", work / "cache"), rehearsal / "1-demo")
        first = [*checkout_files(), *_below(packages, "site"), *_below(bundles, "bundles"),
                 *_below(rehearsal, "rehearsal")]  # fmt: skip
        onnxruntime = get_packages(work / "onnxruntime", [ONNXRUNTIME], options.python)
        prune_onnxruntime(onnxruntime, options.capability)
        archives = {"first": first, "onnxruntime": list(_below(onnxruntime, "site"))}
        pieces = write_pieces(archives, options.output, MAX_BYTES)
    for piece in pieces:
        print(f"{piece.name}  {piece.stat().st_size / 1e6:.1f} MB")
    print("there: python unpack.py FOLDER")
    print("then:  python FOLDER/source/benchmarks/gpu_first.py FOLDER/bundles -o first.jsonl")
    return 0


def make_bundles(work: Path) -> Path:
    """Stripped bundles of BUNDLES, named in the order of measuring."""
    from tests.helpers.cuda_standin.bundles import export_for_cuda, write_network

    target = work / "stripped"
    target.mkdir()
    for number, (variant, precision) in enumerate(BUNDLES, start=1):
        release = work / variant
        if not release.exists():
            write_network(release, variant, VARIANTS[variant].depth_double)
        bundle = export_for_cuda(release, work / "bundle", precision)
        strip(bundle.path, target / f"{number}-{variant}-{precision}")
        shutil.rmtree(bundle.path)
    return target


def checkout_files() -> Iterator[Source]:
    """Every file that git knows, but large ones and pages."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if name.startswith(_EXCLUDED) or not (path.is_symlink() or path.is_file()):
            continue
        if path.is_symlink() or path.stat().st_size <= _LARGEST_FILE:
            yield Source(path=path, name=f"source/{name}")


def get_packages(folder: Path, names: Sequence[str], python: str) -> Path:
    """Wheels of packages for that Python on x86-64 Linux, unpacked into one folder."""
    wheels, site = folder / "wheels", folder / "site"
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 17)]
    constraints = [] if names == [ONNXRUNTIME] else ["-c", str(ROOT / "constraints.txt")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--only-binary=:all:", f"--python-version={python}", *platforms,
               *constraints, "--dest", str(wheels), *names]  # fmt: skip
    subprocess.run(command, check=True)
    for wheel in sorted(wheels.glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(site)
    return site


def prune_onnxruntime(site: Path, capability: int) -> None:
    """Leave code for one architecture in the CUDA provider, and drop libraries of others."""
    for pattern in _UNUSED:
        for path in (site / "onnxruntime" / "capi").glob(pattern):
            path.unlink()
    library = bytearray((site / _LIBRARY).read_bytes())
    prune(library, capability)
    (site / _LIBRARY).write_bytes(library)


def _below(folder: Path, prefix: str) -> Iterator[Source]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield Source(path=path, name=f"{prefix}/{path.relative_to(folder)}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pack what gpu_first.py needs.")
    parser.add_argument("output", type=Path, metavar="OUT", help="new folder for the pieces")
    parser.add_argument("--python", default="3.12", help="of that machine; default: 3.12")
    parser.add_argument(
        "--capability", type=int, default=90, help="of its GPU, without the dot; default: 90"
    )
    parser.add_argument("--bundles", type=Path, help="folder of stripped bundles to use instead")
    options = parser.parse_args(arguments)
    if options.output.exists():
        parser.error(f"{options.output}: exists; name a new folder")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
