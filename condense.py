"""`python condense.py …` takes the flags of `attar condense`."""

import sys

from attar.cli.parser import main

if __name__ == "__main__":
    main(["condense", *sys.argv[1:]])
