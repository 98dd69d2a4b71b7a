"""Who may ask: API keys, and browsers on this server's own pages only."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from minit2i_deploy.errors import UsageError
from minit2i_deploy.serving.http.errors import HttpError

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="minit2i"'}


def read_public_url(url: str) -> str:
    """The address that a proxy is reached by, without a slash at its end.

    Raises:
        UsageError: it is not http:// or https:// and a host.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or url.rstrip("/") != f"{parts.scheme}://{parts.netloc}" or "@" in url:
        raise UsageError(
            f"--public-url must be https:// or http:// and a host, without a path, got {url!r}"
        )
    # As browsers write it.
    return url.rstrip("/").lower()


class ApiKeys:
    """Keys that open the APIs; without any, all are let in. Only hashes are in memory.

    Args:
        keys: as in the file.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ApiKeys:
        """Read a file of a key a line; empty lines and lines that begin with # are none.

        Raises:
            UsageError: no file, or no key in it.
        """
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"{path}: cannot be read ({reason})") from error
        lines = (line.strip() for line in text.splitlines())
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise UsageError(f"{path}: holds no key; write one a line")
        return cls(keys)

    @property
    def are_required(self) -> bool:
        """Whether there are any."""
        return bool(self._digests)

    def admit(self, key: str | None) -> bool:
        """Whether a request with this key is let in; takes the same time whatever the key."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        # Every one is compared, so that the time tells nothing of which it was.
        return any([hmac.compare_digest(digest, each) for each in self._digests])


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Rules for a request's headers.

    Args:
        keys: API keys.
        hosts: names in the Host header that are answered; empty for any. A page of another site
            that makes its own name point here (DNS rebinding) has that name there.
        origins: other sites whose pages may use the APIs; ``*`` for any.
    """

    keys: ApiKeys
    hosts: Collection[str] = ()
    origins: Collection[str] = ()

    def check(self, headers: Headers, *, is_open: bool) -> None:
        """Refuse a request.

        Args:
            headers: of the request.
            is_open: whether it needs no key.

        Raises:
            HttpError: 421, 403 or 401.
        """
        host = headers.get("host", "")
        if self.hosts and _host_name(host) not in self.hosts:
            raise HttpError(
                421, "this server does not answer to that Host; name it with --public-url"
            )
        origin = headers.get("origin")
        if origin is not None and not self.allows_origin(origin, host):
            raise HttpError(403, "pages of other sites may not use this server; see --cors")
        if not is_open and not self.keys.admit(_key(headers)):
            raise HttpError(
                401, "wrong or missing API key; send Authorization: Bearer KEY", headers=_CHALLENGE
            )

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of that origin may use the APIs."""
        return urlsplit(origin).netloc == host or origin in self.origins or "*" in self.origins


def access_of(
    host: str, keys: ApiKeys, origins: Collection[str] = (), public_url: str | None = None
) -> Access:
    """The rules of a server.

    Args:
        host: that it is bound to.
        keys: API keys.
        origins: other sites whose pages may use the APIs.
        public_url: address of a proxy in front, as from ``read_public_url``.
    """
    # Elsewhere the names that lead here are not known, and all are answered.
    hosts = LOOPBACK if host in LOOPBACK else ()
    if public_url is None:
        return Access(keys=keys, hosts=hosts, origins=origins)
    names = (*hosts, urlsplit(public_url).hostname or "") if hosts else ()
    return Access(keys=keys, hosts=names, origins=(*origins, public_url))


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _key(headers: Headers) -> str | None:
    """The key of a request: Bearer, Basic (its password, as web UI clients send) or X-API-Key."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return headers.get("x-api-key")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
