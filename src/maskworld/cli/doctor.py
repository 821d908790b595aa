"""`maskworld doctor`: what works on this machine, what is missing, what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "missing", "problem"]
GIB = 2**30
LOW_DISK, LOW_MEMORY = 2.0, 2.0  # GiB: below it the quickstart is likely to fail

REQUIRED = ("torch", "numpy", "einops", "safetensors", "pyarrow", "av", "cv2", "tyro", "rich")
OPTIONAL = {
    "transformers": "T5 text encoder, image captioner: pip install 'maskworld[pretrained]'",
    "diffusers": "published VQ and VAE weights: pip install 'maskworld[pretrained]'",
    "highway_env": "the driving world of the quickstart: pip install highway-env",
    "scenedetect": "scene cuts in `data curate`: pip install scenedetect-headless",
    "webdataset": "tar shards: pip install webdataset",
    "torchdata": "the training loader: pip install torchdata",
    "tensorboard": "training curves: pip install tensorboard",
    "matplotlib": "plots of the report: pip install matplotlib",
    "huggingface_hub": "models from and to the Hub: pip install huggingface_hub",
    "wandb": "`--tracker wandb`: pip install wandb",
    "trackio": "`--tracker trackio`: pip install trackio",
    "h5py": "LIBERO's demonstrations: pip install 'maskworld[robot]'",
    "websockets": "`maskworld serve`: pip install 'maskworld[serve]'",
    "msgpack": "`maskworld serve`: pip install 'maskworld[serve]'",
}
ROBOT = ("metaworld", "mujoco", "packaging")
"""What Meta-World needs beside off-screen OpenGL."""


@dataclass(frozen=True)
class DoctorOptions:
    """Check this machine. Every line says ok, missing (something optional) or problem, and what to
    do. The exit code is 0 where maskworld can be used.

    Examples:
      maskworld doctor
      maskworld doctor --out /data/runs      # can this folder be written?
    """

    out: Path = Path()
    """The folder you want to write runs to."""


@dataclass(frozen=True)
class Finding:
    """One line."""

    state: State
    what: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8} {self.what}" + (f" -> {self.advice}" if self.advice else "")


def doctor(options: DoctorOptions) -> int:
    """Prints the findings; 0 unless one of them is a problem."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _required,
        _torch,
        _machine,
        lambda: check_folder(options.out),
        _video,
        _optional,
        check_robot_world,
        _training_step,
    ]
    num_problems = 0
    for check in checks:
        for finding in check():
            num_problems += finding.state == "problem"
            print(finding, flush=True)
        if num_problems and check is _required:
            break  # nothing below could run
    if num_problems:
        print(f"\n{num_problems} problem(s): follow the advice above, then run this again.")
        return 1
    print("\nReady. Next: maskworld quickstart --out first")
    return 0


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    what = f"Python {version} on {platform.system()} {platform.machine()} ({sys.executable})"
    yield Finding("ok", what)  # an older one could not have read this file


