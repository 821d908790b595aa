"""The user's recordings as ReWorld reads them: clips, experts' plans, hard negatives."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskworld.cli.adapt import actions_of
from maskworld.cli.stage_data import StageData, Windows, windows_of_stage
from maskworld.cli.train import TrainOptions
from maskworld.data.dataset import ClipDataset, SelectedClips
from maskworld.recipes.open import Source, drives_of, open_dataset
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorldConfig
from maskworld.training.config import Stage
from maskworld.training.distributed import processes_from_environment
from maskworld.types import Clip, PlanBatch, PlanSample, collate

if TYPE_CHECKING:
    from maskworld.preparation.mining_pool import NegativePool

NEEDS_EXPERTS = ("action", "joint", "standard")
"""Stages that imitate."""
MIN_PLANNED = 0.5
"""Share of a source's windows that must have a plan for the video to be told ego states. Ours."""
MAX_FITTED = 20_000
"""Plans, spread evenly, that ranges are fitted on."""


@dataclass(frozen=True)
class NeededPlans:
    """What the experts of the training data drive; None where no stage imitates."""

    plans: PlanBatch | None = None


def fit_reworld_config(
    config: ReWorldConfig, sources: Sequence[Source | list[str]]
) -> ReWorldConfig:
    """The recipe's config with the future actions that the data has: speed and yaw rate as they
    are, others divided by their standard deviations, none where no recording has any.

    Raises:
        ValueError: actions of several widths, or NaN.
    """
    if not config.future_actions:
        return config
    found = [rows for source in sources if len(rows := actions_of(source))]
    widths = {rows.shape[1] for rows in found}
    if len(widths) > 1:
        raise ValueError(
            f"Expected actions of one width in all --data, found {sorted(widths)} numbers per "
            "frame: bring them to one layout, or train one model for each."
        )
    if not widths:
        return replace(config, future_actions=0, action_scale=())
    width = widths.pop()
    if width == config.future_actions:
        return config
    spread = np.concatenate(found).std(axis=0)
    scale = tuple(float(s) if s > 1e-6 else 1.0 for s in spread)
    return replace(config, future_actions=width, action_scale=scale)


def open_reworld_data(
    options: TrainOptions,
    recipe: ReWorldRecipe,
    config: ReWorldConfig,
    sources: Sequence[Source | list[str]],
) -> StageData:
    """Every source, with plans where it knows them. Planning stages read past frames only."""
    processes = processes_from_environment()
    stride = recipe.clip_stride if options.clip_stride is None else options.clip_stride
    pool = None if options.pool is None else load_negatives(options)

    def open_one(source: Source | list[str], windows: Windows) -> Any:
        def opened(plan_frame: int | None) -> Any:
            return open_dataset(
                source,
                windows.num_frames,
                windows.size,
                config.fps,
                clip_stride=stride,
                rank=processes.rank,
                world_size=processes.num_processes,
                seed=options.seed,
                plan_frame=plan_frame,
            )

        if isinstance(source, list) or drives_of(source) is None:
            return None if windows.has_experts else opened(None)
        if windows.has_experts:
            return experts_of(opened(config.num_past - 1), pool)
        return with_plans(opened, config.num_past - 1)

    def windows_of(stage: Stage) -> Windows:
        windows = windows_of_stage(stage, Windows(config.num_frames, config.frame_size))
        if stage.name not in NEEDS_EXPERTS:
            return windows
        num_frames = windows.num_frames if stage.name == "standard" else config.num_past
        return Windows(num_frames, windows.size, has_experts=True)

    return StageData(
        sources,
        Windows(config.num_frames, config.frame_size),
        open_one,
        windows_of=windows_of,
        weights=options.weights,
        seed=options.seed,
        num_workers=options.workers,
    )


def with_plans(opened: Any, plan_frame: int) -> ClipDataset:
    """Windows with ego states for the video to read, if enough of them have one."""
    plain: ClipDataset = opened(None)
    try:
        planned: ClipDataset = opened(plan_frame)
        share = len(planned) / len(plain)
    except ValueError:  # not one window: said by the stage that needs plans
        share = 0.0
    if share >= MIN_PLANNED:
        return planned
    warnings.warn(
        f"{plain.source.name}: {share:.0%} of the clips have a plan (4 s of driving after the past "
        "frames), so all of them are used, without ego states",
        stacklevel=2,
    )
    return plain


