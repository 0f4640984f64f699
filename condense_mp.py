"""`python condense_mp.py …` takes the flags of `attar condense`: one class partition with --nclass_sub and --phase."""

import sys

from attar.cli.parser import main

if __name__ == "__main__":
    main(["condense", *sys.argv[1:]])
