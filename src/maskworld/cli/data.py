"""`maskworld data ...`: collect, import, curate, check and look at training data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from maskworld.cli.data_mine import Mine
from maskworld.cli.data_robot import ImportLibero, ImportRlbench, MasksLibero, Segment
from maskworld.cli.errors import nearest

EXAMPLES = "\n\nExamples:\n"
Size = Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")]
Rate = Annotated[float | None, tyro.conf.arg(metavar="HZ")]
In = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]

HELP = """\
usage: maskworld data COMMAND [options]

Everything between recordings and training: all commands write LeRobot v3.0 datasets (tokens: a
folder of .npy arrays), whole or not at all.

commands:
{commands}

`maskworld data COMMAND --help` for one of them.

examples:
  maskworld data collect drive --out drives --num-worlds 50
  maskworld data collect metaworld --tasks drawer-open-v3 --out robot
  maskworld data import video my_videos/ --out videos --size 128 192 --fps 10
  maskworld data curate my_videos/ --out clips --size 128 192 --fps 10
  maskworld data check clips --num-frames 16
  maskworld data show clips --out clips.png
"""


@dataclass(frozen=True)
class Writing:
    """How a dataset is written."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The dataset to make."""
    size: Size = None
    """Height and width that frames are resized and cropped to; default: as they are."""
    fps: Rate = None
    """Lower frame rate to bring recordings to; default: as they are."""
    codec: Literal["auto", "png", "av1", "h264", "h264-lossless"] = "auto"
    """auto: png (lossless) up to 160x128 pixels, else av1."""
    skip_bad: bool = False
    """Leave out what cannot be read, and list it, instead of stopping."""
    overwrite: bool = False
    """Replace what stands at --out, once the new dataset is complete."""


