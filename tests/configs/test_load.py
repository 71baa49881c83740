from pathlib import Path
from typing import Any

import pytest

from configs.load import ConfigError, load_as, load_config
from configs.ranker import RankerScoringConfig, RankerTrainingConfig
from configs.schema import RunConfig

SMALL = """\
name: small
out: runs/small
model:
  path: bundle
prompts:
  train: train.txt
ranker:
  path: judge
evaluation:
  prompts: held_out.txt
learner:
  learning_rate: 1e-3
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_file_and_defaults_become_a_config(small: Path) -> None:
    config = load_config(small)
    assert config.name == "small"
    assert config.model.path == "bundle"  # left as written: relative to the working directory
    assert config.learner.learning_rate == 0.001  # plain YAML 1.1 reads 1e-3 as text
    assert config.learner.timesteps.shifts == [3.0, 4.0, 5.0, 6.0]  # the paper's
    assert [stage.steps for stage in config.stages] == [300]  # the paper's


def test_overrides_reach_every_depth_and_lists(small: Path) -> None:
    config = load_config(
        small,
        [
            "seed=7",
            "learner.timesteps.offset_variance=2.5",
            "learner.lora.targets=[to_q, to_v]",
            "stages.0.steps=10",
            "learner.timesteps.shifts.1=8",
            "out=runs/a=b",
            "sampling.negative_prompt=blurry, still",
            "cluster.num_cpus=null",
            "ranker.both_orders=false",
            "learner.weight_decay=1e-4",
        ],
    )
    assert config.seed == 7
    assert config.learner.timesteps.offset_variance == 2.5
    assert config.learner.lora.targets == ["to_q", "to_v"]
    assert config.stages[0].steps == 10
    assert config.learner.timesteps.shifts == [3.0, 8.0, 5.0, 6.0]
    assert config.out == "runs/a=b"
    assert config.sampling.negative_prompt == "blurry, still"
    assert config.cluster.num_cpus is None
    assert config.ranker.both_orders is False
    assert config.learner.weight_decay == 0.0001
    assert config.learner.learning_rate == 0.001  # of the file, untouched by its neighbours' overrides


def test_a_whole_number_is_a_fine_float(small: Path) -> None:
    assert load_config(small, ["learner.beta=500", "sampling.fps=24"]).learner.beta == 500.0


def test_an_override_can_put_a_file_right(small: Path) -> None:
    small.write_text(SMALL.replace("  learning_rate: 1e-3", "  pairs_per_step: 999"))
    assert "buffer.capacity" in error_of(small)
    assert load_config(small, ["learner.pairs_per_step=4"]).learner.pairs_per_step == 4


def test_missing_file(tmp_path: Path) -> None:
    message = error_of(tmp_path / "absent.yaml")
    assert str(tmp_path / "absent.yaml") in message and "no such file" in message


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a directory" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("name: a\nmodel:\n  path: [x, y\nout: b\n", 4, 4),  # the list is never closed
        ("name: a\n\tout: b\n", 2, 1),  # a tab indents
        ("name: 'a\n", 2, 1),  # the quote is never closed
        ("name: a\nout: \x07\n", 2, 6),  # a control character
    ],
)
def test_malformed_yaml_names_line_and_column(tmp_path: Path, text: str, line: int, column: int) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    message = error_of(path)
    assert message.startswith(f"{path}, line {line}, column {column}: not YAML")


def test_empty_file_and_other_documents(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    for text, found in (("", "nothing"), ("# only a comment\n", "nothing"), ("- a\n- b\n", "a list"), ("a\n", "a str")):
        path.write_text(text)
        assert f"holds {found}" in error_of(path)


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    assert "UTF-8" in error_of(path)


def test_a_key_that_stands_twice(small: Path) -> None:
    small.write_text(SMALL + "  beta: 1.0\n  beta: 2.0\n")
    message = error_of(small)
    assert "line 14, column 3" in message and "learner.beta stands here and in line 13" in message


def test_aliases_are_refused(small: Path) -> None:
    small.write_text(SMALL + "stages: &a [*a]\n")
    assert "line 13" in error_of(small) and "aliases" in error_of(small)


def test_no_python_object_is_ever_built(small: Path) -> None:
    small.write_text(SMALL + "seed: !!python/object/apply:os.getpid []\n")
    assert "line 13" in error_of(small) and "python/object" in error_of(small)


def test_unknown_key_names_the_nearest(small: Path) -> None:
    small.write_text(SMALL.replace("learning_rate", "lerning_rate"))
    message = error_of(small)
    assert f"{small}, line 12" in message
    assert "learner.lerning_rate = 0.001: unknown key; did you mean learner.learning_rate?" in message


def test_unknown_key_in_the_wrong_section_names_the_right_one(small: Path) -> None:
    assert "did you mean learner.timesteps.offset_variance?" in error_of(small, "learner.offset_variance=3")
    assert "did you mean stages.0.steps?" in error_of(small, "stages.0.step=3")
    assert "did you mean ranker.motion_share?" in error_of(small, "buffer.motion_share=0.1")
    assert "did you mean learner?" in error_of(small, "lerner.beta=3")


def test_a_stages_override_is_refused_like_any_key_with_its_line(small: Path) -> None:
    small.write_text(SMALL + "stages:\n  - kind: online\n    learner:\n      betta: 5.0\n")
    right = "stages.0.learner.betta = 5.0: unknown key; did you mean stages.0.learner.beta?"
    assert error_of(small) == f"{small}, line {SMALL.count(chr(10)) + 4}: {right}"
    small.write_text(SMALL)
    assert error_of(small, "stages.0.learner.betta=5.0") == f"override stages.0.learner.betta: {right}"


def test_what_lies_in_a_list_that_an_override_replaced_is_the_overrides(small: Path) -> None:
    small.write_text(SMALL + "stages:\n  - kind: online\n    steps: 3\n")
    assert error_of(small, "stages=[{kind: online, steps: 0}]").startswith("override stages: stages.0.steps = 0")


def test_unknown_key_like_no_other(small: Path) -> None:
    assert "schema.py" in error_of(small, "xyzzy=1")


WRONG = [
    ("learner.beta=much", "'much'", "valid number"),
    ("learner.beta=true", "True", "valid number"),
    ("learner.beta=.inf", "'.inf'", "valid number"),
    ("learner.pairs_per_step=2.5", "2.5", "valid integer"),
    ("learner.pairs_per_step='8'", "'8'", "valid integer"),
    ("learner.pairs_per_step=0", "0", "greater than 0"),
    ("model.dtype=float16", "'float16'", "'float32' or 'bfloat16'"),
    ("model.path=7", "7", "valid string"),
    ("ranker.both_orders=no", "'no'", "valid boolean"),
    ("ranker.min_confidence=1.0", "1.0", "less than 1"),
    ("stages=[]", "[]", "at least 1 item"),
    ("stages.0.kind=sideways", "'sideways'", "'online'"),
    ("learner=3", "3", "section"),
    ("learner.timesteps.shifts=[3.0, -1.0]", "-1.0", "greater than or equal to 0.001"),
    ("evaluation.meter=measure", "'measure'", "match pattern"),
    ("learner.beta=1e39", "1e+39", "less than or equal to 1000000"),  # infinite in the loss's float32
    ("learner.beta=1e-39", "1e-39", "greater than or equal to 0.000001"),  # nothing would be learned
    ("learner.learning_rate=1e400", "inf", "finite"),
    ("sampling.height=1000000000", "1000000000", "less than or equal to 16384"),
    ("stages.0.steps=1000000000000", "1000000000000", "less than or equal to 1000000"),
    ("seed=2147483648", "2147483648", "less than 2147483648"),
]


@pytest.mark.parametrize(("override", "value", "right"), WRONG)
def test_a_wrong_value_names_key_value_and_right(small: Path, override: str, value: str, right: str) -> None:
    key = override.partition("=")[0]
    message = error_of(small, override)
    assert f"override {key}" in message and f"= {value}" in message and right in message


def test_a_wrong_value_in_the_file_names_its_line(small: Path) -> None:
    small.write_text(SMALL.replace("1e-3", "fast"))
    assert f"{small}, line 12: learner.learning_rate = 'fast'" in error_of(small)


def test_missing_keys_are_all_named(small: Path) -> None:
    small.write_text("name: a\nmodel: {}\n")
    message = error_of(small)
    for key in ("out", "model.path", "prompts", "evaluation"):
        assert f"{key} is missing" in message


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("learner.beta", "key=value"),
        ("=3", "key=value"),
        ("learner..beta=3", "key=value"),
        ("stages.1.steps=3", "index from 0 to 0"),
        ("stages.first.steps=3", "index from 0 to 0"),
        ("name.first=3", "'small', which holds no 'first'"),
        ("learner.0=3", "has named keys"),
        ("learner.beta=[1", "cannot be read"),
    ],
)
def test_malformed_overrides_say_how_to_write_one(small: Path, override: str, right: str) -> None:
    message = error_of(small, override)
    assert repr(override) in message and right in message


def test_a_written_config_reads_back_the_same(small: Path, tmp_path: Path) -> None:
    import yaml

    config = load_config(small, ["learner.learning_rate=1e-5", "evaluation.meter=a.b:c"])
    copy = tmp_path / "resolved.yaml"
    copy.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(copy) == config


def test_no_number_is_without_bounds() -> None:
    """In the JSON schemas of the three configs, which pydantic makes of the same fields."""
    bounds = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    count = 0
    for schema in (RunConfig, RankerTrainingConfig, RankerScoringConfig):
        tree: Any = schema.model_json_schema()
        places = [(schema.__name__, tree)]
        while places:
            where, node = places.pop()
            if isinstance(node, dict):
                if node.get("type") in ("integer", "number"):
                    count += 1
                    assert all(node.keys() & some for some in bounds), where
                places += [(f"{where}.{key}", below) for key, below in node.items() if key != "default"]
            elif isinstance(node, list):
                places += [(where, below) for below in node]
    assert count > 60


def test_a_long_value_is_cut(small: Path) -> None:
    assert len(error_of(small, "learner.beta=1" + "0" * 400)) < 200
    assert len(error_of(small, "learner.beta=1" + "0" * 5000)) < 600  # more digits than Python reads
    small.write_text(SMALL + "seed: 1" + "0" * 5000)
    assert error_of(small).startswith(f"{small}: ")


HOME_KEYS = (
    "out",
    "model.path",
    "prompts.train",
    "evaluation.prompts",
    "ranker.path",
    "ranker.adapters.human",
    "ranker.adapters.general",
    "start_from",
    "buffer.offline",
)


@pytest.mark.parametrize("address", ["local", "auto"])
def test_the_home_folder_in_every_path(small: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.chdir(small.parent)
    small.rename(small.with_name("~small.yaml"))  # no user is named so
    overrides = [f"{key}=~/{key}" for key in HOME_KEYS]
    mixed = ["buffer.mix.online=0.5", "buffer.mix.offline=0.5", f"cluster.address={address}"]
    config = load_config("~small.yaml", overrides + mixed)
    for key in HOME_KEYS:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        assert value == f"/homes/me/{key}"
    assert load_config("~small.yaml", [*mixed, "out=/r", "buffer.offline=s3://a/~b"]).buffer.offline == "s3://a/~b"


def test_the_home_folder_in_the_rankers_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.yaml").write_text("name: a\nout: ~/out\npath: ~/judge\npairs: ~/pairs.csv\n")
    training = load_as(RankerTrainingConfig, "~/train.yaml", ["start_from.human=~/human"])
    assert (training.out, training.path, training.pairs) == tuple(
        f"{tmp_path}/{name}" for name in ("out", "judge", "pairs.csv")
    )
    assert training.start_from.human == f"{tmp_path}/human"
    (tmp_path / "score.yaml").write_text("name: a\nout: ~/out\npairs: ~/pairs.csv\nranker: {path: ~/judge}\n")
    scoring = load_as(RankerScoringConfig, "~/score.yaml")
    assert (scoring.out, scoring.pairs, scoring.ranker.path) == tuple(
        f"{tmp_path}/{name}" for name in ("out", "pairs.csv", "judge")
    )
