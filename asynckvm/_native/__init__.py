"""The one door to the C core: no other module may import the compiled one.

`ffi` and `lib` are cffi's; `lib` holds exactly what the headers in `native/include/akvm` declare (typed by hand in `_ffi.pyi`).
`PROGRAMS` is the folder of the benchmark programs in plain C that are installed beside the compiled module,
`VDSO` the shared object that guests are given.
Nothing that interprets a result may live here: that is the platform's work.
"""

from pathlib import Path
from typing import Final

from asynckvm._native import _ffi
from asynckvm._native._ffi import ffi, lib

__all__ = ["PROGRAMS", "VDSO", "ffi", "lib"]

PROGRAMS: Final = Path(_ffi.__file__).parent / "bench"
VDSO: Final = Path(_ffi.__file__).parent / "vdso.so"
