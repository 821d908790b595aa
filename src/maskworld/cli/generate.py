"""`maskworld generate`: dream a video with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_QUIET = tyro.conf.arg(help_behavior_hint="")
Box = tuple[int, int, int, int]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]


@dataclass(frozen=True)
class GenerateOptions:
    """Dream a video: from words, an image, actions, or by filling in parts of a video. What you
    give stays as it is; the rest is predicted.

    Examples:
      maskworld generate run/model --image street.png --out dream.mp4
      maskworld generate run/model --image street.png --actions drive.csv --num-frames 40
      maskworld generate run/model --task text-to-video --prompt "autumn dusk, turning left"
      maskworld generate run/model --task inpainting --video in.mp4 --box 40 20 64 48
      maskworld generate run/model --task stylization --video in.mp4 --prompt "night"
      maskworld generate run/model --task interpolation --image first.png last.png
      maskworld generate rw/model --video past.mp4 --gamma 1.4 --out dream.mp4     (ReWorld)
      maskworld generate gwm/model --image front.png --actions drive.csv --num-frames 200
      maskworld generate gwm/model --video rig/ --num-context 3 --num-frames 200   (MaskGWM)
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Folder of a trained model (RUN/model), or its name on the Hugging Face Hub."""
    task: str = "auto"
    """text-to-video, image-to-video, action-to-video, inpainting, stylization or interpolation;
    auto: what the inputs suggest."""
    prompt: str = ""
    """What to show, in words."""
    image: Annotated[
        tuple[Path, ...], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")
    ] = ()
    """The first frame; for interpolation the first and the last. MaskGWM of several cameras: one
    for each, named after them (front.png front_left.png), or one of the first camera alone."""
    video: File = None
    """A video to continue (--num-context frames of it), fill in, restyle, or whose ends to join.
    For a model of foreign codes: a .npy array of codes. ReWorld and MaskGWM continue its last
    frames. MaskGWM of several cameras: a folder with a video named after each (front.mp4, ...),
    or one video with them side by side, as it writes them itself."""
    num_context: Count = None
    """Frames at the start of --video that are given when its future is predicted; default: 1.
    ReWorld is always given as many as it was trained with, from the end. MaskGWM: 1 to 3, from the
    end."""
    actions: File = None
    """.npy, .csv or .json with one row of numbers per frame; row t is the step into frame t. For
    ReWorld one row per future frame, or one for every frame of its window. For MaskGWM one row per
    frame of the video or per future frame, in the order of its signals; nan = not known."""
    box: Annotated[Box | None, tyro.conf.arg(metavar="X Y WIDTH HEIGHT"), _QUIET] = None
    """Region to fill in by inpainting, in pixels of --video."""
    mask: File = None
    """Image, white where inpainting fills in; instead of --box."""
    keep: float | None = None
    """Share of the video's tokens that stylization keeps as they are, in (0, 1), as in the paper;
    default: none are, the video is read as a reference, or 0.25 for models that cannot."""
    num_frames: Count = None
    """Length of the result, given frames included; default: the model's window. Longer ones come
    window by window. MaskGWM keeps finished rounds in OUT.rounds until the video is whole: stopped,
    the same command goes on, to the same video."""
    steps: Count = None
    """Decoding steps per window; default: as the model was released."""
    order: Annotated[Literal["confidence", "random", "halton"] | None, _QUIET] = None
    """Which tokens are decided first; default: as the model was released."""
    scope: Annotated[Literal["tube", "frame", "clip"] | None, _QUIET] = None
    """What is decided together; default: as the model was released."""
    temperature: Number = None
    """Randomness of the tokens, 0 = most likely; default: as the model was released."""
    guidance_scale: Number = None
    """How much the prompt counts, 1 = no guidance; default: as the model was released."""
    gamma: Number = None
    """ReWorld: self-guidance, 1 = none; default: as the model was released."""
    cfg_scale: Number = None
    """ReWorld, MaskGWM: classifier-free guidance, 1 = none; default: as the model was released."""
    seed: int = 0
    """The same seed gives the same video."""
    device: str = "auto"
    """cpu, cuda, mps; auto: a GPU where there is one."""
    out: Path = Path("dream.mp4")
    """The video to write, several cameras side by side from left to right; a name ending in .npy
    takes the tokens instead."""


def generate(options: GenerateOptions) -> None:
    """Reads and checks all inputs, dreams, writes one file."""
    from maskworld.cli.dreaming import generate_video

    generate_video(options)
