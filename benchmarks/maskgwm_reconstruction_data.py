"""What the cells of MaskGWM's ablation share: clips of the domain that is trained on and of others,
long drives, tokenizer; and how a trained system is scored on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_folder import is_done, read_cell
from ablation_training import run_stages, stages_of
from torch import Tensor

from maskworld.cli.maskgwm_material import encoded, fit_tokenizer
from maskworld.cli.material import Filming, film_worlds
from maskworld.data.storage import write_json
from maskworld.evaluation.baselines import TrivialFutures
from maskworld.evaluation.flow_prediction import POSTERIOR_MEAN
from maskworld.evaluation.frame_prediction import (
    dream,
    dream_in_rounds,
    reconstruct,
    velocity_errors,
)
from maskworld.evaluation.long_horizon import STATISTICS, score_long_horizon
from maskworld.evaluation.results import Results
from maskworld.evaluation.zero_shot import score_domain
from maskworld.preparation.driving_domains import (
    SEEN,
    SHIFTS,
    DomainPlan,
    clips_of_domain,
    long_drives_of_domain,
    real_clips,
)
from maskworld.recipes.recipe import MaskGWMRecipe
from maskworld.systems.maskgwm import MaskGWM, MaskGWMConfig
from maskworld.types import Batch, Clip, collate

NOISE_SEED = 0
"""Of the held-out loss: all cells of all seeds are asked at the same times and noises."""
NUM_GIVEN = 1
HELD_OUT_FROM = 500_000
CLIPS_PER_WORLD = 6
"""Held out, in every domain."""
NUM_LONG, MIN_LONG = 12, 8
"""The proxy needs as many."""
NUM_HORIZONS = 5
PROXY_WINDOW = 8
REAL = "real"
FITTED = ("tokenizer.", "prior_variance")
"""What is fitted on the data once, for all cells."""


@dataclass
class Data:
    """What all cells share."""

    recipe: MaskGWMRecipe
    train: list[Clip]
    """In pixels."""
    domains: dict[str, tuple[Batch, np.ndarray]]
    """Held-out clips and their worlds: "seen", the shifts, and "real" where a video was given."""
    long: list[Clip]
    base: MaskGWM
    has_proxy: bool = True
    """Whether futures are sampled for the Fréchet proxy: half of a cell's scoring time."""

    @cached_property
    def latents(self) -> list[Clip]:
        """Training clips and their mirror images, encoded."""
        return encoded(self.base, self.train, with_mirrored=True)

    @cached_property
    def trivial(self) -> TrivialFutures:
        """Fitted on the domain that is trained on."""
        frames = torch.stack([clip.frames for clip in self.train if clip.frames is not None])
        return TrivialFutures.fit(frames, NUM_GIVEN)

    def system(self, config: MaskGWMConfig, seed: int, start: Path | None = None) -> MaskGWM:
        """A system at its start; weights of one seed are alike wherever two configs share them.

        Args:
            start: weights of a stage before, as far as they go.
        """
        torch.manual_seed(seed)
        first = MaskGWM(self.recipe.system).state_dict()
        system = MaskGWM(config)
        own = system.state_dict()
        fitted = self.base.state_dict()
        first |= {name: value for name, value in fitted.items() if name.startswith(FITTED)}
        if start is not None:
            first |= MaskGWM.from_pretrained(start).state_dict()
        shared = {
            name: value
            for name, value in first.items()
            if name in own and own[name].shape == value.shape
        }
        system.load_state_dict(shared, strict=False)
        return system