def experts_of(dataset: ClipDataset, pool: Negatives | None = None) -> SelectedClips:
    """The windows in which an expert drove, with their hard negatives.

    Raises:
        ValueError: no expert, or a pool of other data.
    """
    plans = [dataset.plan(number) for number in range(len(dataset))]
    chosen = [number for number, plan in enumerate(plans) if plan.trajectory is not None]
    if not chosen:
        raise ValueError(
            f"Expected an expert's drive in {dataset.source.name}, found ghosts only: a planner "
            "must not imitate them."
        )
    if pool is not None:
        pool.check([plans[number] for number in chosen], dataset.source.name)
        dataset.transforms.append(pool)
    return SelectedClips(dataset, chosen)


def expert_plans(data: StageData, stages: Sequence[Stage]) -> NeededPlans:
    """The plans that the planning stages imitate."""
    planning = [stage for stage in stages if stage.name in NEEDS_EXPERTS][:1]
    found: list[Any] = [dataset for stage in planning for dataset in data.datasets_of(stage)]
    samples: list[PlanSample] = []
    for dataset in found:
        number = min(len(dataset), MAX_FITTED)
        for index in np.linspace(0, len(dataset) - 1, number).round().astype(int).tolist():
            samples.append(dataset.plan(index))
    nothing = torch.zeros(1, 1, 1, 1, 1)
    clips = [Clip(latents=nothing, plan=sample) for sample in samples]
    return NeededPlans(collate(clips).plan if clips else None)


def clips_of(data: StageData, num_clips: int, purpose: str) -> UInt8[Tensor, "b v t c h w"]:
    """Frames of some clips, the same in all processes."""
    loader, found, count = data.first(4, purpose), [], 0
    while count < num_clips:
        frames = next(loader).frames
        found.append(frames)
        count += len(frames) * frames.shape[1]
    return torch.cat(found)


class Negatives:
    """A transform of clips: the hard negative of each expert's scene, from a pool (Eq. 13 to 15).

    Scenes that were not mined have none.
    """

    def __init__(self, pool: NegativePool, path: Path, threshold: float, metric: str) -> None:
        self._pool, self._path = pool, path
        self._negatives, self._has_negative = pool.negatives(threshold, metric)

    def __call__(self, clip: Clip, generator: torch.Generator) -> Clip:
        if clip.plan is None or clip.plan.trajectory is None:
            return clip
        return replace(clip, plan=replace(clip.plan, negative=self.of(clip.plan)))

    def of(self, plan: PlanSample) -> Float[Tensor, "l 3"] | None:
        """The negative of a plan.

        Raises:
            ValueError: the pool holds another expert of this name.
        """
        from maskworld.preparation.mining_pool import check_expert

        if plan.token not in self._pool:
            return None
        row = self._pool.row(plan.token)
        assert plan.trajectory is not None
        check_expert(plan.token, plan.trajectory.numpy(), self._pool.experts[row])
        if not self._has_negative[row]:
            return None
        return torch.from_numpy(self._negatives[row].copy())

    def check(self, plans: Sequence[PlanSample], name: str) -> None:
        """Raises ValueError if no plan of a source is of the pool's scenes, or an expert drove
        elsewhere; warns of scenes that were not mined."""
        unknown = [plan.token for plan in plans if plan.token not in self._pool]
        if len(unknown) == len(plans):
            raise ValueError(
                f"Expected a pool that was mined from {name}, found one of other scenes in "
                f"{self._path} (none is called {unknown[0]!r}): mine it again from this data."
            )
        if unknown:
            warnings.warn(
                f"{len(unknown)} of {len(plans)} scenes of {name} are not in the pool, the first "
                f"is {unknown[0]!r}: they have no negative",
                stacklevel=3,
            )
        count = sum(self.of(plan) is not None for plan in plans)
        if not count:
            warnings.warn(f"no scene of {name} has a hard negative in the pool", stacklevel=3)


def load_negatives(options: TrainOptions) -> Negatives:
    """A pool of `maskworld data mine`, and what counts as unsafe.

    Raises:
        ValueError: none there, damaged, or another file.
    """
    from maskworld.preparation.mining_pool import METRIC, THRESHOLD, NegativePool

    assert options.pool is not None
    threshold = THRESHOLD if options.threshold is None else options.threshold
    pool = NegativePool.load(options.pool)
    return Negatives(pool, options.pool, threshold, options.metric or METRIC)
