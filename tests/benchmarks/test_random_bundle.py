import pytest
import torch

from benchmarks.learner_step import measure
from benchmarks.random_bundle import SIZES, save_random_bundle, transformer
from configs.load import load_config


@pytest.mark.parametrize(("size", "billions"), [("wan2.1-t2v-1.3b", 1.4), ("wan2.1-t2v-14b", 14.3)])
def test_the_transformers_are_as_large_as_wans(size, billions):
    with torch.device("meta"):
        model = transformer(size)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(billions * 1e9, rel=0.02)


def test_one_layer_of_it_can_be_measured(tmp_path):
    folder = tmp_path / "wan"
    save_random_bundle(folder, next(iter(SIZES)), layers=1)
    figures = measure(
        load_config(
            "configs/wan2.1-t2v-1.3b-8x80gb.yaml",
            [
                f"model.path={folder}",
                "sampling.num_frames=5",
                "sampling.height=32",
                "sampling.width=32",
                "model.max_text_tokens=8",
                "ranker.frames=5",
                "learner.gpus_per_worker=0",
                "learner.pairs_per_step=1",
                "learner.microbatch_pairs=1",
                "learner.num_workers=1",
            ],
        ),
        repeats=1,
    )
    assert (figures["rows_with_gradient"], figures["rows_without"]) == (10, 10)
    assert 0 < figures["utilisation"] <= figures["executed_utilisation"]
    assert figures["dtype"] == "bfloat16" and figures["peak_memory_mib"] > 0
    with pytest.raises(FileExistsError):
        save_random_bundle(folder, next(iter(SIZES)), layers=1)
