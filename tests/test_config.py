# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from flavr_jax.config import ModelConfig, build, read_toml


@dataclasses.dataclass(frozen=True)
class Recipe:
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    rate: float = 1e-3
    name: str | None = None
    limit: float | None = None
    small: ModelConfig | None = None
    sizes: tuple[int, ...] = ()


def test_nested_tables_become_nested_settings():
    recipe = build(
        Recipe,
        {"model": {"width": 32, "join": "add"}, "rate": 1, "name": "x", "sizes": [1, 2],
         "limit": 3, "small": {"width": 8}}
    )  # fmt: skip
    assert recipe == Recipe(
        ModelConfig(width=32, join="add"), 1.0, "x", 3.0, ModelConfig(width=8), (1, 2)
    )
    assert type(recipe.rate) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "unknown key 'modle' for Recipe; known keys are model, rate, name, limit"),
        ({"model": {"widht": 3}}, "file: `model`: unknown key 'widht' for ModelConfig"),
        ({"model": {"join": "sum"}}, "`join` is 'sum'; choose one of .*concat"),
        ({"model": {"width": "64"}}, "`width` is '64'; a value of type int"),
        ({"model": {"width": True}}, "`width` is True; a value of type int"),
        ({"model": 3}, "`model` is 3; a table of ModelConfig"),
        ({"name": 3}, "`name` is 3"),
        ({"small": {"widht": 3}}, "`small`: unknown key 'widht'"),
        ({"sizes": 3}, "`sizes` is 3; a list"),
        ({"sizes": [1, "2"]}, r"`sizes`\[1\] is '2'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place_and_what_would(values, message):
    with pytest.raises(ValueError, match=message):
        build(Recipe, values, where="file")


def test_a_broken_toml_file_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("width = ")
    with pytest.raises(ValueError, match=r"broken\.toml is not valid TOML"):
        read_toml(path)


@pytest.mark.parametrize("content", [b"a = " + b"[" * 50_000, b"a = '\xff'", b"a = " + b"9" * 9999])
def test_hostile_toml_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")
