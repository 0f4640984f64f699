"""attar's version: the one place that says it; the distribution's metadata are made from here (pyproject.toml).

Not read from those metadata, so that attar runs from its sources where no distribution is installed.
"""

from __future__ import annotations

__version__ = "0.1.0"
