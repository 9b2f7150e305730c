"""python -m app.cli: the same as the command `treekv`."""

from app.cli import main

main()
