"""A planner as NAVSIM's agent, on inputs of its schema, with and without (a stand-in of) navsim."""

from __future__ import annotations

import sys
import types as python_types
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from maskworld.serving import navsim_types
from maskworld.serving.navsim_agent import SENSORS, history_frames, navsim_agent
from maskworld.types import Batch, LossOutput


@dataclass
class Camera:
    """navsim/common/dataclasses.py: an empty one has no image."""

    image: np.ndarray | None = None
    sensor2lidar_rotation: np.ndarray | None = None
    sensor2lidar_translation: np.ndarray | None = None
    intrinsics: np.ndarray | None = None
    distortion: np.ndarray | None = None


@dataclass
class Cameras:
    cam_f0: Camera
    cam_l0: Camera = field(default_factory=Camera)
    cam_l1: Camera = field(default_factory=Camera)
    cam_l2: Camera = field(default_factory=Camera)
    cam_r0: Camera = field(default_factory=Camera)
    cam_r1: Camera = field(default_factory=Camera)
    cam_r2: Camera = field(default_factory=Camera)
    cam_b0: Camera = field(default_factory=Camera)


@dataclass
class EgoStatus:
    ego_pose: np.ndarray
    ego_velocity: np.ndarray
    ego_acceleration: np.ndarray
    driving_command: np.ndarray
    in_global_frame: bool = False


@dataclass
class AgentInput:
    ego_statuses: list[EgoStatus]
    cameras: list[Cameras]
    lidars: list[Any]


def agent_input(sensors: Any = None, command: int = 0) -> AgentInput:
    """The picture of history frame i is grey 50 i, with white bars left and right that a centred
    cut to 1:1 removes. Pictures that `sensors` does not ask for are not loaded, as NAVSIM does."""
    statuses, cameras = [], []
    for i in range(4):
        image = np.full((90, 160, 3), 50 * i, np.uint8)
        image[:, :35] = image[:, -35:] = 255
        wanted = True if sensors is None else sensors.cam_f0
        is_shown = wanted if isinstance(wanted, bool) else i in wanted
        cameras.append(Cameras(cam_f0=Camera(image) if is_shown else Camera()))
        statuses.append(
            EgoStatus(
                ego_pose=np.array([4.0 * (i - 3), 0, 0], np.float32),
                ego_velocity=np.array([5.0 + i, 0.25], np.float32),
                ego_acceleration=np.array([-0.5, i], np.float32),
                driving_command=np.eye(4, dtype=int)[command],
            )
        )
    return AgentInput(statuses, cameras, [None] * 4)


class ConstantVelocity:
    """A planner that needs its status, tells its command and remembers its batch."""

    def __init__(self, num_waypoints: int = 8) -> None:
        self.num_waypoints = num_waypoints
        self.seen: list[Batch] = []

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        self.seen.append(batch)
        assert batch.plan is not None
        seconds = 0.5 * torch.arange(1, self.num_waypoints + 1)
        xy = batch.plan.ego[:, None, :2] * seconds[:, None]
        heading = batch.plan.command[:, None, None] + 0 * xy[..., :1]
        noise = 1e-3 * torch.randn(xy.shape, generator=generator)
        return torch.cat([xy + noise, heading], dim=2)


def test_a_plan_comes_from_the_status_of_now_and_the_command() -> None:
    planner = ConstantVelocity()
    agent = navsim_agent(planner, (64, 64))
    agent.initialize()
    for command in range(4):
        trajectory = agent.compute_trajectory(agent_input(agent.get_sensor_config(), command))
        poses = trajectory.poses
        assert (poses.shape, poses.dtype) == ((8, 3), np.float32)
        np.testing.assert_allclose(poses[:, 0], 8.0 * 0.5 * np.arange(1, 9), atol=0.01)
        np.testing.assert_allclose(poses[:, 1], 0.25 * 0.5 * np.arange(1, 9), atol=0.01)
        np.testing.assert_allclose(poses[:, 2], command)
        sampling = trajectory.trajectory_sampling
        assert (sampling.time_horizon, sampling.interval_length) == (4.0, 0.5)
    assert planner.seen[0].plan is not None
    np.testing.assert_allclose(planner.seen[0].plan.ego, [[8.0, 0.25, -0.5, 3.0]])


