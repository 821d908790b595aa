"""The cells of ReWorld's ablations: what each trains and what is measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation_folder import finish, is_done
from ablation_training import run_stages, stages_of
from reworld_ablation_data import NOISE_SEED, Data, score_dreams, system_of

from maskworld.cli.reworld_material import with_features
from maskworld.cli.reworld_planning import (
    EGO_STATUS_STEPS,
    SampledPlanner,
    plans_with_mirror_images,
)
from maskworld.data.storage import write_json
from maskworld.evaluation.flow_prediction import GAMMAS, rows_of, velocity_errors
from maskworld.evaluation.planning import make_plans, score_planners, standard_planners
from maskworld.nn.weights_io import load_state_tensors, state_tensors
from maskworld.objectives.representation import RepresentationConfig
from maskworld.systems.reworld import ReWorld
from maskworld.types import Clip

NUM_IN_CURVE = 96
"""Held-out clips of the loss that is watched while the video trains."""
CURVE_POINTS = 12
"""Of that loss."""
RIVALS = ("sra", "sra2", "self_flow")
RIVAL_WEIGHT = {"sra": 0.5, "sra2": 0.5, "self_flow": 0.8}
"""The published ones; SRA2's is not given."""
REFERENCES = ("constant_velocity", "ego_status", "pdm_closed", "expert")


@dataclass(frozen=True)
class VideoCell:
    """Stage 1: heads at some layers, or a rival of theirs, or neither."""

    heads: tuple[int, ...] = ()
    rival: str = "none"

    @property
    def name(self) -> str:
        if self.rival != "none":
            return f"video-{self.rival.replace('_', '-')}"
        return f"video-head-{'-'.join(map(str, self.heads))}" if self.heads else "video-no-head"


@dataclass(frozen=True)
class DreamsCell:
    """What a stage 1 dreams; the recipe's at all gammas, the others unguided."""

    video: VideoCell

    @property
    def name(self) -> str:
        return self.video.name.replace("video", "dreams", 1)


@dataclass(frozen=True)
class PlannerCell:
    """Stages 2 and 3 upon the recipe's stage 1; 0 = that loss is off, its stage has L_FM alone."""

    alignment_layer: int = 0
    repulsion_weight: float = 0.0

    @property
    def stage_two(self) -> str:
        """The cell of stage 2, which all weights of the repulsion share."""
        return f"action-align-{self.alignment_layer}" if self.alignment_layer else "action-plain"

    @property
    def name(self) -> str:
        aligned = f"align-{self.alignment_layer}" if self.alignment_layer else "plain"
        return f"planner-{aligned}-rde-{self.repulsion_weight:g}"


@dataclass(frozen=True)
class ReferenceCell:
    """What the planners stand beside; the ego-status planner is trained, so by seed."""

    name: str = "references"


Cell = VideoCell | DreamsCell | PlannerCell | ReferenceCell


