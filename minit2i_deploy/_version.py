"""The one place that states the version; packaging and the manifest read it from here."""

from __future__ import annotations

__version__ = "0.1.0"
