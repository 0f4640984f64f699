"""python child.py runs | budgets, or several of training, minutes, hazards; prints JSON, of several by these names.

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

    found = {name: WHAT[name]() for name in sys.argv[1:]}
    print(json.dumps(found if len(found) > 1 else found.popitem()[1], indent=1))


if __name__ == "__main__":
    main()
