"""The accuracies of docs/train.md: its blocks of code, run as they stand there on the set in runs/demo.

attar demo
python -m benchmarks.train_page plain lightning accelerate timm
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[1] / "docs" / "train.md"
STARTS = {
    "plain": "network = make",
    "lightning": "import lightning",
    "accelerate": "from accelerate",
    "timm": "import timm",
}


def blocks() -> list[str]:
    """The Python code of the page, block by block."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def accuracy(kind: str, seed: int, epochs: int = 300) -> float:
    """The accuracy, a fraction of the test images, of one of the loops."""
    code = blocks()
    head, test = (next(block for block in code if words in block) for words in ("def cutmix", "argmax"))
    loop = next(block for block in code if block.startswith(STARTS[kind]))
    torch.manual_seed(seed)
    names: dict[str, Any] = {}
    exec(head.replace("EPOCHS = 300", f"EPOCHS = {epochs}") + loop + test, names)
    return float(names["right"]) / 599


def main() -> None:
    """Print mean and standard deviation over three seeds of each loop that is named."""
    for kind in sys.argv[1:]:
        runs = [100 * accuracy(kind, seed) for seed in range(3)]
        print(f"{kind}: {statistics.fmean(runs):.1f} ± {statistics.stdev(runs):.1f}")


if __name__ == "__main__":
    main()
