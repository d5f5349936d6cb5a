"""`python -m xtune` is the command `xtune`."""

from xtune.cli.main import main

if __name__ == "__main__":
    main()
