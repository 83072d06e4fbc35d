"""`python -m uadctl`."""

from uadctl.cli.entry import main

if __name__ == "__main__":
    main()
