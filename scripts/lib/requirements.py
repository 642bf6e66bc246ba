"""Prints the requirements in pyproject.toml, one a line: to build and to run, and those of each extra named.

So pyproject.toml stays the one place that names them. Spaces inside a requirement are dropped.
"""

import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> None:
    """Print the requirements; an unknown extra is a KeyError."""
    data = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    requirements = [*data["build-system"]["requires"], *data["project"]["dependencies"]]
    for extra in extras:
        requirements += data["project"]["optional-dependencies"][extra]
    print("\n".join(requirement.replace(" ", "") for requirement in requirements))


if __name__ == "__main__":
    main(sys.argv[1:])