def test_frames_are_the_history_at_the_size_of_the_model() -> None:
    planner = ConstantVelocity()
    navsim_agent(planner, (64, 64)).compute_trajectory(agent_input())
    (batch,) = planner.seen
    assert batch.frames is not None
    assert batch.fps is not None
    assert (batch.frames.shape, batch.frames.dtype) == ((1, 1, 4, 3, 64, 64), torch.uint8)
    assert batch.fps.tolist() == [2.0]
    for i in range(4):
        assert (batch.frames[0, 0, i] == 50 * i).all(), "the white bars are cut off"


def test_another_rate_takes_the_nearest_frames_and_warns() -> None:
    assert history_frames(4, 2.0) == [0, 1, 2, 3]
    assert history_frames(2, 1.0) == [1, 3]
    assert history_frames(1, 8.0) == [3]
    assert history_frames(5, 8.0) == [2, 2, 2, 3, 3]  # -0.5, -0.375, (-0.25), -0.125, 0
    assert history_frames(6, 2.0) == [0, 0, 0, 1, 2, 3]  # older than the history
    planner = ConstantVelocity()
    with pytest.warns(UserWarning, match=r"5 past frames at 8 Hz.*0\.25 s off, from 2 pictures"):
        agent = navsim_agent(planner, (64, 64), num_past=5, fps=8)
    assert agent.get_sensor_config().cam_f0 == [2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once, when it is made
        agent.compute_trajectory(agent_input(agent.get_sensor_config()))
        navsim_agent(planner, (64, 64), num_past=2, fps=1)
    frames = planner.seen[0].frames
    assert frames is not None
    assert frames[0, 0, :, 0, 0, 0].tolist() == [100, 100, 100, 150, 150]


def test_only_the_sensors_it_sees_are_loaded() -> None:
    config = navsim_agent(ConstantVelocity(), (64, 64)).get_sensor_config()
    assert config.cam_f0 == [0, 1, 2, 3]
    assert not any(getattr(config, name) for name in [*SENSORS[1:], "lidar_pc"])


def test_a_plan_does_not_depend_on_the_scenes_before() -> None:
    agent = navsim_agent(ConstantVelocity(), (64, 64), seed=3)
    first = agent.compute_trajectory(agent_input()).poses
    agent.compute_trajectory(agent_input(command=2))
    np.testing.assert_array_equal(agent.compute_trajectory(agent_input()).poses, first)
    other = navsim_agent(ConstantVelocity(), (64, 64), seed=4).compute_trajectory(agent_input())
    assert (other.poses[:, :2] != first[:, :2]).any()


def test_a_function_makes_the_planner_when_navsim_says_so() -> None:
    made = []

    def load() -> ConstantVelocity:
        made.append(ConstantVelocity())
        return made[-1]

    agent = navsim_agent(load, (64, 64))
    with pytest.raises(ValueError, match=r"call initialize\(\) first"):
        agent.compute_trajectory(agent_input())
    assert not made
    agent.initialize()
    agent.initialize()
    agent.compute_trajectory(agent_input())
    assert len(made) == 1


def test_what_is_wrong_with_an_input_is_said() -> None:
    agent = navsim_agent(ConstantVelocity(), (64, 64))
    given = agent_input()
    given.cameras[1] = Cameras(cam_f0=Camera())
    with pytest.raises(ValueError, match=r"cam_f0 at -1\.0 s, found none"):
        agent.compute_trajectory(given)
    given = agent_input()
    given.ego_statuses[-1].driving_command = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match="one-hot command"):
        agent.compute_trajectory(given)
    given = agent_input()
    given.ego_statuses[-1].ego_velocity[0] = np.nan
    with pytest.raises(ValueError, match="finite vx"):
        agent.compute_trajectory(given)
    given = agent_input()
    given.ego_statuses.pop()
    with pytest.raises(ValueError, match="num_history_frames=4"):
        agent.compute_trajectory(given)
    with pytest.raises(ValueError, match=r"Expected 8 finite waypoints.*\(1, 6, 3\)"):
        navsim_agent(ConstantVelocity(6), (64, 64)).compute_trajectory(agent_input())
    with pytest.raises(ValueError, match="Expected cameras among"):
        navsim_agent(ConstantVelocity(), (64, 64), cameras=("cam_front",))


class Scene:
    def get_future_trajectory(self, num_trajectory_frames: int) -> Any:
        poses = np.ones((num_trajectory_frames, 3))
        return python_types.SimpleNamespace(poses=poses)


