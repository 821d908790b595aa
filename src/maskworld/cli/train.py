"""`maskworld train`: a recipe on the user's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Count = Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="X", help_behavior_hint="")]
Counts = Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="")]


@dataclass(frozen=True)
class TrainOptions:
    """Train a recipe on videos, images, LeRobot datasets, recordings of robots, tar shards or
    tokens. Writes checkpoints, TensorBoard curves and samples into a run folder, and the finished
    model into RUN/model. Ctrl-C saves a checkpoint; the same command with --resume goes on, bit for
    bit.

    Examples:
      maskworld train worlddreamer-tiny --data clips/ --out run
      maskworld train worlddreamer-tiny --data clips/ photos/ --weights 0.8 0.2 --out run
      maskworld train worlddreamer-tiny --data clips/ --out run --resume
      maskworld train worlddreamer-tiny --data clips/ --init run/model --num-frames 16 --out long
      maskworld train reworld-tiny --data nuscenes/ --pool pool/ --out run
      maskworld train reworld-tiny --data clips/ --stages video --out run
      maskworld train reworld-tiny --data nuscenes/ --start-at action --init run/model --out plans
      maskworld train reworld-tiny --data drives/ --start-at joint --init run/model --mine-online
      maskworld train reworld-tiny --data drives/ --stages standard --out rival
      maskworld train mask-world-model-tiny --data robot/ --color-jitter --out run
      maskworld train mask-world-model-tiny --data videos_with_masks/ --stages dynamics --out run
      maskworld train mask-world-model-tiny --data task/ --start-at policy --init run/model
      maskworld train maskgwm-tiny --data drives/ --cameras front front_left --out run
      maskworld train maskgwm-tiny --data drives/ --no-reconstruction --out baseline
      torchrun --nproc-per-node 8 -m maskworld train worlddreamer-paper --tokenizer vqvae/ \\
        --data "web-{000..099}.tar" --out run
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """Which recipe: `maskworld recipes` lists them."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")] = ()
    """What to train on, one or several: a video, a folder of videos or of images, folders of
    numbered frames (OpenDV-2K), a LeRobot dataset, nuScenes, Waymo, logs of nuPlan (*.db) or
    OpenScene (*.jsonl), comma2k19, demonstrations of LIBERO (*.hdf5) or RLBench, tar shards
    ("web-{000..099}.tar"), a .npy of tokens. Masks that `maskworld data segment` made beside a
    robot's recordings are found."""
    out: Path = Path("run")
    """The run folder."""
    weights: Annotated[
        tuple[float, ...], tyro.conf.arg(metavar="X ...", help_behavior_hint="(default: equal)")
    ] = ()
    """How often each of --data is drawn, in any unit."""
    resume: bool = False
    """Go on from the newest checkpoint of the run folder."""
    init: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None
    """Start from a trained model, at this or another length and frame size; its tokenizer stays."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Published tokenizer weights, for recipes that stand on them: aMUSEd's VQ for WorldDreamer,
    LTX-Video's VAE for ReWorld and Mask World Model (the file or its folder), SD3's VAE for
    MaskGWM (its folder, or that of the whole release, which brings the text encoders)."""
    video_weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = (
        None
    )
    """Published transformer to start from, of the recipe's shape (the file or its folder):
    LTX-Video's for ReWorld and Mask World Model, Stable Diffusion 3's for MaskGWM."""
    stages: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="STAGE ...", help_behavior_hint="(default: all)")
    ] = ()
    """Which stages to train, in the recipe's order. ReWorld: video, action, joint; or standard
    alone, which trains video and actions at once (Eq. 5). Mask World Model: dynamics, which needs
    masks and no actions; policy, which needs actions and no masks. MaskGWM: image (single frames),
    video, masked. A tokenizer that learns is always trained first, unless --init brings one."""
    start_at: Annotated[str | None, tyro.conf.arg(metavar="STAGE", help_behavior_hint="")] = None
    """The first of these stages to train; those before it come from --init."""
    cameras: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")
    ] = ()
    """MaskGWM: which cameras, in this order (front, front_left, ...; CAM_FRONT is front); default:
    the recipe's number of those that the data have, from the front one on. Recordings of the first
    camera alone may stand beside those of all."""
    no_reconstruction: bool = False
    """MaskGWM: hide no tokens in any stage: the baseline of the paper's ablation, with the same
    network, data and steps."""
    target: Annotated[Literal["mask", "rgb"] | None, tyro.conf.arg(help_behavior_hint="")] = None
    """What Mask World Model predicts: masks, or pictures (the baseline of the same size, which
    needs no masks); default: the recipe's."""
    color_jitter: bool = False
    """Mask World Model: change colours of the pictures at random, those of a clip's camera alike,
    by the paper's amounts; masks stay."""
    recolor: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="CLASS ...", help_behavior_hint="")
    ] = ()
    """Mask World Model: paint these classes (table, background) in new colours at random, inside
    their masks; reads masks in every stage."""
    no_world_model: bool = False
    """Train stage action alone on a video tower that never saw a video: ReWorld's planner without a
    world model, of equal size, to stand beside it. --init brings tokenizer and ranges."""
    pool: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """Scored candidates of the training scenes (`maskworld data mine`), from which stage joint
    takes its hard negatives."""
    mine_online: bool = False
    """Mine hard negatives while stage joint trains, instead of --pool: candidates of the scenes in
    every batch, scored as they come. For drives of `maskworld data collect`, or --mining-scenes."""
    mining_every: Count = None
    """With --mine-online: batches for which a scene's negative is kept; default: 50."""
    mining_scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = (
        None
    )
    """With --mine-online: map and traffic of every moment, as DIR/TOKEN.json (docs/pdms.md)."""
    generator: Annotated[
        str | None, tyro.conf.arg(metavar="DIR|planner", help_behavior_hint="")
    ] = None
    """With --mine-online, who proposes: a saved generator of trajectories, or the planner itself as
    it is by then; default: a generator trained on the experts, kept in RUN/generator."""
    num_candidates: Count = None
    """With --mine-online: per scene; default: 64, as ReWorld."""
    cfg_scale: Number = None
    """With --mine-online: how far candidates follow what the generator sees, 0 = not, 1 = fully;
    default: 0.5, as BeyondDrive."""
    noise_scale: Number = None
    """With --mine-online: spread of the noise that candidates start from; default: 0.4, as
    BeyondDrive."""
    threshold: Number = None
    """A candidate that scores below is unsafe; default: 0.6, as ReWorld."""
    metric: Annotated[
        Literal["NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS"] | None,
        tyro.conf.arg(help_behavior_hint=""),
    ] = None
    """Which score that is; default: PDMS, as ReWorld."""
    steps: Count = None
    """Optimizer steps of each stage; default: the recipe's."""
    tokenizer_steps: Count = None
    """Optimizer steps of the tokenizer's own stage; default: the recipe's."""
    batch_size: Count = None
    """Clips per step and process; default: the recipe's."""
    learning_rate: Number = None
    """Peak learning rate; default: the recipe's."""
    num_frames: Counts = ()
    """Frames of a training window; default: the recipe's. MaskGWM takes several lengths (16 20 24)
    and draws one for every batch."""
    frame_size: Annotated[
        tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH", help_behavior_hint="")
    ] = None
    """Size that all frames are cut and scaled to; default: the recipe's."""
    fps: Number = None
    """Frames per second of a window: faster recordings are thinned out; default: the recipe's, for
    tokens the data's."""
    clip_stride: Count = None
    """Frames between the starts of two windows; default: the recipe's."""
    seed: int = 0
    """Of the weights, the order of the data and the masks."""
    device: str = "auto"
    """cpu, cuda, mps; auto: a GPU where there is one."""
    precision: Annotated[Literal["fp32", "bf16"] | None, tyro.conf.arg(help_behavior_hint="")] = (
        None
    )
    """Default: the recipe's."""
    compile: bool = False
    """Use torch.compile."""
    workers: int = 0
    """Processes that load data, per training process."""
    save_every: Count = None
    """Steps between checkpoints; default: the recipe's."""
    sample_every: Count = None
    """Steps between samples in RUN/samples, 0 = none; default: four times per stage."""
    tracker: Literal["none", "wandb", "trackio"] = "none"
    """A service to report to, besides TensorBoard."""

    @property
    def window(self) -> int | None:
        """The one length of --num-frames; None if not given.

        Raises:
            ValueError: several.
        """
        if len(self.num_frames) > 1:
            lengths = " ".join(map(str, self.num_frames))
            raise ValueError(
                f"Expected one --num-frames for {self.recipe}, found {lengths}: only MaskGWM "
                "trains on several lengths."
            )
        return self.num_frames[0] if self.num_frames else None


def train(options: TrainOptions) -> None:
    """Checks the data, trains, writes RUN/model."""
    from maskworld.cli.training import run_training

    run_training(options)