def _required() -> Iterator[Finding]:
    absent = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if absent:
        yield Finding("problem", f"packages {', '.join(absent)} not installed", "pip install -e .")
    else:
        yield Finding("ok", f"all {len(REQUIRED)} required packages")


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("ok", f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            memory = found.total_memory / GIB
            yield Finding("ok", f"GPU {index}: {found.name}, {memory:.0f} GiB (--device cuda)")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "Apple GPU (--device mps)")
    else:
        yield Finding("missing", "no GPU", "fine for the -tiny recipes; larger ones want one")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", f"{cores} CPU cores")
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (os.sysconf(n) * page / GIB for n in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        what = f"{total:.1f} GiB memory, {free:.1f} GiB unused"
        if total < LOW_MEMORY:
            yield Finding("problem", what, f"the quickstart needs about {LOW_MEMORY:g} GiB")
        else:
            yield Finding("ok", what)


def check_folder(folder: Path) -> Iterator[Finding]:
    """Writing is tried in the nearest folder that exists; nothing is left there."""
    absolute = Path(os.path.abspath(folder))
    existing = next(path for path in (absolute, *absolute.parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"maskworld")
    except OSError as error:
        yield Finding("problem", f"cannot write to {existing} ({error.strerror})", "pass --out")
        return
    free = shutil.disk_usage(existing).free / GIB
    what = f"can write to {existing}, {free:.1f} GiB free"
    if free < LOW_DISK:
        yield Finding("problem", what, f"free at least {LOW_DISK:g} GiB, or pass --out")
    else:
        yield Finding("ok", what)


def _video() -> Iterator[Finding]:
    import av

    from maskworld.data.video_files import CODECS, can_encode

    writable = [name for name in CODECS if can_encode(name)]
    readable = [name for name in ("h264", "hevc", "vp9", "av1", "mpeg4") if _can_decode(name)]
    what = f"video with PyAV {av.__version__}: reads {', '.join(readable)}"
    if "h264" in writable:
        yield Finding("ok", f"{what}; writes {', '.join(writable)}")
    else:
        yield Finding("problem", f"{what}; cannot write h264", "pip install --force-reinstall av")
    if shutil.which("ffmpeg") is None:
        yield Finding("missing", "no ffmpeg program", "not needed, PyAV brings its own")
    else:
        yield Finding("ok", "ffmpeg program (not needed)")


def _can_decode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "r")
    except ValueError:  # PyAV: no such codec
        return False
    return True


def _optional() -> Iterator[Finding]:
    for name, use in OPTIONAL.items():
        purpose, _, command = use.rpartition(": ")
        if importlib.util.find_spec(name) is None:
            yield Finding("missing", f"{name}: {purpose}", command)
        else:
            yield Finding("ok", f"{name}: {purpose}")


def check_robot_world() -> Iterator[Finding]:
    """Meta-World's packages, and a drawing context through whatever OpenGL there is."""
    what = "the robot world (Meta-World)"
    if absent := [name for name in ROBOT if importlib.util.find_spec(name) is None]:
        packages = f"{what}: {', '.join(absent)} not installed"
        yield Finding("missing", packages, "pip install 'maskworld[robot]'")
    else:
        found = ", ".join(f"{name} {version(name)}" for name in ROBOT[:2])
        yield Finding("ok", f"{what}: {found}")
    from maskworld.worlds.metaworld import software_gl

    try:
        backend = software_gl.find_backend()
        if not absent:
            software_gl.open_context((16, 16)).free()
    except software_gl.MissingGL as error:
        said = str(error).removesuffix(f": {software_gl.INSTALL}.")
        advice = f"{software_gl.INSTALL}; in a checkout: make software-gl"
        yield Finding("missing", f"{what} cannot be drawn: {said}", advice)
    except ValueError as error:  # MUJOCO_GL asks for what is not off-screen
        yield Finding("missing", f"{what} cannot be drawn: {error}", "unset MUJOCO_GL")
    else:
        yield Finding("ok", f"{what} can be drawn: off-screen OpenGL through {backend}")


def _training_step() -> Iterator[Finding]:
    """One training step of a very small WorldDreamer, from pixels to moved weights."""
    import torch

    from maskworld.backbones.stpt import STPTConfig
    from maskworld.systems.worlddreamer import WorldDreamer, WorldDreamerConfig
    from maskworld.tokenizers.patch import PatchTokenizerConfig
    from maskworld.types import Batch

    started = time.perf_counter()  # without the imports
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = WorldDreamer(
            WorldDreamerConfig(
                backbone=STPTConfig(
                    vocab_size=16, dim=16, num_layers=1, num_heads=1, ffn_dim=32, num_conv_blocks=0
                ),
                tokenizer=PatchTokenizerConfig(patch_size=8, num_components=4, vocab_size=16),
                text=None,
                num_frames=4,
                frame_size=(32, 32),
            )
        )
    shape = (2, 1, 4, 3, 32, 32)
    frames = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    tokenizer: Any = system.tokenizer
    tokenizer.fit(frames.flatten(0, 2), generator)
    optimizer = torch.optim.AdamW(system.parameter_groups("world"), lr=1e-3)
    loss = system.training_loss(Batch(frames=frames), "world", generator).total
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    if torch.isfinite(loss):
        yield Finding("ok", f"one training step of a very small model ({seconds:.1f} s)")
    else:
        yield Finding("problem", f"a training step gave loss {float(loss)}", "reinstall torch")
