"""`attar` and `python -m attar`: the command line, which Ctrl-C ends in one line while its modules are loaded, too."""

import sys

try:
    from attar.cli.parser import main
except KeyboardInterrupt:
    print("attar: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
