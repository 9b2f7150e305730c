"""Put modules of this Python's standard library into a folder as texts, for the sweeps that read `texts/code`.

    python benchmarks/code_texts.py texts/code

Each becomes a file NAME.txt. The text depends on the version of Python; a record says which one made it.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

MODULES = ("ast", "calendar", "configparser", "difflib", "doctest", "mailbox", "pickletools", "tarfile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        source = Path(sysconfig.get_path("stdlib"), f"{name}.py").read_text(encoding="utf-8")
        (folder / f"{name}.txt").write_text(source, encoding="utf-8")
    print(f"{len(MODULES)} modules in {folder}")


if __name__ == "__main__":
    main()
