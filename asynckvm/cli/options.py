"""Options that several commands share, so that they mean the same everywhere. Nothing is done here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asynckvm.model.config import PLATFORM_CHOICES

if TYPE_CHECKING:
    import argparse


def add_platform(parser: argparse.ArgumentParser) -> None:
    """What guests run on: for every command that opens machines."""
    parser.add_argument(
        "--platform",
        choices=PLATFORM_CHOICES,
        default="auto",
        help="what guests run on: kvm; ptrace, the weaker wall; or auto, which is KVM where it is usable, else ptrace with a "
        "warning, unless ASYNCKVM_PLATFORM names one; default: auto",
    )