def open_data(
    recipe: MaskGWMRecipe,
    folder: Path,
    seed: int,
    workers: int,
    real: Path | None,
    has_proxy: bool,
) -> Data:
    """Films the clips (from their seed, again at every start) and makes the tokenizer once.

    Raises:
        ValueError: clips that differ from those of an earlier start.
    """
    train, domains, long = _film(recipe, seed, workers)
    if real is not None:
        domains[REAL] = _without_actions(recipe, real)
    if is_done(folder):
        base = MaskGWM.from_pretrained(folder / "model")
    else:
        torch.manual_seed(seed)
        base = MaskGWM(recipe.system)
        fit_tokenizer(base, train, seed)
        some = encoded(base, train, with_mirrored=False)
        base.fit_latents(torch.stack([clip.latents for clip in some if clip.latents is not None]))
        if stages := stages_of(recipe, "tokenizer"):
            run_stages(base, stages, train, folder, seed, {})
        base.save_pretrained(folder / "model")
    data = Data(recipe, train, domains, long, base, has_proxy)
    name = _name_of(data)
    if not is_done(folder):
        write_json(
            folder / "cell.json",
            {"seed": seed, "clips": name, "description": _description(data)} | _score_ceiling(data),
        )
    if (found := read_cell(folder)["clips"]) != name:
        raise ValueError(
            f"Expected the clips that the cells beside {folder} were trained on ({found}), found "
            f"others ({name}): the driving world has changed, take a new --out."
        )
    return data


def _film(
    recipe: MaskGWMRecipe, seed: int, workers: int
) -> tuple[list[Clip], dict[str, tuple[Batch, np.ndarray]], list[Clip]]:
    system, film = recipe.system, recipe.film
    first = 1_000_000 * seed
    worlds = range(first, first + film.num_worlds)
    others = range(first + HELD_OUT_FROM, first + HELD_OUT_FROM + film.num_held_out_worlds)
    plan = DomainPlan(
        SEEN, num_frames=system.num_frames, size=system.frame_size, fps=system.fps, seed=seed
    )
    plans = {domain.name: replace(plan, domain=domain) for domain in (SEEN, *SHIFTS)}
    held_out = len(others) * CLIPS_PER_WORLD
    wanted = [Filming(clips_of_domain, worlds, len(worlds) * film.clips_per_world, plan)]
    wanted += [Filming(clips_of_domain, others, held_out, each) for each in plans.values()]
    long_plan = replace(plan, num_frames=film.long_frames)
    wanted.append(Filming(long_drives_of_domain, others, len(others), long_plan))
    train, *tests, long = film_worlds(wanted, workers)
    if len(long) < MIN_LONG:
        raise ValueError(
            f"Expected {MIN_LONG} long drives or more in {len(others)} held-out worlds, found "
            f"{len(long)}: raise num_held_out_worlds."
        )
    domains = {
        name: (collate(clips), np.array([clip.episode for clip in clips]))
        for name, clips in zip(plans, tests, strict=True)
    }
    return train, domains, long[:NUM_LONG]


def _without_actions(recipe: MaskGWMRecipe, path: Path) -> tuple[Batch, np.ndarray]:
    """Real clips; their actions are rows that are not known."""
    system = recipe.system
    clips = real_clips(path, num_frames=system.num_frames, size=system.frame_size, fps=system.fps)
    batch = collate(clips)
    width = sum(signal.size for signal in system.signals)
    unknown = torch.zeros(len(batch), system.num_frames, width)
    batch = replace(batch, actions=unknown, has_actions=torch.zeros(len(batch), dtype=torch.bool))
    return batch, np.array([clip.episode for clip in clips])


def _name_of(data: Data) -> str:
    """A hash of all held-out pixels."""
    found = hashlib.sha256()
    for batch, _ in data.domains.values():
        assert batch.frames is not None
        found.update(batch.frames.numpy().tobytes())
    for clip in data.long:
        assert clip.frames is not None
        found.update(clip.frames.numpy().tobytes())
    return found.hexdigest()[:16]


def _description(data: Data) -> dict[str, Any]:
    return {
        "train_clips": len(data.train),
        "train_worlds": len({clip.episode for clip in data.train}),
        "held_out": {
            name: [len(batch), len(np.unique(groups))]
            for name, (batch, groups) in data.domains.items()
        },
        "long_drives": len(data.long),
        "long_frames": data.recipe.film.long_frames,
    }


# ----------------------------------------------------------------------------------- scoring


