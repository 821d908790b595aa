import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from robot_toy import SPEC, LineWorld, Reader, reader

from maskworld.data.control import MemoryPick
from maskworld.interfaces import Policy
from maskworld.policies.robot import ChunkPolicy
from maskworld.serving import policy_client
from maskworld.serving.policy_client import PolicyClient, decode, encode
from maskworld.serving.policy_server import PolicyServer
from maskworld.types import Observation


def run(policy: Policy, seed: int) -> tuple[list[float], int]:
    """An episode's actions, and how often pictures were asked for."""
    world = LineWorld("reach", "")
    observation, _ = world.reset(seed=seed)
    policy.reset(seed)
    actions, pictures, is_over = [], 0, False
    while not is_over:
        pictures += getattr(policy, "reads_frames", True)
        action = policy.act(observation)
        actions.append(float(action[0]))
        observation, _, is_over, _, _ = world.step(action)
    return actions, pictures


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    noisy = ChunkPolicy(
        Reader(noise=0.3), SPEC, memory=MemoryPick(2, "every", stride=4), exec_steps=2
    )
    with PolicyServer(noisy.twin, port=0, metadata={"run": "toy"}) as made:
        yield made


def test_arrays_come_back_as_they_were_and_nothing_else_is_let_in() -> None:
    arrays = [
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3)[..., ::-1],
        np.array(1.5, np.float32),
        np.zeros((0, 3), np.int64),
        np.arange(3, dtype=">f8"),
        np.array([True, False]),
    ]
    back = decode(encode({"a": arrays, "text": "ü", "n": np.float32(0.5)}))
    for sent, found in zip(arrays, back["a"], strict=True):
        np.testing.assert_array_equal(sent, found)
        assert found.flags.writeable
    assert (back["text"], back["n"]) == ("ü", 0.5)
    with pytest.raises(TypeError, match="arrays of numbers"):
        encode({"a": np.array([object()])})
    for wrong in (b"\xc1", b"", encode({"__array__": "O", "shape": [1], "data": b"12345678"})):
        with pytest.raises(ValueError, match="msgpack"):
            decode(wrong)


def test_a_served_policy_acts_as_it_does_at_home(server: PolicyServer) -> None:
    home = ChunkPolicy(
        Reader(noise=0.3), SPEC, memory=MemoryPick(2, "every", stride=4), exec_steps=2
    )
    with PolicyClient(server.url) as client:
        assert isinstance(client, Policy)
        for seed in (3, 4):
            assert run(client, seed) == run(home, seed)
        steps, pictures = run(client, 3)
        assert pictures < len(steps)  # the others were not sent


def test_clients_are_told_what_the_policy_expects(server: PolicyServer) -> None:
    with PolicyClient(server.url) as client:
        about = client.metadata
        assert about["cameras"] == ["front"]
        assert about["frame_size"] == [4, 4]
        assert (about["action_dim"], about["low"], about["high"]) == (1, [-1], [1])
        assert (about["exec_steps"], client.exec_steps) == (2, 2)
        assert (about["memory"]["stride"], about["run"]) == (4, "toy")
        assert "protocol" not in client.describe()


def test_two_clients_do_not_see_each_others_episodes(server: PolicyServer) -> None:
    with PolicyClient(server.url) as one, PolicyClient(server.url) as two:
        world = LineWorld("reach", "")
        observation, _ = world.reset(seed=3)
        expected, _ = run(one, 3)
        one.reset(3)
        found = [float(one.act(observation)[0])]
        two.reset(5)
        for _ in range(3):
            two.act(observation)
        found.append(float(one.act(world.step(np.array(found))[0])[0]))
        assert found == expected[:2]


def test_what_a_policy_refuses_comes_back_in_words_and_ends_nothing(server: PolicyServer) -> None:
    world = LineWorld("reach", "")
    observation, _ = world.reset(seed=0)
    with PolicyClient(server.url) as client:
        client.reset(0)
        wrong = replace(observation, frames=torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
        for message, words in (
            (lambda: client.act(wrong), "cameras \\['front'\\]"),
            (lambda: client.infer(np.zeros((1, 3, 4, 4)), [np.nan]), "finite"),
            (lambda: client.infer(np.zeros((4, 4)), [0.0]), "cameras, 3, h, w"),
            (lambda: client._ask({"type": "dance"}), "'dance'"),
            (lambda: client._ask({"type": "reset", "seed": "x"}), "'x'"),
        ):
            with pytest.raises(ValueError, match=words):
                message()
        assert client.act(observation).shape == (1,)


def test_a_bug_in_a_policy_is_named_and_the_server_lives_on() -> None:
    class Buggy:
        def reset(self, seed: int) -> None:
            pass

        def act(self, observation: Observation) -> np.ndarray:
            raise KeyError("weights")

    observation, _ = LineWorld("reach", "").reset(seed=0)
    with PolicyServer(Buggy, port=0) as server, PolicyClient(server.url) as client:
        for _ in range(2):
            with pytest.raises(ValueError, match="KeyError in the policy: 'weights'"):
                client.act(observation)


def test_health_is_answered_and_a_stop_is_told_to_clients() -> None:
    server = PolicyServer(reader().twin, port=0)
    with server:
        http = server.url.replace("ws:", "http:") + "/healthz"
        with urllib.request.urlopen(http, timeout=10) as answer:
            assert (answer.status, answer.read()) == (200, b"OK\n")
        client = PolicyClient(server.url)
    with pytest.raises(ConnectionError, match=r"is gone.*stops"):
        client.reset(0)
    with pytest.raises(ConnectionError, match="found none"):
        PolicyClient(server.url)


def test_a_signal_ends_a_server_in_good_order() -> None:
    code = """
from robot_toy import reader
from maskworld.serving.policy_server import PolicyServer
server = PolicyServer(reader().twin, port=0)
print(server.url, flush=True)
server.serve_forever()
print("stopped", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        client = PolicyClient(process.stdout.readline().strip())
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().strip() == "stopped"
    assert process.returncode == 0
    with pytest.raises(ConnectionError, match="is gone"):
        client.reset(0)


def test_the_client_alone_needs_neither_torch_nor_maskworld() -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["maskworld"] = None
import importlib.util
spec = importlib.util.spec_from_file_location("policy_client", {policy_client.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.decode(module.encode({{"a": 1}})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'a': 1}"
