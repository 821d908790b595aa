"""`maskworld evaluate`: how good is a model, and is it better than doing nothing?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_QUIET = tyro.conf.arg(help_behavior_hint="")
Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
METRICS = ("psnr", "ssim", "actions", "motion", "overlap", "proxy", "fvd", "kvd", "fid")
"""Names of --metrics."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a model's dreams of data it has not seen, beside trivial baselines (copying the last
    frame, a blurred copy, the mean image): PSNR and SSIM by horizon step, whether it obeys its
    actions, and as sets of videos FVD, KVD and FID where you have the networks' weights, else a
    proxy under its own name. ReWorld's plans in the driving world, and Mask World
    Model's masks (beside the mask of now, copied) and its success in Meta-World. Writes
    OUT/metrics.json with intervals and the protocol, OUT/report.html, and OUT/videos/ with real and
    dreamt clips side by side.

    Examples:
      maskworld evaluate run/model --data held_out/ --out scores
      maskworld evaluate run/model --data held_out/ --train-data clips/ --num-clips 500
      maskworld evaluate run/model --data held_out/ --fvd-weights i3d_pretrained_400.pt
      maskworld evaluate gwm/model --data held_out/ --num-frames 200 --num-context 3 --num-clips 8
      maskworld evaluate rw/model --world drive --scenes 200 --out scores          (ReWorld)
      maskworld evaluate rw/model --world drive --reactive --beside plain=plain/model
      maskworld evaluate robot/model --data held_out/ --out scores                 (masks)
      maskworld evaluate robot/model --world metaworld --tasks drawer-open-v3 window-open-v3 \\
        --perturb light table-texture=0.5 light+distractors --beside rgb=rgb/model expert
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Folder of a trained model (RUN/model), or its name on the Hugging Face Hub."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ..."), _QUIET] = ()
    """Data to score on, never trained on: videos, a folder of them, a LeRobot dataset, nuScenes,
    Waymo, tar shards, a .npy of tokens."""
    train_data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ..."), _QUIET] = ()
    """What the model was trained on: baselines that are fitted (mean image, unigram) use it.
    Without it the mean image is of the scored clips, which flatters that baseline."""
    out: Path = Path("evaluation")
    """Gets metrics.json, report.html and videos/; earlier ones there are replaced."""
    num_clips: int = 200
    """Clips to score, spread evenly over the data."""
    num_context: Count = None
    """Given frames; the rest of the window is predicted; default: 1. ReWorld is always given as
    many as it was trained with."""
    num_frames: Count = None
    """Frames of a clip; default: the model's window. MaskGWM dreams longer ones round by round;
    whether they freeze or dissolve is then scored too."""
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ..."), _QUIET] = ()
    """For dreams, only these of psnr, ssim, actions, motion, overlap (of several cameras), proxy,
    fvd, kvd, fid; default: all that model, data and weights allow. WorldDreamer and ReWorld always
    give the frame by frame ones."""
    fvd_weights: File = None
    """I3D for FVD and KVD: i3d_pretrained_400.pt, i3d_torchscript.pt, or their tensors as
    safetensors."""
    fvd_backend: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """i3d-tats (default) or i3d-stylegan-v."""
    run_program: bool = False
    """Run the TorchScript file at --fvd-weights instead of reading its tensors: it can do what any
    program can."""
    resize: Annotated[str | None, tyro.conf.arg(metavar="RULE", help_behavior_hint="")] = None
    """Another rule to resize frames for I3D: bilinear-antialias, bilinear-crop, ..."""
    fid_weights: File = None
    """pt_inception-2015-12-05-6726825d.pth: FID and KID."""
    fid_backend: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """inception-torchmetrics (default), -torch-fidelity, -pytorch-fid or -clean."""
    leave_out_condition: bool = False
    """FVD and FID without the given frames."""
    allow_few: bool = False
    """FVD and FID also with no more clips than they have dimensions; the number then says
    little."""
    batch_size: int = 16
    """Clips at a time."""
    world: Annotated[
        Literal["drive", "metaworld"] | None, tyro.conf.arg(metavar="drive|metaworld"), _QUIET
    ] = None
    """drive, for ReWorld: score plans too, in held-out scenes, by their PDM score. metaworld, for
    Mask World Model: let it act from initial states that are never recorded. Episodes are kept in
    OUT/episodes; the same command goes on where it was stopped."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK ..."), _QUIET] = ()
    """Of Meta-World, for instance drawer-open-v3."""
    episodes: int = 50
    """Of every task, and of every task under every perturbation."""
    perturb: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME[=LEVEL] ..."), _QUIET] = ()
    """With metaworld: light, table-texture=0.5, camera-shift, light+distractors, ..."""
    exec_steps: Count = None
    """With metaworld: actions of a chunk that are carried out; default: as the model was made."""
    step_limit: Count = None
    """With metaworld: steps of an episode; default: 200."""
    ge_compat: bool = False
    """With metaworld: count the limit in chunks, as GE-ACT's script does, up to the world's 500."""
    prune: Annotated[tuple[float, ...], tyro.conf.arg(metavar="X ..."), _QUIET] = ()
    """With metaworld: shares of visual tokens to drop at random, a policy each."""
    workers: int = 1
    """With metaworld: processes; results do not depend on it."""
    scenes: int = 200
    """Scenes of --world."""
    reactive: bool = False
    """With --world: let the planner drive as well, among traffic that reacts."""
    drives: int = 8
    """Worlds that are driven in with --reactive."""
    beside: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=MODEL ..."), _QUIET] = ()
    """With --world: other models of the same system to try beside this one, for instance the
    planner without a world model (`maskworld train --no-world-model`) or the RGB target (--target
    rgb). With metaworld also the word expert."""
    gamma: Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")] = None
    """ReWorld: self-guidance of sampled dreams, 1 = none; default: as the model was released."""
    seed: int = 0
    """Of sampling, masks and intervals."""


def evaluate(options: EvaluateOptions) -> None:
    """Scores the model on the CPU and writes the results."""
    from maskworld.cli.scoring import score_model

    score_model(options)
