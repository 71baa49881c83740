import re
from pathlib import Path

import pytest

from configs.keys import all_keys
from configs.load import load_as, load_config
from configs.ranker import RankerScoringConfig, RankerTrainingConfig
from configs.schema import RunConfig

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_is_right(path: Path) -> None:
    assert load_config(path).stages


@pytest.mark.parametrize("path", sorted((CONFIGS / "ranker").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_of_the_ranker_is_right(path: Path) -> None:
    load_as(RankerScoringConfig if path.stem.endswith("-score") else RankerTrainingConfig, path)


def test_the_ranker_is_served_with_the_frames_it_is_trained_on() -> None:
    miniature = load_as(RankerTrainingConfig, CONFIGS / "ranker" / "miniature-train.yaml")
    assert miniature.frames == load_config(CONFIGS / "miniature.yaml").ranker.frames
    large = load_as(RankerTrainingConfig, CONFIGS / "ranker" / "qwen3-vl-8b-train.yaml")
    served = load_config(CONFIGS / "wan2.2-i2v-a14b-192xh200.yaml").ranker
    assert (
        (large.frames, large.max_pixels_per_video) == (served.frames, served.max_pixels_per_video) == (40, 25_165_824)
    )
    shares = {"human": 7 / 64, "general": 3 / 18}  # paper, C.1
    assert large.slow_motion.share == miniature.slow_motion.share == pytest.approx(shares, abs=0.005)


def test_the_papers_config_has_the_papers_numbers() -> None:
    """Diffusion-APO, sections 3.2, 4.1 and 4.3 and appendix C, typed in from the text."""
    config = load_config(CONFIGS / "wan2.2-i2v-a14b-192xh200.yaml")
    sampling, learner, timesteps = config.sampling, config.learner, config.learner.timesteps
    assert (sampling.height, sampling.width, sampling.num_frames, sampling.fps) == (720, 960, 121, 24.0)
    assert learner.learning_rate == 1e-4
    assert (timesteps.high, timesteps.low, timesteps.stride, timesteps.high_from) == (4, 1, 4, 0.8)
    assert (timesteps.shifts, timesteps.offset_variance) == ([3.0, 4.0, 5.0, 6.0], 5.0)
    assert (timesteps.random_shift, timesteps.random_offset, timesteps.reduce) == (True, True, "sum")
    assert config.ranker.frames == 40
    assert config.stages[0].kind == "online" and config.stages[0].steps == 300


def test_the_miniature_fits_two_cores_and_names_only_what_is_in_the_repository() -> None:
    config = load_config(CONFIGS / "miniature.yaml")
    assert config.cluster.num_cpus == 2
    assert config.evaluation.videos >= 240
    adapters = (config.ranker.adapters.human, config.ranker.adapters.general)
    paths = (config.model.path, config.ranker.path, *adapters, config.prompts.train, config.evaluation.prompts)
    assert all(path and path.startswith("examples/miniature/") for path in paths)


def test_somebody_reads_every_key() -> None:
    folders = ("actors", "buffers", "cluster", "learner", "policy", "ranker")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    files += [CONFIGS / "sections.py", CONFIGS / "schema.py"]  # they have properties that read keys
    source = "\n".join(path.read_text() for path in files)
    read = set(re.findall(r"\.(\w+)", source))
    for schema in (RunConfig, RankerTrainingConfig, RankerScoringConfig):
        assert [".".join(key) for key in all_keys(schema) if key[-1] not in read] == []
