"""Serves a policy over websockets, so that robot or simulator and network live apart.

A client connects, is told what the policy expects (cameras, sizes, action range, exec_steps), then
sends `reset` and `act` messages; the answer holds the next action and whether the next `act` needs
frames. Every connection has a policy of its own, so several episodes may run at once; the network
answers one at a time. What a policy refuses goes back to the client in words and ends nothing.

`GET /healthz` on the same port answers "OK". Needs the extra `serve`. There is no password: the
default listens on this machine alone; put a tunnel (ssh -L) before it rather than opening the port.
"""

from __future__ import annotations

import http
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from maskworld.interfaces import Policy
from maskworld.serving.policy_client import MAX_BYTES, PROTOCOL, decode, encode
from maskworld.types import Observation

LOG = logging.getLogger("maskworld.serving")
GOING_AWAY = 1001
"""The close code of a server that stops (RFC 6455)."""


class PolicyServer:
    """Listens from its making on; `serve_forever`, or `with server:` for a thread.

    Args:
        make_policy: called for every connection; policies of one network should share it
            (`ChunkPolicy.twin`).
        metadata: told to clients besides what the policy's `describe` says.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        make_policy: Callable[[], Policy],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        from websockets.sync.server import serve

        self._make, self._given = make_policy, dict(metadata or {})
        self._network = threading.Lock()
        self._clients: set[Any] = set()
        self._thread: threading.Thread | None = None
        self._server = serve(
            self._talk,
            host,
            port,
            process_request=_answer_http,
            compression=None,
            max_size=MAX_BYTES,
        )
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"ws://{host}:{self.port}"

    def serve_forever(self) -> None:
        """Serves until `close`, Ctrl-C or SIGTERM; call it from the main thread."""

        def stop(number: int, frame: Any) -> None:
            del number, frame
            # shutdown() waits for the loop that this handler interrupts.
            threading.Thread(target=self.close).start()

        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, stop)
        LOG.info("serving at %s", self.url)
        self._server.serve_forever()

    def __enter__(self) -> PolicyServer:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Tells every client that the server goes, and stops; an answer under way is finished."""
        for client in list(self._clients):
            with self._network:
                client.close(GOING_AWAY, "the policy server stops")
        self._server.shutdown()
        if self._thread is not None:
            self._thread.join()

    def _talk(self, client: Any) -> None:
        """The life of a connection."""
        from websockets.exceptions import ConnectionClosed

        self._clients.add(client)
        try:
            with self._network:
                policy = self._make()
            about: dict[str, Any] = getattr(policy, "describe", dict)()
            client.send(encode({**about, **self._given, "protocol": PROTOCOL}))
            for data in client:
                with self._network:  # sent before `close` can come between
                    client.send(encode(self._answer(policy, data)))
        except ConnectionClosed:
            pass  # clients come and go
        finally:
            self._clients.discard(client)

    def _answer(self, policy: Policy, data: Any) -> dict[str, Any]:
        """What a message is answered with; an error is an answer too."""
        try:
            message = decode(data)
            kind = message.get("type") if isinstance(message, dict) else None
            if kind == "reset":
                policy.reset(_number(message, "seed"))
                return {"reads_frames": _reads_frames(policy)}
            if kind != "act":
                raise ValueError(f'Expected a message of type "reset" or "act", found {kind!r}.')
            observation = _observation(message, reads_frames=_reads_frames(policy))
            action = policy.act(observation)
            return {"action": np.asarray(action), "reads_frames": _reads_frames(policy)}
        except ValueError as error:
            return {"error": str(error)}
        except Exception as error:
            LOG.exception("a policy failed")
            return {"error": f"{type(error).__name__} in the policy: {error}; see its log."}


def _observation(message: Mapping[str, Any], *, reads_frames: bool) -> Observation:
    """Raises ValueError for one that is incomplete."""
    state, frames = message.get("state"), message.get("frames")
    if not isinstance(state, np.ndarray) or state.ndim != 1:
        raise ValueError("Expected a state, one row of numbers, found none.")
    if frames is None and not reads_frames:
        frames = np.zeros((0, 3, 0, 0), np.uint8)  # no camera was asked
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4:
        found = "none" if frames is None else f"{getattr(frames, 'dtype', type(frames))} of shape "
        raise ValueError(
            "Expected uint8 frames (cameras, 3, h, w), found "
            f"{found}{getattr(frames, 'shape', '')}: send the pictures of now."
        )
    return Observation(
        frames=torch.from_numpy(frames),
        state=torch.from_numpy(state.astype(np.float32)),
        instruction=str(message.get("instruction", "")),
    )


def _number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"Expected a {name} of at least 0, found {value!r}.")
    return value


def _reads_frames(policy: Policy) -> bool:
    return bool(getattr(policy, "reads_frames", True))


def _answer_http(connection: Any, request: Any) -> Any:
    """Answers a health check; None goes on to the websocket."""
    if request.path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    return None
