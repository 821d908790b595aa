"""`maskworld data mine`: a pool of scored candidates, for the hard negatives of planners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from maskworld.data.dataset import SelectedClips
    from maskworld.policies.trajectory_flow import TrajectoryFlow, TrajectoryFlowConfig
    from maskworld.preparation.mine import MiningReport
    from maskworld.preparation.mining_scenes import MiningScenes
    from maskworld.types import Clip

GENERATOR = "generator"
"""Folder in --out of a generator that was trained here."""
SIZE = (64, 96)
"""Frames that a generator may look at, before it averages them down."""
Worlds = tyro.conf.arg(metavar="FIRST LAST")


@dataclass(frozen=True)
class Mine:
    """Mine hard negatives for a planner in the driving world: a generator of trajectories, trained
    on the experts of the training worlds, proposes candidates of every moment; the PDM score judges
    them. DIR/pool.safetensors keeps all candidates with all scores, so that threshold and metric
    are chosen later, in training (ReWorld, section 3.5). Finished shards are kept if interrupted.

    Give the data that the planner is trained on, or worlds of its own to mine clips in memory.
    Moments are named by the clips' settings: give those that the planner is trained with.

    Examples:
      maskworld data mine --out pool --data drives/ --workers 8
      maskworld data mine --out pool --worlds 0 47 --workers 8
      maskworld data mine --out pool --worlds 0 47 --workers 8 --resume
      maskworld data mine --out other --worlds 0 47 --generator pool/generator --noise-scale 0.3
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder of the pool."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")] = ()
    """Mine every moment of these drives, as `maskworld train --data` reads them: of `maskworld data
    collect`, or any with --mining-scenes. Without it clips of --worlds are made in memory."""
    mining_scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = (
        None
    )
    """Map and traffic of every moment of --data, as DIR/TOKEN.json (docs/pdms.md)."""
    worlds: Annotated[tuple[int, int], Worlds] = (0, 19)
    """Training worlds, both ends included; never those of validation or test."""
    held_out: Annotated[tuple[int, int] | None, Worlds] = None
    """Worlds of validation and test: stop if one of them is among --worlds."""
    clips_per_world: int = 16
    """Expert and ghost in turn; only the experts' moments are mined."""
    num_past: int = 9
    """Frames until now of a clip."""
    num_future: int = 8
    """Frames after now of a clip."""
    fps: Annotated[float, tyro.conf.arg(metavar="HZ")] = 5.0
    """Frames of a clip per second."""
    num_steps: int = 110
    """Length of a world's recording, 10 steps per second."""
    num_candidates: int = 64
    """Per moment (ReWorld: 64)."""
    generator: Annotated[str, tyro.conf.arg(metavar="DIR|train")] = "train"
    """A saved generator, or train one (kept in DIR/generator)."""
    look: Literal["frame", "none"] = "frame"
    """Whether a generator trained here sees the last past frame, or ego state and command alone."""
    dim: int = 64
    """Width of a generator trained here (BeyondDrive: 256)."""
    fit_steps: int = 1000
    """Optimizer steps of a generator trained here."""
    cfg_scale: float = 0.5
    """How far candidates follow what the generator sees: 0 = not, 1 = fully (BeyondDrive: 0.5)."""
    noise_scale: float = 0.4
    """Spread of the noise that candidates start from (BeyondDrive: 0.4; in training 0.2)."""
    threshold: float = 0.6
    """A score below is unsafe (ReWorld: 0.6); for the printed shares, the pool keeps everything."""
    metric: Literal["NC", "DAC", "EP", "TTC", "C", "DDC", "PDMS"] = "PDMS"
    """Which score the printed shares go by (ReWorld: PDMS)."""
    seed: int = 0
    """Of moments, generator and candidates."""
    num_workers: Annotated[int, tyro.conf.arg(aliases=["--workers"])] = 1
    """Processes; the pool does not depend on it."""
    resume: bool = False
    """Go on from the finished shards of an interrupted run."""
    overwrite: bool = False
    """Replace the pool at --out, and drop unfinished shards."""


def run_mine(options: Mine) -> int:
    """Mines as the options say, and prints what was found.

    Raises:
        ValueError: worlds that make no range or are held out, a generator that does not fit, a pool
            of another run at --out.
    """
    # Heavy imports only now: --help stays quick.
    from maskworld.cli.data_commands import _progress
    from maskworld.preparation.candidates import FlowCandidates
    from maskworld.preparation.mine import mine, refuse_existing
    from maskworld.preparation.mining_scenes import held_out_worlds

    refuse_existing(options.out, options.resume, options.overwrite)
    held_out = set[str]()
    datasets, scenes = _open_data(options)
    worlds = _worlds_of(options, scenes)
    if options.held_out is not None:
        kept = _range(options.held_out, "--held-out")
        both = sorted(worlds & set(kept))
        if both:
            raise ValueError(
                f"Expected training worlds only, found held-out ones among "
                f"{'--data' if options.data else '--worlds'}: {both[0]} to {both[-1]}. Negatives "
                "are mined in training worlds alone: leave those out."
            )
        held_out = held_out_worlds(kept)
    try:
        clips, flow = _clips_and_generator(options, datasets)
        with _progress("scenes") as progress:
            report = mine(
                clips,
                FlowCandidates(flow, options.cfg_scale, options.noise_scale),
                options.out,
                scenes=scenes,
                held_out=held_out,
                num_candidates=options.num_candidates,
                seed=options.seed,
                num_workers=options.num_workers,
                resume=options.resume,
                overwrite=options.overwrite,
                report=progress,
            )
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            "Stopped by Ctrl-C; finished shards are kept: the same command with --resume goes on."
        ) from stop
    print(describe(report, options.threshold, options.metric))
    return 0


