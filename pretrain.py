"""`python pretrain.py …` takes the flags of `attar pretrain`."""

import sys

from attar.cli.parser import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