def score(system: MaskGWM, data: Data, seed: int) -> dict[str, Any]:
    """Everything that a cell measures of its trained system, by clip where clips are paired."""
    system.eval()
    return {
        "domains": {name: _score_domain(system, data, name, seed) for name in data.domains},
        "long": _score_long(system, data, seed),
    }


def _score_domain(system: MaskGWM, data: Data, name: str, seed: int) -> dict[str, Any]:
    """Loss, PSNR of the mean future and its margin by clip; the proxy of sampled futures."""
    batch, groups = data.domains[name]
    mean = dream(system, batch, POSTERIOR_MEAN, torch.Generator().manual_seed(seed), NUM_GIVEN)
    sampled = None
    if name != REAL and data.has_proxy:
        generator = torch.Generator().manual_seed(seed)
        sampled = dream(system, batch, data.recipe.sampling, generator, NUM_GIVEN).frames
    loss = velocity_errors(system, batch, NOISE_SEED, num_given=NUM_GIVEN, num_draws=2)
    found = _scores(data, name, mean.frames, sampled)
    return found | {"loss": loss.total.mean(axis=1).tolist(), "worlds": groups.tolist()}


def _scores(data: Data, name: str, mean: Tensor, sampled: Tensor | None) -> dict[str, Any]:
    batch, groups = data.domains[name]
    assert batch.frames is not None
    results = Results("maskgwm", {})
    found = score_domain(
        results, name, batch.frames, mean, sampled, data.trivial, groups, num_given=NUM_GIVEN
    )
    metrics = results.to_dict()["metrics"]
    return {
        "psnr": found.psnr["model"].total.mean(axis=1).tolist(),
        "margin": found.margin.total.mean(axis=1).tolist(),
        "margin_by_step": found.margin.per_horizon,
        "best_trivial": metrics[f"zero_shot/{name}/psnr"]["best_trivial"],
        "proxy": metrics.get(f"zero_shot/{name}/frechet_proxy"),
    }


def _score_long(system: MaskGWM, data: Data, seed: int) -> dict[str, Any]:
    """Long drives dreamt in rounds under the real actions."""
    batch = collate(data.long)
    assert batch.frames is not None
    parts = dream_in_rounds(
        system,
        batch,
        data.recipe.sampling,
        torch.Generator().manual_seed(seed),
        num_given=NUM_GIVEN,
        overlap=data.recipe.film.overlap,
    )
    dreamt = torch.cat(list(parts), dim=2)
    groups = np.array([clip.episode for clip in data.long])
    results = Results("maskgwm", {})
    num_last = min(50, batch.frames.shape[2] // 4)
    found = score_long_horizon(
        results,
        batch.frames,
        dreamt,
        data.trivial,
        groups,
        num_given=NUM_GIVEN,
        fps=data.recipe.system.fps,
        num_last=num_last,
        num_horizons=NUM_HORIZONS,
        proxy_window=PROXY_WINDOW if data.has_proxy else None,
    )
    metrics = results.to_dict()["metrics"]
    return {
        "ratios": {name: found.ratios[name]["model"] for name in STATISTICS},
        "by_drive": found.by_drive,
        "verdict": str(found.verdicts["model"]),
        "trivial_verdicts": {who: str(verdict) for who, verdict in found.verdicts.items()},
        "psnr": found.psnr["model"].total.tolist(),
        "psnr_of_best_trivial": metrics["long/psnr"]["per_horizon"]["best_trivial"],
        "proxy": metrics.get("long/frechet_proxy", {}).get("per_horizon"),
        "seconds": results.protocol["long_horizon"]["horizon_seconds"],
        "worlds": groups.tolist(),
    }


def _score_ceiling(data: Data) -> dict[str, Any]:
    """What the tokenizer keeps of each domain."""
    data.base.eval()
    found = {}
    for name, (batch, _) in data.domains.items():
        kept = reconstruct(data.base, batch)
        has_proxy = name != REAL and data.has_proxy
        found[name] = _scores(data, name, kept, kept if has_proxy else None)
    return {"reconstruction": found}
