"""The weights of a module as named tensors in safetensors files, tied weights once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

_NUM_NAMED = 5


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; of weights tied to each other, the first name.

    Raises:
        ValueError: a state entry that is not a tensor.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"Expected only tensors in the state of {type(module).__name__}, found {name} of "
                f"type {type(value).__name__}: register it as a buffer or put it in the config."
            )
        place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype, value.device)
        if value.numel() and not value.is_meta and place in seen:
            continue
        seen.add(place)
        tensors[name] = value.detach()
    return tensors


def load_state_tensors(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copies `tensors` (as made by `state_tensors`) into `module`, all or none.

    Args:
        origin: what the tensors are, for messages ("model.safetensors of ...").

    Raises:
        ValueError: missing, unexpected or differently shaped entries, by name.
    """
    expected = state_tensors(module)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} (expected {tuple(value.shape)}, found {tuple(tensors[name].shape)})"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    problems = [
        f"{title}: {', '.join(names[:_NUM_NAMED])}"
        + (f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else "")
        for title, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes))
        if names
    ]
    if problems:
        raise ValueError(
            f"Expected the weights of this {type(module).__name__} in {origin}, found others. "
            f"{'; '.join(problems)}. Build the system with the config the file was written with."
        )
    module.load_state_dict(dict(tensors), strict=False)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file.

    Raises:
        ValueError: the file is missing, truncated or not safetensors; names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"Expected a safetensors file at {path}, found none.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a whole safetensors file at {path}, found a damaged one ({error}): "
            "copy or download it again."
        ) from error
