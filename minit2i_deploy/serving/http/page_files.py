"""The page: files of this package under fixed names, and nothing else of the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.responses import Response

from minit2i_deploy.serving.http.endpoint import Call, Endpoint

FOLDER: Final = Path(__file__).parent.parent / "page"
_INDEX: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, no inline script or style, no frames. Images are data and blobs.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


def page_endpoints(folder: Path = FOLDER) -> list[Endpoint]:
    """The page at / and its files under /page/, read once."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    paths = {f"/page/{name}": name for name in files if name != _INDEX} | {"/": _INDEX}
    return [_endpoint(path, name, files[name]) for path, name in paths.items()]


def _endpoint(path: str, name: str, data: bytes) -> Endpoint:
    response_type = _MEDIA_TYPES[Path(name).suffix]

    async def answer(call: Call) -> Response:
        return Response(data, media_type=response_type, headers=_HEADERS)

    # Without a key: the page asks for it.
    return Endpoint(
        method="GET", path=path, answer=answer, summary=name, is_open=True, is_listed=False
    )