class OneWeight(torch.nn.Module):
    """A system whose only weight is the speed it plans with."""

    def __init__(self) -> None:
        super().__init__()
        self.speed = torch.nn.Parameter(torch.zeros(()))

    def plan(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "b l 3"]:
        return self.speed.expand(len(batch), 8, 3)

    def training_loss(self, batch: Batch, stage: str, generator: torch.Generator) -> LossOutput:
        assert stage == "action"
        assert batch.plan is not None
        assert batch.plan.trajectory is not None
        return LossOutput((batch.plan.trajectory - self.speed).square().mean(), {})

    def parameter_groups(self, stage: str) -> list[dict[str, Any]]:
        return [{"params": [self.speed]}]


def test_an_agent_with_a_system_trains_by_its_loss() -> None:
    system = OneWeight()
    agent = navsim_agent(system, (64, 64), system=system, stage="action", lr=0.1)
    (features,), (targets,) = agent.get_feature_builders(), agent.get_target_builders()
    rows = {k: torch.stack([v, v]) for k, v in features.compute_features(agent_input()).items()}
    goal = {k: torch.stack([v, v]) for k, v in targets.compute_targets(Scene()).items()}
    assert agent.get_training_callbacks() == []
    optimizer = agent.get_optimizers()
    losses = []
    for _ in range(30):
        loss = agent.compute_loss(rows, goal, agent.forward(rows))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == 1.0
    assert losses[-1] < 0.05
    assert [name for name, _ in agent.named_parameters()], "Lightning must find the weights"
    planner_only = navsim_agent(ConstantVelocity(), (64, 64))
    with pytest.raises(ValueError, match=r"pass system= and stage="):
        planner_only.get_optimizers()


@pytest.fixture(params=["v1.1", "v2"])
def navsim(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands in for an installed navsim: its abstract agent as in that version."""

    class TrajectorySampling:
        def __init__(self, time_horizon: float, interval_length: float) -> None:
            self.num_poses = round(time_horizon / interval_length)

    class AbstractAgentV1(torch.nn.Module, ABC):
        def __init__(self, requires_scene: bool = False) -> None:
            super().__init__()
            self.requires_scene = requires_scene

        @abstractmethod
        def name(self) -> str: ...

        @abstractmethod
        def get_sensor_config(self) -> Any: ...

        @abstractmethod
        def initialize(self) -> None: ...

        def compute_trajectory(self, agent_input: Any) -> Any:
            raise AssertionError("ours must be used")

    class AbstractAgentV2(AbstractAgentV1):
        def __init__(self, trajectory_sampling: Any, requires_scene: bool = False) -> None:
            super().__init__(requires_scene)
            self._trajectory_sampling = trajectory_sampling

    @dataclass
    class Trajectory:
        poses: np.ndarray
        trajectory_sampling: Any

        def __post_init__(self) -> None:
            assert self.poses.shape[0] == self.trajectory_sampling.num_poses

    base = AbstractAgentV1 if request.param == "v1.1" else AbstractAgentV2
    contents = {
        "navsim": {},
        "navsim.agents": {},
        "navsim.agents.abstract_agent": {"AbstractAgent": base},
        "navsim.common": {},
        "navsim.common.dataclasses": {
            "Trajectory": Trajectory,
            "SensorConfig": navsim_types.SensorConfig,
        },
        "nuplan": {},
        "nuplan.planning": {},
        "nuplan.planning.simulation": {},
        "nuplan.planning.simulation.trajectory": {},
        "nuplan.planning.simulation.trajectory.trajectory_sampling": {
            "TrajectorySampling": TrajectorySampling
        },
    }
    for name, values in contents.items():
        package = python_types.ModuleType(name)
        package.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, package)
    return python_types.SimpleNamespace(AbstractAgent=base, Trajectory=Trajectory)


def test_with_navsim_installed_the_agent_is_one_of_theirs(navsim: Any) -> None:
    agent = navsim_agent(ConstantVelocity(), (64, 64))
    assert isinstance(agent, navsim.AbstractAgent)
    assert agent.requires_scene is False
    agent.initialize()
    trajectory = agent.compute_trajectory(agent_input(agent.get_sensor_config()))
    assert isinstance(trajectory, navsim.Trajectory)
    np.testing.assert_allclose(trajectory.poses[-1, 0], 32.0, atol=0.01)


def test_navsim_is_not_imported_before_an_agent_is_made() -> None:
    assert "navsim" not in sys.modules
    agent = navsim_agent(ConstantVelocity(), (64, 64))
    assert type(agent).__mro__[1] is torch.nn.Module
    assert "navsim" not in sys.modules


def test_a_broken_navsim_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'pytorch_lightning'", name="pytorch_lightning")

    monkeypatch.setattr(navsim_types, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="pytorch_lightning"):
        navsim_agent(ConstantVelocity(), (64, 64))
