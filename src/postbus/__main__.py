"""`python -m postbus` is `postbus`."""

from .cli import main

main()