def describe(report: MiningReport, threshold: float, metric: str) -> str:
    """What was mined and what it took, in a few lines."""
    pool = report.pool
    found = pool.summary(threshold, metric)
    lines = [
        f"{report.path}: {len(pool)} scenes, {found['num_candidates']} candidates each",
        f"scenes with an unsafe candidate ({metric} < {threshold:g}): "
        f"{found['share_with_negative']:.1%}",
        f"unsafe candidates: {found['share_of_unsafe_candidates']:.1%}; mean {metric} "
        f"{found['mean_score']:.3f}, of the best of each scene {found['mean_best_score']:.3f}",
        f"the nearest unsafe one is {found['mean_distance_of_negative_m']:.2f} m from the expert "
        "on average",
    ]
    num_scored = len(pool) - report.num_resumed
    if report.num_resumed:
        lines.append(f"{report.num_resumed} scenes were scored by an earlier run")
    if num_scored:
        each = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in report.parts.items())
        lines.append(
            f"{report.seconds / num_scored:.3f} s per scene by the clock; processor time per "
            f"scene: {each}"
        )
    return "\n".join(lines)


def _open_data(options: Mine) -> tuple[list[SelectedClips], MiningScenes | None]:
    """Every moment of --data that an expert drove, and where its scene is opened; nothing and None
    without data."""
    import warnings

    if not options.data:
        if options.mining_scenes is not None:
            warnings.warn("--mining-scenes has no effect without --data", stacklevel=3)
        return [], None
    from maskworld.cli.reworld_data import experts_of
    from maskworld.cli.reworld_mining import scenes_of
    from maskworld.recipes.open import drives_of, open_dataset, open_source

    datasets = []
    for path in options.data:
        source = open_source(path)
        if isinstance(source, list) or drives_of(source) is None:
            raise ValueError(
                f"Expected drives with the poses of the car in {path}, found none: candidates are "
                "plans, give nuScenes, nuPlan, OpenScene or a LeRobot dataset with a column `ego`."
            )
        now = options.num_past - 1
        opened: Any = open_dataset(source, options.num_past, SIZE, options.fps, plan_frame=now)
        datasets.append(experts_of(opened))
    return datasets, scenes_of(options.mining_scenes, datasets)


def _worlds_of(options: Mine, scenes: MiningScenes | None) -> set[int]:
    """The worlds that are mined; none are known of scene files."""
    from maskworld.preparation.mining_scenes import CollectedDrives

    if isinstance(scenes, CollectedDrives):
        return {world for world, _, _ in scenes.episodes.values()}
    return set() if scenes is not None else set(_range(options.worlds, "--worlds"))


def _clips_and_generator(
    options: Mine, datasets: list[SelectedClips]
) -> tuple[list[Clip], TrajectoryFlow]:
    """Clips with as much of a picture as the generator looks at, and the generator, trained or
    opened."""
    from maskworld.nn.release import CONFIG_FILE
    from maskworld.policies.trajectory_flow import TrajectoryFlow, TrajectoryFlowConfig
    from maskworld.preparation.candidates import check_sight
    from maskworld.preparation.planning_clips import collect_planning_clips

    kept = options.out / GENERATOR
    place = Path(options.generator) if options.generator != "train" else None
    config = TrajectoryFlowConfig(dim=options.dim, picture=options.look)
    flow = None
    if place is not None:
        flow = TrajectoryFlow.from_pretrained(place)
        config = flow.config
    elif options.resume and (kept / CONFIG_FILE).is_file():
        flow = TrajectoryFlow.from_pretrained(kept)
        if flow.config != config:
            raise ValueError(
                f"Expected the generator of this run in {kept}, found one of other --dim or "
                "--look: give the same ones, or pass --overwrite without --resume."
            )
    check_sight(config, options.num_past)
    seen = slice(options.num_past - config.num_past, options.num_past)
    if datasets:
        clips = [
            _seen(each.get(number, number), seen)
            for each in datasets
            for number in range(len(each))
        ]
        return clips, flow or _train(options, config, clips)
    clips = collect_planning_clips(
        _range(options.worlds, "--worlds"),
        options.clips_per_world,
        num_past=options.num_past,
        num_future=options.num_future,
        size=SIZE if config.picture == "frame" else (16, 24),
        fps=options.fps,
        num_steps=options.num_steps,
        seed=options.seed,
        num_workers=options.num_workers,
    )
    clips = [
        _seen(clip, seen)
        for clip in clips
        if clip.plan is not None and clip.plan.trajectory is not None
    ]
    return clips, flow or _train(options, config, clips)


def _seen(clip: Clip, frames: slice) -> Clip:
    """As much of a clip as the generator looks at."""
    from dataclasses import replace

    pixels = None if clip.frames is None else clip.frames[:1, frames].clone()
    return replace(clip, frames=pixels, labels=None, actions=None)


def _train(options: Mine, config: TrajectoryFlowConfig, clips: list[Clip]) -> TrajectoryFlow:
    import torch

    from maskworld.policies.trajectory_flow import fit_trajectory_flow
    from maskworld.types import collate

    generator = torch.Generator().manual_seed(options.seed)
    flow = fit_trajectory_flow(
        collate(clips), generator, config=config, num_steps=options.fit_steps
    )
    flow.save_pretrained(options.out / GENERATOR)
    return flow


def _range(ends: tuple[int, int], name: str) -> range:
    first, last = ends
    if not 0 <= first <= last:
        raise ValueError(
            f"Expected {name} FIRST LAST with 0 <= FIRST <= LAST, found {first} {last}."
        )
    return range(first, last + 1)
