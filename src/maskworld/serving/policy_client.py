"""The client of `policy_server`: a policy that lives elsewhere, with `reset` and `act`.

This file alone is enough on a robot or in a simulator's environment: it needs NumPy, `msgpack` and
`websockets`, no torch and nothing else of maskworld. Copy it there, or install `maskworld[serve]`.

    client = PolicyClient("ws://gpu-machine:8000")
    print(client.metadata["cameras"], client.metadata["frame_size"], client.metadata["exec_steps"])
    client.reset(seed=0)
    action = client.infer(frames, state, "open the drawer")

Frames are only sent when the server says that it will read them: once per chunk, and where they
will be remembered.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import msgpack
import numpy as np

PROTOCOL = 1
"""Of the messages; both sides must have the same."""
MAX_BYTES = 2**26
"""Of a message: 64 MiB."""


def encode(message: Any) -> bytes:
    """A message of numbers, texts, lists, dicts and NumPy arrays as bytes."""
    return msgpack.packb(message, default=_array_to_dict, use_bin_type=True)


def decode(data: Any) -> Any:
    """The message that `encode` made of it; nothing is executed.

    Raises:
        ValueError: not such a message.
    """
    if not isinstance(data, bytes):
        raise ValueError(f"Expected a binary message, found {type(data).__name__}.")
    try:
        return msgpack.unpackb(data, object_hook=_dict_to_array, raw=False)
    except Exception as error:
        raise ValueError(f"Expected a message of msgpack with arrays, found {error}.") from error


class PolicyClient:
    """A connection to a policy server; satisfies `maskworld.interfaces.Policy`.

    Args:
        url: of the server.
        timeout: seconds to wait for an answer; None waits for ever.

    Raises:
        ConnectionError: nobody answers there.
        ValueError: the server speaks another protocol.
    """

    def __init__(self, url: str = "ws://127.0.0.1:8000", timeout: float | None = 60.0) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self.url, self._timeout = url, timeout
        self._closing = ExitStack()
        try:
            opened = connect(url, compression=None, max_size=MAX_BYTES)
            self._socket = self._closing.enter_context(opened)
        except (OSError, WebSocketException) as error:
            raise ConnectionError(
                f"Expected a policy server at {url}, found none ({error}): start one with "
                "maskworld.serving.policy_server, and check host and port."
            ) from error
        self.metadata: dict[str, Any] = self._receive()
        """What the policy expects and gives: cameras, frame_size, state_dim, action_dim, low, high,
        exec_steps, fps, memory."""
        if self.metadata.get("protocol") != PROTOCOL:
            self.close()
            raise ValueError(
                f"Expected a server of protocol {PROTOCOL}, found {self.metadata.get('protocol')} "
                f"at {url}: install the same maskworld on both sides."
            )
        self.reads_frames = True
        """Whether the next action needs the frames of now."""

    def reset(self, seed: int) -> None:
        """Begins an episode; `seed` decides every draw of it."""
        self._ask({"type": "reset", "seed": int(seed)})

    def infer(self, frames: Any, state: Any, instruction: str = "") -> np.ndarray:
        """The next action.

        Args:
            frames: uint8 `cameras 3 h w` in the order of `metadata["cameras"]`; None where
                `reads_frames` is False.
            state: proprioception, in the units of the training data.

        Raises:
            ValueError: what the policy refuses, in its words.
            ConnectionError: the server is gone.
        """
        message: dict[str, Any] = {"type": "act", "instruction": instruction}
        message["state"] = np.asarray(state, np.float32)
        if self.reads_frames:
            message["frames"] = np.ascontiguousarray(frames, np.uint8)
        return self._ask(message)["action"]

    def act(self, observation: Any) -> np.ndarray:
        """The next action; `observation` has `frames`, `state` and `instruction`."""
        frames = observation.frames if self.reads_frames else None
        return self.infer(frames, observation.state, observation.instruction)

    def describe(self) -> dict[str, Any]:
        """What a score of this policy depends on."""
        return {key: value for key, value in self.metadata.items() if key != "protocol"}

    @property
    def exec_steps(self) -> int:
        """Actions of a chunk that are carried out."""
        return int(self.metadata.get("exec_steps", 1))

    def close(self) -> None:
        """Ends the connection; the server forgets the episode."""
        self._closing.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        try:
            self._socket.send(encode(message))
        except ConnectionClosed as error:
            raise ConnectionError(f"The policy server at {self.url} is gone: {error}") from error
        answer = self._receive()
        self.reads_frames = bool(answer["reads_frames"])
        return answer

    def _receive(self) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        try:
            answer = decode(self._socket.recv(timeout=self._timeout))
        except ConnectionClosed as error:
            raise ConnectionError(f"The policy server at {self.url} is gone: {error}") from error
        except TimeoutError as error:
            # A late answer would be taken for that of the next question.
            self.close()
            raise ConnectionError(
                f"The policy server at {self.url} did not answer within {self._timeout} s: pass a "
                "longer timeout, or look at its log."
            ) from error
        if "error" in answer:
            raise ValueError(f"The policy server refused: {answer['error']}")
        return answer


def _array_to_dict(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        return {"__array__": little.dtype.str, "shape": list(value.shape), "data": little.tobytes()}
    raise TypeError(
        f"Expected numbers, texts, lists, dicts and arrays of numbers, found {value!r}."
    )


def _dict_to_array(value: dict[Any, Any]) -> Any:
    if "__array__" not in value:
        return value
    kind = np.dtype(value["__array__"])
    if kind.kind not in "biuf":
        raise ValueError(f"an array of {kind}")
    return np.frombuffer(value["data"], kind).reshape(value["shape"]).copy()
