"""Weights alone, small enough to ship: safetensors, in bf16 unless another type is asked for."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.tensor import DTensor

from course_lib.train.checkpoint import CheckpointError, model_tensors, read_tensors


def save_weights(source: nn.Module | str | Path, path: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """One file of a model's weights and buffers, or of a checkpoint's (`step-...`, of one process or a sharded run).

    The weights of a sharded model are gathered: every process calls this, the first one writes."""
    tensors = model_tensors(source) if isinstance(source, nn.Module) else read_weights(source)
    whole = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}
    whole = {name: value.to(dtype) if value.is_floating_point() else value for name, value in whole.items()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.tmp")
        save_file({name: value.contiguous() for name, value in whole.items()}, draft)
        draft.replace(path)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of `save_weights`, or of a run's checkpoint. CheckpointError where it is neither."""
    path = Path(path)
    try:
        if not path.is_dir():
            return load_file(path)
        stored = HuggingFaceStorageReader(str(path / "model")).read_metadata().state_dict_metadata
        tensors = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in stored.items()}
        read_tensors(path / "model", tensors)
        return tensors
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} can't be read as weights (safetensors): {error}") from error


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills the model, in its own types. CheckpointError names what is missing, left over or of another shape."""
    here, stored = model_tensors(model), read_weights(path)
    wrong = [f"{name} is missing" for name in here.keys() - stored.keys()]
    wrong += [f"{name} is not in the model" for name in stored.keys() - here.keys()]
    for name in here.keys() & stored.keys():
        if here[name].shape != stored[name].shape:
            wrong.append(f"{name} is {tuple(stored[name].shape)}, the model's {tuple(here[name].shape)}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(sorted(wrong)[:3])}{more}")
    for name, tensor in here.items():
        tensor.copy_(stored[name])
