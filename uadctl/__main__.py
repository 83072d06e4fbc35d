"""`python -m uadctl`."""

from uadctl.cli.app import main

if __name__ == "__main__":
    main()
