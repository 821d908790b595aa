"""The cells of Mask World Model's robustness: what each trains, and the episodes it is tried in.

A cell is a folder `seed-<s>/<variant>`: `cell.json` once it is trained, `model/` or `nets/` with
its weights, `episodes/` with every episode as it ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ablation_folder import finish, is_done, read_cell
from safetensors.torch import save_file

from maskworld.cli.quickstart import QuickstartOptions
from maskworld.cli.quickstart_mask_world_model import fit
from maskworld.cli.robot_data import STATISTICS_FILE
from maskworld.cli.robot_material import RobotMaterial, fit_robot_system, robot_material
from maskworld.cli.robot_scores import HIGH, LOCK_STEP, LOW, fit_baselines, net_policy
from maskworld.data.control_statistics import ControlStatistics
from maskworld.data.storage import atomic_path, write_json
from maskworld.data.transforms import RecolorRegions
from maskworld.evaluation.manipulation import ManipulationConfig, evaluate_manipulation
from maskworld.evaluation.robot_episodes import PolicyMaker, StepRule
from maskworld.evaluation.robot_worlds import MetaWorldMaker
from maskworld.nn.config_io import config_from_json, config_to_json
from maskworld.nn.weights_io import load_state_tensors, read_safetensors, state_tensors
from maskworld.policies.robot import ControlSpec
from maskworld.policies.robot_baselines import WorldExpert
from maskworld.policies.robot_chunk_net import ChunkNet, ChunkNetConfig
from maskworld.policies.robot_world_model import world_model_policy
from maskworld.recipes.open import load_mask_world_model, save_release
from maskworld.recipes.recipe import MaskWorldModelRecipe
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.worlds.metaworld.labels import BACKGROUND, TABLE

RECOLOR = RecolorRegions((BACKGROUND, TABLE), p=0.5)
"""Floor, sky and table of half the clips get another colour each. Ours."""
NETS = ("no_world_model", "blind")
"""What the cell without a world model trains; the first is its policy."""


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name: str
    target: str = ""
    """Of the world model; "" = there is none."""
    recolors: bool = False
    is_pruned: bool = False
    """Whether tokens are dropped from it too."""


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("mask", "mask", is_pruned=True),
        Variant("rgb", "rgb", is_pruned=True),
        Variant("none"),
        Variant("mask-recolor", "mask", recolors=True),
        Variant("rgb-recolor", "rgb", recolors=True),
    )
}


@dataclass(frozen=True)
class Trials:
    """What every cell is tried in."""

    episodes: int
    """Initial states of a task, the same for all."""
    perturbations: tuple[str, ...]
    ratios: tuple[float, ...]
    """Of tokens dropped, without perturbation."""
    workers: int


class Runner:
    """Trains and tries the cells that are not done."""

    def __init__(
        self,
        recipe: MaskWorldModelRecipe,
        out: Path,
        data_seed: int,
        trials: Trials,
        say: Callable[[str], None],
    ) -> None:
        self.recipe, self.out, self.trials, self.say = recipe, out, trials, say
        self._data_seed = data_seed
        self._material: RobotMaterial | None = None

    @property
    def material(self) -> RobotMaterial:
        """The recorded episodes, the same for all cells; recorded or read when first needed."""
        if self._material is None:
            self.say("recording or reading the demonstrations ...")
            folder = self.out / "data"
            self._material = robot_material(
                self.recipe, folder, self._data_seed, self.trials.workers
            )
        return self._material

    def train(self, variant: Variant, seed: int) -> None:
        """Nothing where the cell is trained."""
        folder = self.out / f"seed-{seed}" / variant.name
        if is_done(folder):
            return
        material = self.material
        self.say(f"seed {seed}  {variant.name}: training ...")
        started = time.perf_counter(), time.process_time()
        sizes = (self._train_model if variant.target else self._train_nets)(variant, folder, seed)
        material.statistics.save(folder / STATISTICS_FILE)
        found = {
            "cell": variant.name,
            "seed": seed,
            "parameters": sizes,
            "seconds": round(time.perf_counter() - started[0], 1),
            "processor_seconds": round(time.process_time() - started[1], 1),
        }
        finish(folder, None, found)
        self.say(f"seed {seed}  {variant.name}: trained in {found['seconds']:.0f} s")

    def _train_model(self, variant: Variant, folder: Path, seed: int) -> dict[str, int]:
        recipe = replace(self.recipe, system=replace(self.recipe.system, target=variant.target))
        torch.manual_seed(seed)
        model = MaskWorldModel(recipe.system)
        fit_robot_system(model, self.material, self._data_seed)
        options = QuickstartOptions("mask-world-model", out=folder, seed=seed, resume=True)
        fit(model, recipe, self.material, options, RECOLOR if variant.recolors else None)
        save_release(model, folder / "model", recipe.sampling)
        return {"model": sum(p.numel() for p in model.parameters())}

    def _train_nets(self, variant: Variant, folder: Path, seed: int) -> dict[str, int]:
        nets = fit_baselines(self.recipe, self.material, seed)
        for name, net in nets.items():
            write_json(folder / "nets" / f"{name}.json", config_to_json(net.config))
            with atomic_path(folder / "nets" / f"{name}.safetensors") as path:
                save_file({k: v.contiguous() for k, v in state_tensors(net).items()}, path)
        return {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}

    # ------------------------------------------------------------------------------- episodes

    def try_out(self, variant: Variant, seed: int) -> None:
        """All episodes that are not there yet: clean, with tokens dropped, perturbed."""
        folder = self.out / f"seed-{seed}" / variant.name
        statistics = ControlStatistics.load(folder / STATISTICS_FILE)
        size, robot, trials = self.recipe.system.frame_size, self.recipe.robot, self.trials
        spec = ControlSpec.of(statistics, size, LOW, HIGH)
        world = MetaWorldMaker(size, tuple(statistics.views))
        policy, beside = (self._models if variant.target else self._nets)(variant, folder, spec)
        clean = ManipulationConfig(
            robot.tasks,
            tuple(range(trials.episodes)),
            StepRule(robot.step_limit),
            world.describe(),
            checkpoints=dict.fromkeys(("model", *beside), "last"),
        )
        rounds: list[tuple[ManipulationConfig, Mapping[str, PolicyMaker]]] = [
            (clean, {"model": policy, **beside})
        ]
        if trials.perturbations:
            rounds.append((replace(clean, perturbations=trials.perturbations), {"model": policy}))
        started, ran = time.perf_counter(), [0]

        def progress(result: Any, done: int, total: int) -> None:
            ran[0] += 1
            if ran[0] % 100 == 0:
                self.say(f"seed {seed}  {variant.name}: episode {done} of {total}")

        for config, makers in rounds:
            evaluate_manipulation(
                makers,
                config,
                world,
                folder / "episodes",
                num_workers=trials.workers,
                batch_size=LOCK_STEP,
                on_result=progress,
            )
        if ran[0]:
            seconds = time.perf_counter() - started
            self.say(f"seed {seed}  {variant.name}: {ran[0]} episodes in {seconds:.0f} s")
            cell = read_cell(folder)
            cell["episode_seconds"] = round(cell.get("episode_seconds", 0.0) + seconds, 1)
            write_json(folder / "cell.json", cell)

    def _models(
        self, variant: Variant, folder: Path, spec: ControlSpec
    ) -> tuple[PolicyMaker, dict[str, PolicyMaker]]:
        release = load_mask_world_model(folder / "model")
        made = {
            ratio: world_model_policy(
                release.system, spec, sampling=release.decoding, p_prune=ratio
            ).twin
            for ratio in (0.0, *(self.trials.ratios if variant.is_pruned else ()))
        }
        whole = made.pop(0.0)
        return whole, {pruned(ratio): policy for ratio, policy in made.items()}

    def _nets(
        self, variant: Variant, folder: Path, spec: ControlSpec
    ) -> tuple[PolicyMaker, dict[str, PolicyMaker]]:
        made: dict[str, PolicyMaker] = {}
        for name in NETS:
            path = folder / "nets" / name
            told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            net = ChunkNet(config_from_json(ChunkNetConfig, told))
            weights = path.with_suffix(".safetensors")
            load_state_tensors(net, read_safetensors(weights), str(weights))
            made[name] = net_policy(net.eval(), spec, self.recipe.system).twin
        return made.pop(NETS[0]), {**made, "expert": WorldExpert}


def pruned(ratio: float) -> str:
    """The policy's name with so many of its tokens dropped."""
    return f"pruned {ratio:g}"


def cells(variants: Sequence[str], seeds: Sequence[int]) -> list[tuple[Variant, int]]:
    """All cells, seed by seed."""
    return [(VARIANTS[name], seed) for seed in seeds for name in variants]
