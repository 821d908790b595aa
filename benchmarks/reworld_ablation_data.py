"""What the cells of ReWorld's ablations share: clips, scenes, tokenizer, negatives, and how stages
are trained and dreams are scored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_folder import is_done, read_cell
from ablation_training import run_stages
from torch import Tensor

from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.quickstart_reworld import fit_statistics, mine_negatives
from maskworld.cli.reworld_material import (
    EncodedClips,
    PlanningMaterial,
    encode_clips,
    fit_system,
    planning_material,
)
from maskworld.cli.reworld_scores import NUM_SWEPT, trivial_futures
from maskworld.data.storage import write_json
from maskworld.evaluation.flow_prediction import (
    POSTERIOR_MEAN,
    dream,
    dream_with_gammas,
    reconstruct,
    rows_of,
    with_latents,
)
from maskworld.evaluation.frechet import FLOOR, score_frechet_proxy
from maskworld.evaluation.results import Results, read_results
from maskworld.metrics.image import FrameMetric, psnr
from maskworld.preparation.mining_pool import NegativePool, attach_negatives, fingerprint_of
from maskworld.recipes.recipe import ReWorldRecipe
from maskworld.systems.reworld import ReWorld, ReWorldConfig
from maskworld.types import Batch, Clip

NOISE_SEED = 0
"""Of the held-out loss: all cells of all seeds are asked at the same times and noises."""
PROXY_RESAMPLES = 100
"""Of the Fréchet proxy's interval within a seed."""
SHARED = ("tokenizer.", "normaliser.", "delta.", "prior_variance", "plan_variance")
"""What is fitted on the data once, for all cells."""


@dataclass
class Data:
    """What all cells share: clips, scenes, tokenizer and statistics, hard negatives."""

    recipe: ReWorldRecipe
    base: ReWorld
    material: PlanningMaterial
    clips: EncodedClips
    pool: NegativePool

    @cached_property
    def held_out(self) -> Batch:
        """Held-out clips in pixels and latents."""
        return with_latents(self.base, self.material.held_out)

    @cached_property
    def with_negatives(self) -> list[Clip]:
        """What the planner trains on, for stage 3."""
        threshold = self.recipe.drive.threshold
        return self.clips.planning(attach_negatives(self.clips.plain, self.pool, threshold))

    @cached_property
    def first(self) -> Batch:
        """The held-out clips that are dreamt."""
        return rows_of(self.held_out, slice(NUM_SWEPT))

    @property
    def groups(self) -> np.ndarray:
        """The worlds of `first`."""
        return self.material.groups[: len(self.first)]

    def futures(self, frames: Tensor) -> Tensor:
        """Frames after now."""
        return frames[:, :, self.recipe.system.num_past :]


def open_data(
    recipe: ReWorldRecipe, folder: Path, seed: int, workers: int, quickstart: Path | None
) -> Data:
    """Films the material (from its seed, again at every start) and makes, once, what is fitted or
    mined on it: tokenizer, statistics, negatives.

    Args:
        quickstart: a finished quickstart of the same recipe and seed, whose tokenizer and negatives
            are taken instead.

    Raises:
        ValueError: a quickstart of another recipe or seed; material that differs from that of an
            earlier start.
    """
    material = planning_material(recipe, seed, workers)
    if not is_done(folder):
        if quickstart is None:
            base, pool = _fit_data(recipe, material, folder, seed, workers)
        else:
            base, pool = _take_from(quickstart, recipe, seed)
        base.save_pretrained(folder / "model")
        pool.save(folder / "negatives")
    base = ReWorld.from_pretrained(folder / "model")
    data = Data(
        recipe,
        base,
        material,
        encode_clips(base, material.train, material.windows),
        NegativePool.load(folder / "negatives"),
    )
    name = name_of(material)
    if not is_done(folder):
        negatives = data.pool.summary(recipe.drive.threshold)
        write_json(
            folder / "cell.json",
            {
                "seed": seed,
                "material": name,
                "description": material.description,
                "negatives": negatives,
                "dreams": _score_trivial(data),
            },
        )
    if (found := read_cell(folder)["material"]) != name:
        raise ValueError(
            f"Expected the clips and scenes that the cells beside {folder} were trained on "
            f"({found}), found others ({name}): the driving world has changed, take a new --out."
        )
    return data