class Runner:
    """Runs the cells of a data set that are not done, and whatever they need."""

    def __init__(self, data: Data, out: Path, say: Callable[[str], None]) -> None:
        self.data, self.out, self.say = data, out, say
        self._features: tuple[int, list[Clip]] | None = None

    def run(self, cell: Cell, seed: int) -> None:
        """Nothing where the cell is done."""
        if is_done(self.out / f"seed-{seed}" / cell.name):
            return
        if isinstance(cell, VideoCell):
            self._do(cell.name, seed, lambda folder: self.run_video(cell, folder, seed))
        elif isinstance(cell, DreamsCell):
            self.run(cell.video, seed)
            self._do(cell.name, seed, lambda _: (None, self.run_dreams(cell, seed)))
        elif isinstance(cell, PlannerCell):
            self.run(self.first_stage, seed)
            self._do(cell.stage_two, seed, lambda folder: self.run_action(cell, folder, seed))
            self._do(cell.name, seed, lambda folder: self.run_joint(cell, folder, seed))
        else:
            self._do(cell.name, seed, lambda _: (None, self.run_references(seed)))

    def _do(
        self, name: str, seed: int, work: Callable[[Path], tuple[ReWorld | None, dict[str, Any]]]
    ) -> None:
        """Weights and numbers of one folder, unless it is done."""
        folder = self.out / f"seed-{seed}" / name
        if is_done(folder):
            return
        self.say(f"seed {seed}  {name} ...")
        started = time.perf_counter(), time.process_time()
        system, found = work(folder)
        found |= {
            "cell": name,
            "seed": seed,
            "seconds": round(time.perf_counter() - started[0], 1),
            "processor_seconds": round(time.process_time() - started[1], 1),
        }
        finish(folder, system, found)
        self.say(f"seed {seed}  {name} {found['seconds']:.0f} s")

    @property
    def first_stage(self) -> VideoCell:
        """The stage 1 that all planners share."""
        return VideoCell(self.data.recipe.system.supervised_layers)

    # ------------------------------------------------------------------------ stage 1

    def run_video(self, cell: VideoCell, folder: Path, seed: int) -> tuple[ReWorld, dict[str, Any]]:
        """Trains stage 1, its held-out loss beside it."""
        recipe = self.data.recipe
        config = recipe.system
        if cell.rival != "none":  # at the relative depths of 8 and 20 of 28
            layers = [max(1, round(depth / 28 * config.video.num_layers)) for depth in (8, 20)]
            options = RepresentationConfig(
                cell.rival,
                layer=layers[0],
                teacher_layer=layers[1],
                weight=RIVAL_WEIGHT[cell.rival],
            )
            config = replace(config, representation=options)
        config = replace(config, supervised_layers=cell.heads)
        system = system_of(self.data, config, seed)
        watched = rows_of(self.data.held_out, slice(NUM_IN_CURVE))
        curve = folder / "curve.json"

        def watch(model: ReWorld, step: int) -> None:
            known = json.loads(curve.read_text()) if curve.is_file() else []
            loss = velocity_errors(model, watched, NOISE_SEED).mean
            write_json(curve, [row for row in known if row[0] < step] + [[step, loss]])

        terms = run_stages(
            system,
            stages_of(recipe, "video", CURVE_POINTS),
            self.data.clips.all,
            folder,
            seed,
            {"cell": cell.name},
            watch,
        )
        total = sum(stage.num_steps for stage in stages_of(recipe, "video"))
        if json.loads(curve.read_text())[-1][0] != total:
            watch(system, total)
        loss = velocity_errors(system, self.data.held_out, NOISE_SEED, num_draws=2)
        return system, {
            "loss": loss.total.mean(axis=1).tolist(),
            "worlds": self.data.material.groups.tolist(),
            "terms": terms,
            "curve": json.loads(curve.read_text()),
        }

    def run_dreams(self, cell: DreamsCell, seed: int) -> dict[str, Any]:
        """Scores of a trained stage 1's dreams."""
        folder = self.out / f"seed-{seed}" / cell.video.name
        system = ReWorld.from_pretrained(folder / "model")
        return score_dreams(
            system, self.data, GAMMAS if cell.video == self.first_stage else (1.0,), seed
        )

    # ------------------------------------------------------------------ stages 2 and 3

    def run_action(
        self, cell: PlannerCell, folder: Path, seed: int
    ) -> tuple[ReWorld, dict[str, Any]]:
        """Trains stage 2 on features of the frozen video."""
        system = self._planner(cell, self.first_stage.name, seed)
        if self._features is None or self._features[0] != seed:
            self._features = None  # before the next ones are made
            self._features = seed, with_features(system, self.data.clips.planning(), seed)
        stages = stages_of(self.data.recipe, "action")
        record = {"cell": cell.stage_two}
        terms = run_stages(system, stages, self._features[1], folder, seed, record)
        return system, {"terms": terms}

    def run_joint(self, cell: PlannerCell, folder: Path, seed: int) -> tuple[None, dict[str, Any]]:
        """Trains stage 3 and scores the planner."""
        system = self._planner(cell, cell.stage_two, seed)
        stages = stages_of(self.data.recipe, "joint")
        terms = run_stages(
            system, stages, self.data.with_negatives, folder, seed, {"cell": cell.name}
        )
        system.eval()
        planner = SampledPlanner(system, self.data.recipe.sampling)
        plans = self._plans({"model": planner}, seed)
        return None, {"terms": terms, **self._scored(plans)}

    def run_references(self, seed: int) -> dict[str, Any]:
        """Scores of those that the planners stand beside."""
        material = self.data.material
        train_plans = plans_with_mirror_images([*material.experts, *material.windows])
        generator = torch.Generator().manual_seed(seed)
        planners = standard_planners(
            train_plans, material.scenes, generator, num_steps=EGO_STATUS_STEPS
        )
        return self._scored(self._plans({name: planners[name] for name in REFERENCES}, seed))

    def _planner(self, cell: PlannerCell, start: str, seed: int) -> ReWorld:
        weight = self.data.recipe.system.alignment_weight
        config = replace(
            self.data.recipe.system,
            alignment_layers=(cell.alignment_layer,) if cell.alignment_layer else (),
            alignment_weight=weight if cell.alignment_layer else 0.0,
            repulsion_weight=cell.repulsion_weight,
        )
        system = ReWorld(config)
        weights = ReWorld.from_pretrained(self.out / f"seed-{seed}" / start / "model")
        load_state_tensors(system, state_tensors(weights), start)
        return system

    def _plans(self, planners: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
        material = self.data.material
        return {
            name: make_plans(
                planner,
                material.scenes,
                material.plan.num_past,
                torch.Generator().manual_seed(seed),
            )
            for name, planner in planners.items()
        }

    def _scored(self, plans: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Scores and displacements, metres, by planner and scene."""
        scenes = self.data.material.scenes
        scores = score_planners(scenes, plans)
        kept = [scene for scene in scenes if scene.token not in scores.failed_scenes]
        at = [i for i, scene in enumerate(scenes) if scene.token not in scores.failed_scenes]
        expert = np.stack([scene.expert for scene in kept])
        found: dict[str, dict[str, list[float]]] = {}
        for name, plan in plans.items():
            parts = {key: value.tolist() for key, value in scores.values[name].items()}
            error = np.hypot(*np.moveaxis((plan[at] - expert)[..., :2], -1, 0)).mean(axis=1)
            found[name] = parts | {"ade": error.tolist()}
        return {
            "scores": found,
            "worlds": scores.worlds.tolist(),
            "manoeuvres": [bool(each) for each in scores.manoeuvres],
            "bad_plans": {name: len(tokens) for name, tokens in scores.bad_plans.items()},
        }
