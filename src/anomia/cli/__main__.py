"""`python -m anomia.cli`."""

from anomia.cli import main

main()