def name_of(material: PlanningMaterial) -> str:
    """A hash of held-out pixels, scenes and experts."""
    assert material.held_out.frames is not None
    pixels = hashlib.sha256(material.held_out.frames.numpy().tobytes()).hexdigest()[:16]
    tokens = [scene.token for scene in material.scenes]
    scenes = fingerprint_of(tokens, np.stack([scene.expert for scene in material.scenes]))
    experts = [clip.plan for clip in material.experts if clip.plan is not None]
    paths = [plan.trajectory.numpy() for plan in experts if plan.trajectory is not None]
    return f"{pixels}-{scenes[:16]}-{fingerprint_of([p.token for p in experts], np.stack(paths))}"


def _fit_data(
    recipe: ReWorldRecipe, material: PlanningMaterial, folder: Path, seed: int, workers: int
) -> tuple[ReWorld, NegativePool]:
    """As the quickstart does, in its order."""
    torch.manual_seed(seed)
    base = ReWorld(recipe.system)
    fit_system(base, material.train, seed)
    clips = encode_clips(base, material.train, material.windows)
    fit_statistics(base, clips)
    options = QuickstartOptions("reworld", out=folder, seed=seed, workers=workers, resume=True)
    pool = mine_negatives(base, recipe, material, clips, options)
    stages = [stage for stage in recipe.stages if stage.name == "tokenizer"]
    if stages:
        run_stages(base, stages, material.train, folder, seed, {})
    return base, pool


def _take_from(quickstart: Path, recipe: ReWorldRecipe, seed: int) -> tuple[ReWorld, NegativePool]:
    protocol = read_results(quickstart / "metrics.json")["protocol"]
    base = ReWorld.from_pretrained(quickstart / "model")
    if protocol["seed"] != seed or base.config != recipe.system:
        raise ValueError(
            f"Expected a quickstart of the present {recipe.name} with seed {seed}, found seed "
            f"{protocol['seed']} of {'another' if base.config != recipe.system else 'this'} config "
            f"in {quickstart}: leave --data out, or take another."
        )
    return base, NegativePool.load(quickstart / "run" / "negatives")


# ---------------------------------------------------------------------------------- training


def system_of(data: Data, config: ReWorldConfig, seed: int) -> ReWorld:
    """An untrained system; weights of one seed are alike wherever two configs share them."""
    torch.manual_seed(seed)
    first = ReWorld(data.recipe.system).state_dict()
    system = ReWorld(config)
    own = system.state_dict()
    weights = {name: value for name, value in first.items() if name in own}
    fitted = data.base.state_dict()
    weights |= {name: value for name, value in fitted.items() if name.startswith(SHARED)}
    system.load_state_dict(weights, strict=False)
    return system


# ----------------------------------------------------------------------------------- scoring


def score_dreams(system: ReWorld, data: Data, gammas: Sequence[float], seed: int) -> dict[str, Any]:
    """PSNR by clip and Fréchet proxy of the mean future and of sampled ones at every gamma, all
    from the same noise."""
    mean = dream(system, data.first, POSTERIOR_MEAN, torch.Generator().manual_seed(seed)).frames
    sampled = dream_with_gammas(system, data.first, data.recipe.sampling, gammas, seed)
    dreams = {"mean": mean, **{f"gamma {gamma:g}": frames for gamma, frames in sampled.items()}}
    return _score_futures(data, {name: data.futures(each) for name, each in dreams.items()})


def _score_trivial(data: Data) -> dict[str, Any]:
    """What knows nothing of the future, and what the tokenizer keeps of it."""
    trivial = trivial_futures(data.material, data.recipe.system.num_past)
    futures = {name: trivial[name][: len(data.first)] for name in ("copy_last", "blurred_copy")}
    futures["reconstruction"] = data.futures(reconstruct(data.base, data.first))
    return _score_futures(data, futures)


def _score_futures(data: Data, futures: Mapping[str, Tensor]) -> dict[str, Any]:
    assert data.first.frames is not None
    real = data.futures(data.first.frames)
    found: dict[str, Any] = {}
    floor = 0.0
    for name, frames in futures.items():
        metric = FrameMetric(psnr)
        metric.update(frames, real)
        results = Results("reworld", {})
        values = score_frechet_proxy(
            results,
            real,
            frames,
            {},
            data.groups,
            seed=NOISE_SEED,
            num_resamples=PROXY_RESAMPLES,
        )
        low, high = results.to_dict()["metrics"]["frechet_proxy"]["interval"]
        floor = values[FLOOR]
        found[name] = {
            "psnr": metric.compute().total.mean(axis=1).tolist(),
            "proxy": values["model"],
            "proxy_interval": [low, high],
        }
    return {"dreams": found, "proxy_floor": floor, "worlds": data.groups.tolist()}
