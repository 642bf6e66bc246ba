"""FP and vector state in a signal frame: an XSAVE area with the words by which programs and kernel recognize it.

Pure: from the platform's XSAVE image to the bytes on the guest's stack and back. A frame is the guest's to change; what comes
back from it is either an image that the processor will accept, or None where Linux would fail the return. Source:
arch/x86/kernel/fpu/signal.c, arch/x86/include/uapi/asm/sigcontext.h; SDM vol. 1, chapter 13 (XSAVE area, XRSTOR).
"""

from __future__ import annotations

import struct
from typing import Final

ALIGNMENT: Final = 64
_MAGIC1: Final = 0x4650_5853
_MAGIC2: Final = 0x4650_5845
_MAGIC2_BYTES: Final = 4
# struct _fpx_sw_bytes, at the end of the legacy region: magic1, extended_size, xfeatures, xstate_size, padding.
_SOFTWARE: Final = struct.Struct("<IIQI28x")
_SOFTWARE_OFFSET: Final = 464
LEGACY_BYTES: Final = 512
_HEADER: Final = struct.Struct("<QQQ40x")
_AREAS_OFFSET: Final = LEGACY_BYTES + _HEADER.size

_X87, _SSE, _AVX = 1, 2, 4
_FPSSE: Final = _X87 | _SSE
_MXCSR: Final = struct.Struct("<I")
_MXCSR_OFFSET: Final = 24
_MXCSR_VALID: Final = 0xFFFF
_MXCSR_INITIAL: Final = 0x1F80
_FCW_INITIAL: Final = 0x37F
# Parts of the legacy region: x87 without and with its registers, and XMM.
_X87_PARTS: Final = ((0, _MXCSR_OFFSET), (32, 160))
_XMM_PART: Final = (160, 416)

# (offset, bytes) of the components of the standard format as Intel's processors lay them out. AMD packs them closer, so that an
# area of this size holds all of them there too.
_COMPONENTS: Final = {
    2: (576, 256),  # AVX
    3: (960, 64),  # BNDREGS
    4: (1024, 64),  # BNDCSR
    5: (1088, 64),  # opmask
    6: (1152, 512),  # ZMM_Hi256
    7: (1664, 1024),  # Hi16_ZMM
    9: (2688, 8),  # PKRU
    17: (2752, 64),  # XTILECFG
    18: (2816, 8192),  # XTILEDATA
}


def area_bytes(xcr0: int, image_bytes: int) -> int:
    """Size of the XSAVE area in a frame: what the enabled components need."""
    size = _AREAS_OFFSET
    for component in range(2, 63):
        if xcr0 >> component & 1:
            if component not in _COMPONENTS:
                return image_bytes
            size = max(size, sum(_COMPONENTS[component]))
    return min(size, image_bytes)


def frame_bytes(area: int) -> int:
    """What a frame reserves for it."""
    return area + _MAGIC2_BYTES


def save(image: bytes, xcr0: int, area: int) -> bytes:
    """The FP state of a frame."""
    frame = bytearray(image[:area])
    _SOFTWARE.pack_into(frame, _SOFTWARE_OFFSET, _MAGIC1, frame_bytes(area), xcr0 | _FPSSE, area)
    present: int = _HEADER.unpack_from(frame, LEGACY_BYTES)[0]
    _HEADER.pack_into(frame, LEGACY_BYTES, present | _FPSSE, 0, 0)
    return bytes(frame) + struct.pack("<I", _MAGIC2)


def initial(image_bytes: int) -> bytes:
    """What a program starts with, and a handler too."""
    image = bytearray(image_bytes)
    struct.pack_into("<H", image, 0, _FCW_INITIAL)
    _MXCSR.pack_into(image, _MXCSR_OFFSET, _MXCSR_INITIAL)
    _HEADER.pack_into(image, LEGACY_BYTES, _FPSSE, 0, 0)
    return bytes(image)


def claims_area(legacy: bytes) -> bool:
    """The frame's legacy region says that a whole XSAVE area follows."""
    magic: int = _SOFTWARE.unpack_from(legacy, _SOFTWARE_OFFSET)[0]
    return magic == _MAGIC1


def restore(frame: bytes, xcr0: int, image_bytes: int) -> bytes | None:
    """The image to load, from the bytes that `save` wrote and the program may have changed.

    Without both magic numbers only the legacy region counts, and all else becomes initial. None: XRSTOR would fault.
    """
    mxcsr: int = _MXCSR.unpack_from(frame, _MXCSR_OFFSET)[0]
    asked, present = _FPSSE, _FPSSE
    if claims_area(frame) and len(frame) > _AREAS_OFFSET and frame[-_MAGIC2_BYTES:] == struct.pack("<I", _MAGIC2):
        asked = _SOFTWARE.unpack_from(frame, _SOFTWARE_OFFSET)[2] & (xcr0 | _FPSSE)
        present, compact, reserved = _HEADER.unpack_from(frame, LEGACY_BYTES)
        if present & ~(xcr0 | _FPSSE) or compact or reserved:
            return None
    # The processor looks at MXCSR for SSE and for AVX.
    if asked & (_SSE | _AVX) and mxcsr & ~_MXCSR_VALID:
        return None
    image = bytearray(initial(image_bytes))
    present &= asked
    if present & _X87:
        for start, end in _X87_PARTS:
            image[start:end] = frame[start:end]
    if present & _SSE:
        image[slice(*_XMM_PART)] = frame[slice(*_XMM_PART)]
    if asked & (_SSE | _AVX):
        _MXCSR.pack_into(image, _MXCSR_OFFSET, mxcsr)
    if extended := present & ~_FPSSE:
        image[_AREAS_OFFSET : len(frame) - _MAGIC2_BYTES] = frame[_AREAS_OFFSET:-_MAGIC2_BYTES]
        _HEADER.pack_into(image, LEGACY_BYTES, _FPSSE | extended, 0, 0)
    return bytes(image)
