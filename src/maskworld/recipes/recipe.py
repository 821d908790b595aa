"""What a recipe holds: a system's config, its training stages, its data, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, field

from maskworld.flow import SigmaSchedule
from maskworld.guidance import Guidance
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.mask_world_model import SAMPLING, MaskWorldModelConfig
from maskworld.systems.maskgwm import MaskGWMConfig
from maskworld.systems.reworld import ReWorldConfig
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.training.config import Stage


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete, readable experiment: what all systems' recipes share."""

    name: str
    summary: str
    """One line for `maskworld recipes`."""
    hardware: str
    system: WorldDreamerConfig | ReWorldConfig | MaskWorldModelConfig | MaskGWMConfig
    stages: tuple[Stage, ...]
    clip_stride: int = 1
    """Source frames between the starts of two windows."""
    was_run: bool = True
    """False: the paper's numbers, complete, "not run by us"."""


@dataclass(frozen=True)
class DriveData:
    """What is collected in the driving world when the user brings no data."""

    num_worlds: int = 96
    """Training worlds; a world is one road network with one traffic."""
    clips_per_world: int = 16
    num_held_out_worlds: int = 24
    """Worlds of the evaluation: no clip of theirs is ever trained on."""
    held_out_clips_per_world: int = 9
    num_pairs: int = 100
    """Counterfactual pairs from the held-out worlds."""
    num_restyled: int = 384
    """Training drives filmed in two styles, for stylization; 0 = none, as in the paper."""
    p_restyled: float = 0.15
    """Share of batches that are of those."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class WorldDreamerRecipe(Recipe):
    """An experiment with WorldDreamer."""

    system: WorldDreamerConfig
    decoding: ParallelDecoding = field(default_factory=ParallelDecoding)
    drive: DriveData = field(default_factory=DriveData)
    user_steps: int = 180
    """World steps of a quickstart on a user's recording: 600 learnt a short one by heart."""
    num_context: int = 1
    """Given frames when the future is predicted."""
    frame_stride: int = 1
    """Source frames per frame of a window."""


@dataclass(frozen=True)
class PlanningData:
    """What ReWorld's quickstart collects in the driving world. Ours."""

    num_worlds: int = 96
    """Training worlds."""
    clips_per_world: int = 16
    """Half of them follow the expert, half depart from its log."""
    log_windows_per_world: int = 0
    """Moments of the log that the planner alone trains on, without a filmed future."""
    recovery_windows_per_world: int = 0
    """Moments of a drive that strays from the route, each with the expert's way back; at most."""
    num_held_out_worlds: int = 24
    held_out_clips_per_world: int = 9
    num_pairs: int = 100
    """Counterfactual pairs from the held-out worlds."""
    num_scenes: int = 200
    """Held-out scenes on which planners are scored."""
    num_candidates: int = 64
    """Per training scene, for hard negatives (ReWorld: 64)."""
    threshold: float = 0.6
    """delta of Eq. 13."""


@dataclass(frozen=True, kw_only=True)
class ReWorldRecipe(Recipe):
    """An experiment with ReWorld."""

    system: ReWorldConfig
    sampling: FlowSampling = field(default_factory=FlowSampling)
    drive: PlanningData = field(default_factory=PlanningData)


@dataclass(frozen=True)
class RobotData:
    """What Mask World Model's quickstart records and tries in Meta-World. Ours."""

    tasks: tuple[str, ...] = ("button-press-topdown-v3", "drawer-open-v3", "window-open-v3")
    """Tasks that a policy without images does not solve."""
    episodes_per_task: int = 40
    """Demonstrations of the scripted expert."""
    held_out_per_task: int = 4
    """Of these, on which dreamt masks are scored."""
    action_noise: float = 0.0
    """On the expert's actions, so that it shows how to recover."""
    clip_stride: int = 2
    """Steps between the moments of an episode that are trained on."""
    num_trials: int = 50
    """Unseen initial states per task."""
    num_perturbed_trials: int = 10
    """Of these, under each perturbation."""
    perturbations: tuple[str, ...] = ("light", "table-texture", "distractors", "camera-shift")
    step_limit: int = 200
    """Steps of an episode."""
    baseline_steps: int = 1500
    """Of the two policies without a world model."""


@dataclass(frozen=True, kw_only=True)
class MaskWorldModelRecipe(Recipe):
    """An experiment with Mask World Model."""

    system: MaskWorldModelConfig
    sampling: FlowSampling = SAMPLING
    robot: RobotData = field(default_factory=RobotData)


@dataclass(frozen=True)
class FilmData:
    """What MaskGWM's quickstart films in the driving world. Ours."""

    num_worlds: int = 96
    """Training worlds."""
    clips_per_world: int = 16
    """Of the front camera."""
    rig_clips_per_world: int = 4
    """Other drives, of all cameras."""
    num_held_out_worlds: int = 24
    """Worlds of the evaluation: no clip of theirs is ever trained on."""
    held_out_clips_per_world: int = 9
    held_out_rig_clips_per_world: int = 3
    num_pairs: int = 100
    """Counterfactual pairs from the held-out worlds."""
    num_long: int = 6
    """Held-out drives that are dreamt in rounds, beside the real drive under the same actions."""
    long_frames: int = 200
    overlap: int = 1
    """Frames of the round before that each round of a long dream is given."""


@dataclass(frozen=True, kw_only=True)
class MaskGWMRecipe(Recipe):
    """An experiment with MaskGWM."""

    system: MaskGWMConfig
    sampling: FlowSampling = field(
        default_factory=lambda: FlowSampling(
            video=SigmaSchedule("shifted", 30, shift=3.0),
            guidance=Guidance(gamma=1.0, cfg_scale=4.0),
        )
    )
    """30 steps and guidance 4.0 are the paper's; SD3's shift [?]."""
    film: FilmData = field(default_factory=FilmData)