@dataclass(frozen=True)
class CollectDrive:
    """Record expert and free drives in the driving world, with labels, actions and captions.

    Examples:
      maskworld data collect drive --out drives
      maskworld data collect drive --out drives --num-worlds 200 --num-workers 8 --num-cameras 6
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The dataset to make."""
    num_worlds: int = 20
    """Worlds: one road network with one traffic each, of consecutive seeds."""
    episodes_per_world: int = 4
    num_frames: int = 40
    """Frames per episode."""
    size: Annotated[tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH")] = (96, 160)
    fps: Annotated[float, tyro.conf.arg(metavar="HZ")] = 5.0
    num_cameras: int = 1
    """1 to 6 around the car."""
    styles: Names = ()
    """Seasons and times of day to draw from (summer, autumn, winter, dusk, night, ...); default:
    all."""
    seed: int = 0
    """Seed of the first world."""
    num_workers: int = 1
    """Processes; the result does not depend on it."""
    overwrite: bool = False
    """Replace what stands at --out, once the new dataset is complete."""


@dataclass(frozen=True)
class CollectMetaworld:
    """Record Meta-World's scripted experts: images, masks, instruction, hand and gripper, actions.
    Stopped in the middle, the same command goes on. Needs the extra `robot` and off-screen OpenGL.

    Examples:
      maskworld data collect metaworld --tasks drawer-open-v3 window-open-v3 --out robot
      maskworld data collect metaworld --tasks reach-v3 --episodes 100 --out reach --workers 4
    """

    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ...")]
    """Names of Meta-World, for instance button-press-topdown-v3."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The dataset to make."""
    episodes: int = 40
    """Episodes per task."""
    cameras: Names = ("corner4", "gripperPOV")
    """Third person first, then wrist; also corner, corner2, corner3, topview, behindGripper."""
    size: Annotated[tuple[int, int], tyro.conf.arg(metavar="HEIGHT WIDTH")] = (128, 128)
    seed: int = 0
    """First seed of every task; training seeds never meet those of evaluation."""
    keep_failures: bool = False
    """Keep episodes without success, marked, instead of recording others in their place."""
    action_noise: float = 0.0
    """Standard deviation of noise on the hand's motion, so that experts show how to recover."""
    max_steps: int = 500
    """Steps after which an episode has failed."""
    perturb: Annotated[str, tyro.conf.arg(metavar="NAME[=LEVEL][+...]")] = ""
    """Change the look, not the physics: light, table-texture=0.5, light+distractors. Masks recorded
    with it and without show what a model still recognises."""
    workers: int = 2
    """Processes; the result does not depend on it."""
    overwrite: bool = False
    """Replace what stands at --out, once the new dataset is complete."""


@dataclass(frozen=True)
class ImportVideo:
    """Import a video or a folder of videos. Beside a video of the same name: .txt is its caption,
    .npy or .csv its actions (one row per frame), NAME.mask-CLASS.mp4 a mask.

    Examples:
      maskworld data import video drive.mp4 --out drive --size 128 192 --fps 10
      maskworld data import video robot/ --out robot --masks robot=mask_robot.mp4
    """

    path: In
    """A video, or a folder of them."""
    writing: tyro.conf.OmitArgPrefixes[Writing]
    masks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CLASS=FILE ...")] = ()
    """Where the mask videos lie, relative to a video; {stem} stands for its name."""
    resume: bool = False
    """Keep finished episodes if interrupted, and go on from them next time."""


@dataclass(frozen=True)
class ImportLerobot:
    """Import a LeRobot dataset (v2.0, v2.1 or v3.0), for instance to a smaller size.

    Examples:
      maskworld data import lerobot ~/datasets/pusht --out pusht --size 128 128
    """

    path: In
    """The folder that holds `meta`."""
    writing: tyro.conf.OmitArgPrefixes[Writing]
    views: Names = ()
    """Cameras to keep; default: all."""
    resume: bool = False
    """Keep finished episodes if interrupted, and go on from them next time."""


@dataclass(frozen=True)
class ImportTokens:
    """Import arrays of codes of a tokenizer: (frames, tokens) or (frames, h, w) integers.

    Examples:
      maskworld data import tokens commavq_minute.npy --out commavq
      maskworld data import tokens codes/ --out codes-set --grid 16 16 --vocab-size 8192 --fps 10
    """

    path: In
    """A .npy or .npz file, or a folder of .npy files."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make."""
    grid: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="ROWS COLUMNS")] = None
    """Of codes per frame; known for commaVQ (8 16)."""
    vocab_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of codes; default: 1024 for commaVQ, else the largest code plus one."""
    fps: Rate = None
    """Frames per second; known for commaVQ (20)."""
    overwrite: bool = False
    """Replace what stands at --out, once the new one is complete."""


@dataclass(frozen=True)
class ImportWebdataset:
    """Import videos, or images, of tar shards (WebVid, LAION): mp4 or jpg with txt and json.

    Examples:
      maskworld data import webdataset "web-{000..009}.tar" --out web --size 256 256 --fps 8
      maskworld data import webdataset laion/ --out images --kind image --size 256 256
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SHARDS")]
    """A folder, a pattern with braces, or a URL."""
    writing: tyro.conf.OmitArgPrefixes[Writing]
    kind: Literal["video", "image"] = "video"
    max_watermark: float = 0.5
    """Rows above this watermark probability are left out; 1 = none."""
    max_nsfw: float = 0.45
    """Rows above this NSFW probability are left out; 1 = none."""
    max_samples: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after so many kept samples."""
    resume: bool = False
    """Keep finished episodes if interrupted, and go on from them next time."""


@dataclass(frozen=True)
class ImportNuscenes:
    """Import nuScenes: scenes at 12 Hz with speed and yaw rate, from its JSON tables.

    Examples:
      maskworld data import nuscenes /data/nuscenes --out nuscenes --size 192 320
      maskworld data import nuscenes /data/nuscenes --out val --scenes val.txt --size 192 320
    """

    path: In
    """The data root, with v1.0-trainval (or v1.0-mini), samples and sweeps."""
    writing: tyro.conf.OmitArgPrefixes[Writing]
    version: str | None = None
    """Folder of the tables; default: the only one there."""
    cameras: Names = ("CAM_FRONT",)
    """Channels to use as views."""
    key_frames: bool = False
    """Only key frames (2 Hz) instead of all pictures (12 Hz)."""
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Text file with one scene name per line (a split); default: all."""
    resume: bool = False
    """Keep finished episodes if interrupted, and go on from them next time."""


