"""Any `interfaces.Planner` as an agent of NAVSIM, v1.1 (PDMS) and v2 alike.

In a NAVSIM environment, `run_pdm_score` builds the agent from a config; `planner` may be a function
without arguments, called in `initialize`, so that every worker loads the model by itself:

    _target_: maskworld.serving.navsim_agent.navsim_agent
    _convert_: all
    planner: {_target_: my_code.load_planner, _partial_: true, run: runs/reworld}
    size: [256, 512]

With navsim installed the agent is a subclass of its `AbstractAgent`; without it a `torch.nn.Module`
with the same methods, which is how it is tested here. navsim is not imported before that.

What a user must know:

- NAVSIM v1.1 pins Python 3.9 and NumPy 1.23.4, maskworld needs Python 3.11 and NumPy 1.26: one
  environment holds both only with NAVSIM's pins loosened (its setup accepts newer Pythons). We have
  tested against its published interfaces, not inside a running NAVSIM.
- NAVSIM shows four frames of the past at 2 Hz: -1.5, -1, -0.5 and 0 s. A model that was trained on
  other moments (8 Hz, say) gets for each of its `num_past` frames the one nearest in time, so
  frames repeat and the past looks jerky to it; making such an agent warns once. Train with past
  frames at 2 Hz for NAVSIM.
- Pictures are cut to the model's aspect ratio around their centre and scaled down by area.
- The command is NAVSIM's one-hot (left, straight, right, unknown), which is our order.
- NAVSIM drops scenes whose agent fails from its mean. A plan that is not 8 finite waypoints fails,
  so look at the number of valid scenes beside the score.

Reference: NAVSIM v1.1, navsim/agents/abstract_agent.py and navsim/common/dataclasses.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from maskworld.data.transforms import ResizeCrop
from maskworld.interfaces import Planner, System
from maskworld.serving.navsim_types import (
    HORIZON,
    NUM_WAYPOINTS,
    WAYPOINT_INTERVAL,
    Sampling,
    SensorConfig,
    Trajectory,
    installed,
)
from maskworld.types import Batch, Clip, PlanBatch

HISTORY_TIMES = (-1.5, -1.0, -0.5, 0.0)
"""Seconds of the frames in an `AgentInput`, by contract: it holds no stamps."""
SENSORS = ("cam_f0", "cam_l0", "cam_l1", "cam_l2", "cam_r0", "cam_r1", "cam_r2", "cam_b0")


class FeatureBuilder:
    """An `AgentInput` to the tensors of one `Batch` row: frames, ego, command.

    Args:
        size: height and width of the model's frames.
        num_past: past frames that the model sees, the last at 0 s.
        fps: their rate.
        cameras: views, in the model's order.
    """

    def __init__(
        self, size: tuple[int, int], num_past: int, fps: float | int, cameras: Sequence[str]
    ) -> None:
        unknown = sorted(set(cameras) - set(SENSORS))
        if unknown or not cameras or num_past < 1 or fps <= 0:
            raise ValueError(
                f"Expected cameras among {list(SENSORS)}, num_past of 1 or more and a positive "
                f"fps, found {list(cameras)}, {num_past} and {fps}."
            )
        self.size, self.fps, self.cameras = size, float(fps), list(cameras)
        self.history = history_frames(num_past, fps)
        """For every past frame of the model, the number of the frame in the history."""

    def get_unique_name(self) -> str:
        """Names the cache: another size, rate or camera is another feature."""
        height, width = self.size
        views = "-".join(self.cameras)
        return f"maskworld_{height}x{width}_{len(self.history)}at{self.fps:g}hz_{views}"

    def compute_features(self, agent_input: Any) -> dict[str, Tensor]:
        """`frames` uint8 `v t c h w`, `ego` float32 (4), `command` int64 ().

        Raises:
            ValueError: a history that is not four frames, a picture is missing, an ego status that
                is not finite, a command that is no one-hot.
        """
        statuses, cameras = agent_input.ego_statuses, agent_input.cameras
        if len(statuses) != len(HISTORY_TIMES) or len(cameras) != len(HISTORY_TIMES):
            raise ValueError(
                f"Expected {len(HISTORY_TIMES)} frames of history, found {len(statuses)} statuses "
                f"and {len(cameras)} pictures: use a scene filter with num_history_frames=4."
            )
        now = statuses[-1]
        ego = np.concatenate([now.ego_velocity, now.ego_acceleration]).astype(np.float32)
        if ego.shape != (4,) or not np.isfinite(ego).all():
            raise ValueError(f"Expected finite vx, vy, ax, ay as the ego status, found {ego}.")
        return {
            "frames": self._frames(cameras),
            "ego": torch.from_numpy(ego),
            "command": torch.tensor(command_index(now.driving_command)),
        }

    def _frames(self, history: Sequence[Any]) -> UInt8[Tensor, "v t c h w"]:
        shown: dict[tuple[str, int], Tensor] = {}
        for i in sorted(set(self.history)):
            for camera in self.cameras:
                image = getattr(history[i], camera).image
                if image is None or image.dtype != np.uint8 or image.ndim != 3:
                    found = "none" if image is None else f"{image.dtype} of shape {image.shape}"
                    raise ValueError(
                        f"Expected an RGB picture of 8 bits from {camera} at {HISTORY_TIMES[i]} s, "
                        f"found {found}: load it as `get_sensor_config` asks."
                    )
                frame = rearrange(torch.from_numpy(np.array(image)), "h w c -> 1 1 c h w")
                # A centred cut draws nothing: the generator is only part of the call.
                cut = ResizeCrop(self.size)(Clip(frames=frame), torch.Generator()).frames
                assert cut is not None
                shown[camera, i] = cut
        views = [torch.cat([shown[c, i] for i in self.history], dim=1) for c in self.cameras]
        return torch.cat(views)


class TargetBuilder:
    """A `Scene` to the driven future, for training inside NAVSIM."""

    def get_unique_name(self) -> str:
        return "maskworld_trajectory"

    def compute_targets(self, scene: Any) -> dict[str, Tensor]:
        """`trajectory` float32 (8, 3) in the ego frame of now."""
        future = scene.get_future_trajectory(num_trajectory_frames=NUM_WAYPOINTS)
        return {"trajectory": torch.as_tensor(np.array(future.poses), dtype=torch.float32)}


class PlannerAgent(torch.nn.Module):
    """The methods of NAVSIM's `AbstractAgent` around a planner; made by `navsim_agent`."""

    def __init__(
        self,
        planner: Planner | Callable[[], Planner],
        builder: FeatureBuilder,
        *,
        seed: int,
        system: System | None,
        stage: str,
        lr: float | int,
    ) -> None:
        # AbstractAgent's arguments differ between v1.1 and v2: what it sets in either is set here.
        torch.nn.Module.__init__(self)
        self.requires_scene = False
        sampling = installed(
            "nuplan.planning.simulation.trajectory.trajectory_sampling", "TrajectorySampling"
        )
        self._trajectory_sampling = (sampling or Sampling)(
            time_horizon=HORIZON, interval_length=WAYPOINT_INTERVAL
        )
        self._planner: Planner | None = planner if isinstance(planner, Planner) else None
        self._make = None if isinstance(planner, Planner) else planner
        self._builder, self._seed = builder, seed
        self._system, self._stage, self._lr = system, stage, lr
        self._noise = torch.Generator().manual_seed(seed)

    def name(self) -> str:
        return "maskworld"

    def initialize(self) -> None:
        """Makes the planner where a function was given; again is nothing."""
        if self._planner is None and self._make is not None:
            self._planner = self._make()

    def get_sensor_config(self) -> Any:
        """Only the pictures that the model sees are loaded."""
        used = sorted(set(self._builder.history))
        wanted: dict[str, Any] = dict.fromkeys((*SENSORS, "lidar_pc"), False)
        wanted |= dict.fromkeys(self._builder.cameras, used)
        return (installed("navsim.common.dataclasses", "SensorConfig") or SensorConfig)(**wanted)

    def get_feature_builders(self) -> list[Any]:
        return [self._builder]

    def get_target_builders(self) -> list[Any]:
        return [TargetBuilder()]

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Plans: `trajectory` (b, 8, 3). Without gradient, and from the same seed every call, so
        that a scene's plan does not depend on the scenes before it.

        Raises:
            ValueError: the planner is not made yet, or does not give 8 finite waypoints.
        """
        if self._planner is None:
            raise ValueError("The planner is not loaded: call initialize() first, as NAVSIM does.")
        batch = self._batch(features)
        with torch.no_grad():
            plan = self._planner.plan(batch, torch.Generator().manual_seed(self._seed))
        if plan.shape != (len(batch), NUM_WAYPOINTS, 3) or not plan.isfinite().all():
            raise ValueError(
                f"Expected {NUM_WAYPOINTS} finite waypoints (x, y, heading) at 2 Hz for each of "
                f"{len(batch)} scenes, found shape {tuple(plan.shape)}, "
                f"{int((~plan.isfinite()).sum())} values not finite: use a planner of 4 s."
            )
        return {"trajectory": plan}

    def compute_trajectory(self, agent_input: Any) -> Any:
        """The plan of one scene as NAVSIM's `Trajectory`: float32 poses (8, 3)."""
        self.eval()
        features = {k: v[None] for k, v in self._builder.compute_features(agent_input).items()}
        poses = self.forward(features)["trajectory"][0].float().cpu().numpy()
        made = installed("navsim.common.dataclasses", "Trajectory") or Trajectory
        return made(poses, self._trajectory_sampling)

    def compute_loss(
        self,
        features: dict[str, Tensor],
        targets: dict[str, Tensor],
        predictions: dict[str, Tensor],
    ) -> Tensor:
        """The system's own loss of `stage` on the driven future; `predictions` are not used.

        The batch holds past frames only, so the stage must be one that needs no future frames.
        """
        system = self._trained()
        batch = self._batch(features, targets["trajectory"])
        return system.training_loss(batch, self._stage, self._noise).total

    def get_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the parameters that train in `stage`."""
        return torch.optim.AdamW(self._trained().parameter_groups(self._stage), lr=self._lr)

    def get_training_callbacks(self) -> list[Any]:
        return []

    def _trained(self) -> System:
        if self._system is None:
            raise ValueError(
                "This agent was made to plan: pass system= and stage= to navsim_agent to train it "
                "inside NAVSIM, or train it with `maskworld train` and plan with the result."
            )
        return self._system

    def _batch(self, features: dict[str, Tensor], trajectory: Tensor | None = None) -> Batch:
        frames = features["frames"]
        count = len(frames)
        plan = PlanBatch(
            ego=features["ego"].float(),
            command=features["command"],
            trajectory=None if trajectory is None else trajectory.float(),
            has_trajectory=None if trajectory is None else torch.ones(count, dtype=torch.bool),
            tokens=[""] * count,
        )
        batch = Batch(
            frames=frames,
            plan=plan,
            captions=[""] * count,
            fps=torch.full((count,), self._builder.fps),
        )
        weight = next(self.parameters(), None)
        return batch if weight is None else batch.to(weight.device)


def navsim_agent(
    planner: Planner | Callable[[], Planner],
    size: Sequence[int],
    *,
    num_past: int = 4,
    fps: float | int = 2.0,
    cameras: Sequence[str] = ("cam_f0",),
    seed: int = 0,
    system: System | None = None,
    stage: str = "",
    lr: float | int = 1e-5,
) -> PlannerAgent:
    """An agent around `planner`; a subclass of NAVSIM's `AbstractAgent` where that is installed.

    Args:
        planner: a planner, or a function without arguments that makes one in `initialize`.
        size: height and width of the model's frames.
        num_past, fps: the past frames that the model was trained to see. Warns where NAVSIM's 2 Hz
            have no frame at one of their times.
        cameras: the model's views, by NAVSIM's names.
        seed: of the noise that plans are sampled from.
        system, stage, lr: to train inside NAVSIM; not needed to plan.
    """
    if not isinstance(planner, Planner) and not callable(planner):
        raise ValueError(
            f"Expected a planner, with a method `plan`, or a function that makes one, found "
            f"{planner!r}: in a config, give it a `_target_`."
        )
    builder = FeatureBuilder((int(size[0]), int(size[1])), num_past, fps, cameras)
    offsets = [
        abs(HISTORY_TIMES[i] - (k + 1 - num_past) / fps) for k, i in enumerate(builder.history)
    ]
    if max(offsets) > 1e-3:
        warnings.warn(
            f"The model sees {num_past} past frames at {fps:g} Hz, NAVSIM shows 4 at 2 Hz: each "
            f"takes the nearest, up to {max(offsets):.2f} s off, from "
            f"{len(set(builder.history))} pictures.",
            stacklevel=2,
        )
    base = installed("navsim.agents.abstract_agent", "AbstractAgent")
    # Theirs is abstract with a metaclass, which calling `type` picks.
    made = PlannerAgent if base is None else type("NavsimPlannerAgent", (PlannerAgent, base), {})
    return made(planner, builder, seed=seed, system=system, stage=stage, lr=lr)


def history_frames(num_past: int, fps: float | int) -> list[int]:
    """For each of `num_past` frames at `fps` that end at 0 s, the nearest of NAVSIM's history, the
    earlier of two as near; the first for all that are older."""
    wanted = (np.arange(num_past) + 1 - num_past) / fps
    apart = np.abs(np.array(HISTORY_TIMES)[None] - wanted[:, None])
    return apart.round(6).argmin(axis=1).tolist()


def command_index(one_hot: Any) -> int:
    """0 left, 1 straight, 2 right, 3 unknown, from NAVSIM's one-hot in that order."""
    values = np.asarray(one_hot)
    if values.shape != (4,) or sorted(values.tolist()) != [0, 0, 0, 1]:
        raise ValueError(
            f"Expected a one-hot command (left, straight, right, unknown), found {one_hot!r}."
        )
    return int(values.argmax())
