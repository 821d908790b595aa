"""`maskworld score ...`: score what is already there, plans or videos, without a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskworld.cli.errors import nearest

EXAMPLES = "\n\nExamples:\n"
HELP = """\
usage: maskworld score WHAT [options]

Score what is already there: no model is loaded and nothing is trained.

what:
{commands}

`maskworld score WHAT --help` for one of them.

examples:
  maskworld score pdms scene.json --out result.json
  maskworld score pdms scenes/*.json
  maskworld score fvd real/ dreamt/ --weights i3d_pretrained_400.pt --out result.json
  maskworld score fvd real/ dreamt/ --preset vista-5369 --weights i3d.pt --fid-weights inception.pth
  maskworld score fvd real/ dreamt/ --paired --condition-frames 1
  maskworld score compare ours.json theirs.json
"""

File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class ScorePdms:
    """Score the plans of scenes by NAVSIM v1's PDM score: collisions, drivable area, progress, time
    to collision, comfort (docs/pdms.md describes the files). One scene: a table of its plans.
    Several: means over scenes, plans of one name together.

    Examples:
      maskworld score pdms scene.json
      maskworld score pdms scene.json --out result.json
      maskworld score pdms scenes/*.json --out results.json
    """

    scenes: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SCENE.json")]
    """Scene files with plans."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RESULT.json")] = None
    """Where to write all results, simulated states included; an earlier file is replaced."""
    pool: bool = False
    """Compare progress among all plans of a scene and the reference, as hard negatives are mined,
    instead of with the reference alone."""
    skip_bad: bool = False
    """Leave out scenes that cannot be scored, and list them, instead of stopping."""


@dataclass(frozen=True)
class ScoreFvd:
    """Score a folder of dreamt videos against a folder of real ones: FVD and KVD with the floor of
    real against real, the value for infinitely many clips, intervals, and the protocol they hold
    for (docs/video_metrics.md). Without --weights the proxy is computed, under its own name.

    Examples:
      maskworld score fvd real/ dreamt/ --weights i3d_pretrained_400.pt --out result.json
      maskworld score fvd real/ dreamt/ --preset vista-5369 --weights i3d_pretrained_400.pt
      maskworld score fvd real/ dreamt/ --weights i3d.pt --fid-weights inception.pth --frames 25
      maskworld score fvd real/ dreamt/ --paired --condition-frames 1
    """

    real: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="REAL")]
    """Folder of real videos, or a split of Waymo (version 2, with camera_image/)."""
    dreamt: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DREAMT")]
    """Folder of dreamt videos, at the same frame rate."""
    weights: File = None
    """I3D: i3d_pretrained_400.pt, i3d_torchscript.pt, or their tensors as safetensors."""
    backend: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """i3d-tats or i3d-stylegan-v; default: the preset's, or i3d-tats."""
    run_program: bool = False
    """Run the TorchScript file at --weights instead of reading its tensors: it can do what any
    program can."""
    resize: Annotated[str | None, tyro.conf.arg(metavar="RULE", help_behavior_hint="")] = None
    """Another rule to resize frames for I3D: bilinear-antialias, bilinear-crop, ..."""
    fid_weights: File = None
    """pt_inception-2015-12-05-6726825d.pth: FID and KID too."""
    fid_backend: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """inception-torchmetrics (default), -torch-fidelity, -pytorch-fid or -clean."""
    alexnet: File = None
    """With --lpips-heads and --paired: AlexNet's weights for LPIPS."""
    lpips_heads: File = None
    """The linear heads of LPIPS 0.1 for AlexNet."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Settings of a published evaluation: vista-5369, epona-1646, opendwm, drivewm-900, waymo-600,
    maskgwm-long-300."""
    frames: Count = None
    """Frames of a clip, condition frames counted; default: the preset's, or 16."""
    stride: int = 1
    """Take every n-th frame of the videos."""
    select: Literal["first", "last", "even"] | None = None
    """Which frames of a longer video; default: the preset's, or the first."""
    condition_frames: Count = None
    """Frames at the start of every clip that the model was given; default: the preset's, or 0."""
    leave_out_condition: bool = False
    """Do not score these. A preset knows it for FVD and FID apart."""
    num_clips: Count = None
    """Clips of each folder, the first ones by name; default: the preset's, or all."""
    every: Count = None
    """Several clips of each video, so many frames from one's start to the next's."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W", help_behavior_hint="")] = (
        None
    )
    """Scale both sides to this size while decoding."""
    paired: bool = False
    """The videos of one name belong together: PSNR, SSIM, motion, and LPIPS with its weights."""
    allow_few: bool = False
    """Also with no more clips than FVD has dimensions (400); the number then says little."""
    batch_size: int = 4
    """Clips at a time."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    seed: int = 0
    """Of intervals, floors and drawn frames."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="RESULT.json")] = None
    """Where to write all numbers with their protocols; an earlier file is replaced."""


@dataclass(frozen=True)
class ScoreCompare:
    """Compare two results of `maskworld score fvd`. Numbers of different protocols are refused, and
    the fields that differ are named.

    Examples:
      maskworld score compare ours.json theirs.json
    """

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A.json")]
    """A result."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B.json")]
    """Another one."""


@dataclass(frozen=True)
class Command:
    """A word of the command line, and what it means."""

    word: str
    options: type
    summary: str


COMMANDS = (
    Command("pdms", ScorePdms, "plans, by NAVSIM v1's PDM score"),
    Command("fvd", ScoreFvd, "dreamt videos against real ones: FVD, KVD, FID, PSNR, ..."),
    Command("compare", ScoreCompare, "two results of `score fvd`"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `maskworld score` command line; returns its exit code.

    Raises:
        ValueError: an unknown word, or what the user's files make impossible.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(len(command.word) for command in COMMANDS)
        lines = "\n".join(f"  {c.word:<{width}}  {c.summary}" for c in COMMANDS)
        print(HELP.format(commands=lines), end="")
        return 0
    words = [command.word for command in COMMANDS]
    if arguments[0] not in words:
        raise ValueError(
            f"Expected one of {', '.join(words)}, found {arguments[0]!r}."
            f"{nearest(arguments[0], words)} See `maskworld score --help`."
        )
    command = COMMANDS[words.index(arguments[0])]
    text, _, examples = cleandoc(command.options.__doc__ or "").partition(EXAMPLES)
    try:
        options: Any = tyro.cli(
            command.options,
            prog=f"maskworld score {command.word}",
            description=text,
            args=arguments[1:],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed its help, or what was wrong
        if stop.code == 0 and examples:
            print(f"examples:\n{examples.rstrip()}")
        return stop.code if isinstance(stop.code, int) else 1
    from maskworld.cli.score_commands import run_command

    return run_command(options)
