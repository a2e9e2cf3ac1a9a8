"""The file of a training: written whole or not at all, refused where it is not this training's."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.errors import UserError
from attnbench.recipe import Recipe
from attnbench.training.checkpoint import State, read, write

SHORT = Recipe(samples=48, batch_size=8, ema=0.9, evaluations=3)
TENSORS = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}}


class StoppedError(Exception):
    """Someone ends the training."""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file, mark = tmp_path / "folder" / "state", {"seed": 3, "recipe": {"scales": (0.5, 1.0)}}
    state = State(2, [0.1, 1 / 3], [(16, {"top1": 0.25})], 1.5, 0.5)
    write(file, state, TENSORS, mark)
    found = read(file, mark)
    assert found is not None
    assert found[0] == state
    assert state.kept == 2
    torch.testing.assert_close(found[1], TENSORS, rtol=0, atol=0)
    assert [item.name for item in file.parent.iterdir()] == ["state"]


def test_without_a_file_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert read(tmp_path / "state", {}) is None


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, length: int) -> None:
    file = tmp_path / "state"
    write(file, State(), TENSORS, {})
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match=r"state' is damaged; delete it to train from the start"):
        read(file, {})


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    file, witness = tmp_path / "state", tmp_path / "witness"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (witness,)

    torch.save({"format": 1, "fingerprint": Trap()}, file)
    with pytest.raises(UserError, match="is damaged"):
        read(file, {})
    assert not witness.exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write(file, state := State(1), TENSORS, {})
    before = file.read_bytes()
    (tmp_path / "state.partial").symlink_to("/dev/full")  # every write to it: no space left on the device
    state.step = 2
    with pytest.raises(UserError, match=r"step 2 cannot be .* no space left on the device; the checkpoint of step 1"):
        write(file, state, TENSORS, {})
    assert file.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["state"]
    write(file, state, TENSORS, {})  # once there is space again
    assert torch.load(file, weights_only=True)["step"] == 2


def test_a_first_checkpoint_that_finds_no_space_says_so(tmp_path: Path) -> None:
    (tmp_path / "state.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="none was written before"):
        write(tmp_path / "state", State(), TENSORS, {})


def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write(file, State(1), TENSORS, {})
    code = f"""
import resource, torch
from pathlib import Path
from attnbench.training.checkpoint import State, write
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
write(Path({str(file)!r}), State(2, kept=1), {{"model": {{str(n): torch.rand(20_000) for n in range(9)}}}}, {{}})
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert "UserError: the checkpoint of step 2 cannot be written" in last
    assert last.endswith("File too large; the checkpoint of step 1 is kept")
    assert [item.name for item in tmp_path.iterdir()] == ["state"]
    assert torch.load(file, weights_only=True)["step"] == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # of this process


@pytest.mark.parametrize("step", [1, 2, 5, 6])
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    step: int, noise: Any, make_model: Any, fit: Any, tmp_path: Path
) -> None:
    recipe, file = replace(SHORT, accumulate=2), tmp_path / "state"
    whole = make_model(drop_path=0.3)
    undisturbed = fit(whole, noise, recipe)

    def stop(share: float) -> None:
        if round(share * 6) == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(make_model(drop_path=0.3), noise, recipe, checkpoint=file, every=0.0, progress=stop)
    resumed = make_model(drop_path=0.3)
    training = fit(resumed, noise, recipe, checkpoint=file)
    assert training.losses == undisturbed.losses
    assert training.curve == undisturbed.curve
    assert training.images == 48
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_finished_training_is_not_trained_again(noise: Any, make_model: Any, fit: Any, tmp_path: Path) -> None:
    file = tmp_path / "state"
    model, again = make_model(), make_model()
    first = fit(model, noise, SHORT, checkpoint=file)
    loaders = noise.closed
    second = fit(again, noise, SHORT, checkpoint=file)
    assert noise.closed == loaders  # not even the loader was started
    assert (second.losses, second.curve) == (first.losses, first.curve)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_is_written_when_it_is_due_before_each_evaluation_and_at_the_end(
    noise: Any, make_model: Any, fit: Any, tmp_path: Path
) -> None:
    file = tmp_path / "state"
    seen: list[int] = []

    def look(share: float) -> None:
        seen.append(torch.load(file, weights_only=True)["step"] if file.exists() else -1)

    fit(make_model(), noise, replace(SHORT, evaluations=0), checkpoint=file, every=3600.0, progress=look)
    assert seen == [-1] * 6
    assert torch.load(file, weights_only=True)["step"] == 6
    file.unlink()
    seen.clear()
    fit(make_model(), noise, SHORT, checkpoint=file, every=3600.0, progress=look)
    # Two calls in each evaluation but the steps': before them the state of its step was written.
    assert seen == [-1, -1, 2, 2, 2, 4, 4, 4, 6]
    file.unlink()
    seen.clear()
    fit(make_model(), noise, replace(SHORT, evaluations=0), checkpoint=file, every=0.0, progress=look)
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed was 0, not 1"),
        ({"resolution": (32, 64)}, "resolution was 32x32, not 32x64"),
        ({"autocast": torch.bfloat16}, "precision was fp32, not torch.bfloat16"),
        ({"recipe": replace(SHORT, clip=2.0)}, r"recipe.clip was 1.0, not 2.0"),
        ({"identity": "noise.v2"}, "data was noise.v1, not noise.v2"),
        ({"mechanism": "swin"}, r"shapes.\S+ was None, not \S+"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_and_the_difference_named(
    changed: dict[str, Any], message: str, noise: Any, make_model: Any, fit: Any, tmp_path: Path
) -> None:
    file = tmp_path / "state"
    fit(make_model(), noise, SHORT, checkpoint=file)
    noise.identity = changed.pop("identity", noise.identity)
    recipe, model = changed.pop("recipe", SHORT), make_model(changed.pop("mechanism", "identity"))
    with pytest.raises(UserError, match=f"state' is of another training: {message}; delete it"):
        fit(model, noise, recipe, checkpoint=file, **changed)
