"""What the stress tests keep open is let go of only after their machines are closed."""

from kvm.conftest import kept

__all__ = ["kept"]
