"""Finds off-screen OpenGL: EGL, else OSMesa; says what to install where there is neither."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

INSTALL = (
    "install Mesa's software renderer: `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` "
    "(or `libosmesa6`); on Fedora `dnf install mesa-libEGL mesa-dri-drivers`"
)
_EGL_PLATFORM_DEVICE = 0x313F  # EGL_EXT_platform_device


class MissingGL(ValueError):
    """This machine cannot draw: no off-screen OpenGL."""


@cache
def find_backend() -> str:
    """ "egl" or "osmesa", whichever works here, in this order; "native" off Linux.

    The environment variable MUJOCO_GL ("egl" or "osmesa") chooses one of them. PyOpenGL binds one
    backend per process, so libraries are tried by hand before it is imported.

    Raises:
        MissingGL: none works; says what to install.
        ValueError: MUJOCO_GL asks for something else.
    """
    if sys.platform != "linux":
        return "native"
    wanted = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wanted not in ("", "egl", "osmesa"):
        raise ValueError(
            f"Expected the environment variable MUJOCO_GL to be egl or osmesa, found {wanted!r}: "
            "the world draws off-screen. Unset it to take what works."
        )
    order = (wanted,) if wanted else ("egl", "osmesa")
    for backend in order:
        if (_has_egl if backend == "egl" else _has_osmesa)():
            return backend
    raise MissingGL(
        f"Expected off-screen OpenGL for Meta-World's cameras, found none ({' and '.join(order)} "
        f"tried): {INSTALL}."
    )


def open_context(size: tuple[int, int]) -> Any:
    """A GL context of MuJoCo's (`make_current`, `free`) for pictures of `size`, height and width.

    Raises:
        MissingGL: there is no off-screen OpenGL, or it breaks when used.
    """
    backend = find_backend()
    height, width = size
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco import GLContext
        return GLContext(width, height)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise MissingGL(f"OpenGL through {backend} fails here ({error}): {INSTALL}.") from error


def _has_osmesa() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def _has_egl() -> bool:
    """Whether some EGL device (a GPU, or Mesa's software one) can be initialised."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    query_at = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_at = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not (query_at and display_at):
        return False
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    query = ctypes.CFUNCTYPE(integer, integer, pointer, pointer)(query_at)
    get_display = ctypes.CFUNCTYPE(pointer, integer, pointer, pointer)(display_at)
    devices, count = (pointer * 16)(), integer()
    if not query(len(devices), ctypes.addressof(devices), ctypes.addressof(count)):
        return False
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    displays = (get_display(_EGL_PLATFORM_DEVICE, d, None) for d in devices[: count.value])
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


if __name__ == "__main__":  # `make software-gl`; this file needs nothing but Python
    try:
        print(f"off-screen OpenGL: {find_backend()}")
    except ValueError as missing:
        sys.exit(str(missing))
