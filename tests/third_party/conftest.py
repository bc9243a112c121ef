"""What these tests run is in the extra ``third-party``; without it there are none."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("starlette") else ["test_*.py"]
