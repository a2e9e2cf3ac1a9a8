"""Presets and ``key=value`` words: what composes, and what is refused in one line."""

import pytest

from attnbench.compose import compose, presets
from attnbench.config import RunConfig
from attnbench.errors import UserError


def test_the_quick_preset_is_the_schemas_defaults() -> None:
    assert compose("quick", []) == RunConfig()


def test_every_preset_composes() -> None:
    assert {"paper", "quick"} <= set(presets())
    for name in presets():
        assert isinstance(compose(name, []), RunConfig)


def test_the_paper_preset_is_tiny_and_costs_only() -> None:
    config = compose("paper", [])
    assert (config.size, config.measure) == ("tiny", ["cost"])


def test_words_set_nested_keys_with_their_types() -> None:
    config = compose("quick", ["recipe.samples=64", "timing.budget=2", "mechanisms=[full,pvt]", "data='a, b=~c'"])
    assert config.recipe == {"samples": 64}
    assert config.timing.budget == 2.0
    assert config.mechanisms == ["full", "pvt"]
    assert config.data == "a, b=~c"


def test_settings_of_a_mechanism_need_no_plus() -> None:
    config = compose("quick", ["settings.focal.focal_window=[5,3,3,1]", "settings.swin.window=4"])
    assert config.settings == {"focal": {"focal_window": [5, 3, 3, 1]}, "swin": {"window": 4}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("resolution=[64]", "did you mean 'resolutions'"),
        ("recipe.sample=1", "did you mean 'recipe.samples'"),
        ("recipe=1", "sets a group"),
        ("size.more=1", "has no parts"),
        ("settings.window=1", "settings.<mechanism>.<setting>"),
        ("+size=tiny", "not key=value"),
        ("++size=tiny", "not key=value"),
        ("~size", "not key=value"),
        ("hydra.run.dir=x", "unknown override 'hydra'"),
        ("size", "not key=value"),
        ("size =tiny", "not key=value"),
        ("mechanisms=[swin", "mechanisms="),
        ("data=${oc.env:NO_SUCH_VARIABLE_HERE}", "NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_a_word_that_the_schema_does_not_have_is_one_clear_line(word: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        compose("quick", [word])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_preset_gets_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match="did you mean 'quick'"):
        compose("quik", [])