@dataclass(frozen=True)
class Curate:
    """Split recordings at scene cuts; drop slow, short, duplicate and unwanted scenes; caption the
    rest. Writes a dataset with a report in it, DIR/meta/curation.json.

    Examples:
      maskworld data curate my_videos/ --out clips --size 128 192 --fps 10
      maskworld data curate my_videos/ --report curation.json        # only judge
      maskworld data curate my_videos/ --out clips --captioner Salesforce/blip-image-captioning-base
    """

    path: In
    """Videos or a LeRobot dataset."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The dataset to make."""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to write the report as JSON too."""
    scene_threshold: float = 27.0
    """Change between frames that is a cut (PySceneDetect's); 0 = do not look for cuts."""
    keep_whole: bool = False
    """Recordings stay whole and kept scenes become segments, instead of episodes."""
    min_frames: int = 16
    """Shorter scenes are dropped."""
    min_motion: float = 2.0
    """Scenes with less optical flow are dropped; per cent of the width per second."""
    max_watermark: float = 0.5
    """Recordings whose row has a higher watermark probability are dropped."""
    max_nsfw: float = 0.45
    """Recordings whose row has a higher NSFW probability are dropped."""
    rows: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Table of scores (.csv, .jsonl, .parquet) with file_name; default: `metadata` in PATH, and
    the .json beside each video."""
    duplicate_bits: int = 12
    """Scenes that differ in at most so many of 192 hash bits are duplicates; -1 = keep all."""
    captioner: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Image-to-text model of transformers (folder or Hub id) for new captions; default: captions
    that are there."""
    size: Size = None
    """Height and width that frames are resized and cropped to; default: as they are."""
    fps: Rate = None
    """Lower frame rate to bring recordings to; default: as they are."""
    codec: Literal["auto", "png", "av1", "h264", "h264-lossless"] = "auto"
    skip_bad: bool = False
    """Leave out what cannot be read, and list it, instead of stopping."""
    overwrite: bool = False
    """Replace what stands at --out, once the new dataset is complete."""


@dataclass(frozen=True)
class Check:
    """Read a whole set, say what it holds, and list every problem. The exit code is 2 if there is
    one.

    Examples:
      maskworld data check drives
      maskworld data check drives --recipe worlddreamer-tiny
    """

    path: In
    """A LeRobot dataset, videos, images, tokens or tar shards."""
    sample: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Read so many episodes, evenly spread, instead of all."""
    num_frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Count the clips of this length."""
    frame_stride: int = 1
    clip_stride: int = 1
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Count the clips that this recipe would train on."""


@dataclass(frozen=True)
class Show:
    """Draw a contact sheet: clips as rows, moments as columns, captions, labels, actions.

    Examples:
      maskworld data show drives --out drives.png
      maskworld data show "web-{000..009}.tar" --out web.png --num-rows 12
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """A LeRobot dataset, videos, images, tokens or tar shards."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.png")] = Path("contact-sheet.png")
    num_rows: int = 8
    num_columns: int = 8
    first: int = 0
    """Number of the first episode to show."""
    thumb_width: int = 168
    """Pixels."""


@dataclass(frozen=True)
class Command:
    """Words of the command line, and what they mean."""

    words: tuple[str, ...]
    options: type
    summary: str = field(default="")


COMMANDS = (
    Command(("collect", "drive"), CollectDrive, "record the driving world"),
    Command(("collect", "metaworld"), CollectMetaworld, "record Meta-World's experts"),
    Command(("import", "video"), ImportVideo, "videos with captions, actions and masks"),
    Command(("import", "lerobot"), ImportLerobot, "LeRobot datasets v2.0, v2.1, v3.0"),
    Command(("import", "tokens"), ImportTokens, "arrays of codes, such as commaVQ"),
    Command(("import", "webdataset"), ImportWebdataset, "tar shards, such as WebVid and LAION"),
    Command(("import", "nuscenes"), ImportNuscenes, "nuScenes, from its JSON tables"),
    Command(("import", "libero"), ImportLibero, "LIBERO's demonstrations"),
    Command(("import", "rlbench"), ImportRlbench, "RLBench's saved demonstrations"),
    Command(("masks", "libero"), MasksLibero, "draw masks of LIBERO's demonstrations"),
    Command(("segment",), Segment, "make masks for recordings without"),
    Command(("curate",), Curate, "scenes, motion, scores, duplicates, captions"),
    Command(("mine",), Mine, "hard negatives for planners, in the driving world"),
    Command(("check",), Check, "read all of a set and list its problems"),
    Command(("show",), Show, "draw a contact sheet"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `maskworld data` command line; returns its exit code.

    Raises:
        ValueError: unknown words, or what the user's data make impossible.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands=_list_commands()), end="")
        return 0
    command = _find_command(arguments)
    if command is None:  # `maskworld data import --help`
        print(f"commands:\n{_list_commands(arguments[0])}")
        return 0
    text, _, examples = cleandoc(command.options.__doc__ or "").partition(EXAMPLES)
    try:
        options: Any = tyro.cli(
            command.options,
            prog=f"maskworld data {' '.join(command.words)}",
            description=text,
            args=arguments[len(command.words) :],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except SystemExit as stop:  # tyro has printed its help, or what was wrong
        if stop.code == 0 and examples:
            print(f"examples:\n{examples.rstrip()}")
        return stop.code if isinstance(stop.code, int) else 1
    from maskworld.cli.data_commands import run_command

    return run_command(options)


def _find_command(arguments: Sequence[str]) -> Command | None:
    """The command of the first words; None if a group is asked for help."""
    for command in COMMANDS:
        if tuple(arguments[: len(command.words)]) == command.words:
            return command
    group = [c for c in COMMANDS if c.words[0] == arguments[0]]
    if group and arguments[1:2] in ([], ["-h"], ["--help"]):
        return None
    place = 1 if group and len(arguments) > 1 else 0
    choices = list(dict.fromkeys(c.words[place] for c in group or COMMANDS))
    before = f" after {arguments[0]!r}" if place else ""
    raise ValueError(
        f"Expected one of {', '.join(choices)}{before}, found {arguments[place]!r}."
        f"{nearest(arguments[place], choices)} See `maskworld data --help`."
    )


def _list_commands(group: str | None = None) -> str:
    chosen = [c for c in COMMANDS if group is None or c.words[0] == group]
    width = max(len(" ".join(c.words)) for c in chosen)
    return "\n".join(f"  {' '.join(c.words):<{width}}  {c.summary}" for c in chosen)
