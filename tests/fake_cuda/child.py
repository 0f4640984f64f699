"""python child.py runs PRECISION | training | minutes | hazards | budgets; prints one JSON object.

A process of its own, because the fake GPU has to be there before torch.
"""

from __future__ import annotations

import json
import sys

from benchmarks.fake_cuda import guard


def main() -> None:
    """Load the fake GPU, then run what is named."""
    guard.load()
    from emulated import WHAT

    print(json.dumps(WHAT[sys.argv[1]](*sys.argv[2:]), indent=1))


if __name__ == "__main__":
    main()
