"""`python -m attar`."""

from attar.cli.parser import main

if __name__ == "__main__":
    main()
