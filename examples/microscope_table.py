"""A table of microscope files: what Lamella reads of each, or why it refuses it.

    python examples/microscope_table.py FOLDER [--data-bar find]

Prints one row of a Markdown table for every file below FOLDER, as docs/microscope-files.md shows it.
"""

import argparse
import math
from pathlib import Path

from lamella.data.reading import Reading
from lamella.errors import DataError

TITLES = ("file", "format", "pixels", "nm per pixel", "magnification", "kV", "detector", "data bar")


def size(pixel_nm: tuple[float, float]) -> str:
    """One number where pixels are square, y × x where not."""
    y, x = pixel_nm
    if math.isnan(y):
        return "–"
    return f"{y:.6g}" if math.isclose(y, x, rel_tol=1e-9) else f"{y:.6g} × {x:.6g}"


def row(path: Path, reading: Reading) -> str:
    """What is read of one file."""
    try:
        whole, cut = Reading("keep").micrograph(path), reading.micrograph(path)
    except DataError as error:
        return f"| `{path.name}` | refused: {str(error).partition(': ')[2]} | | | | | | |"
    facts = {name: text or "–" for name, text in whole.facts.texts().items()}
    pixels = f"{whole.image.shape[0]} × {whole.image.shape[1]} {whole.image.dtype}"
    bar = whole.image.shape[0] - cut.image.shape[0]
    cells = [facts["maker"], pixels, size(whole.pixel_nm), facts["magnification"], facts["voltage_kv"],
             facts["detector"], f"{bar} rows" if bar else "–"]  # fmt: skip
    return f"| `{path.name}` | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-bar", choices=("metadata", "find", "keep"), default="metadata")
    arguments = parser.parse_args()
    print(f"| {' | '.join(TITLES)} |")
    print("|---" * len(TITLES) + "|")
    files = [path for path in arguments.folder.rglob("*") if path.is_file() and path.suffix not in (".md", ".npy")]
    for path in sorted(files, key=lambda path: (path.suffix, path.name)):
        print(row(path, Reading(arguments.data_bar)))


if __name__ == "__main__":
    main()
