import math
from pathlib import Path
from typing import Any

import pytest

from buffers.labels import DropReason, choice_of
from buffers.people.labelled_pairs import LabelledPair
from buffers.records import Domain, Verdict
from ranker.scoring import Scored, calibration, failures, score


def scored(
    right: tuple[int, ...],
    said: int,
    *,
    confidence: float = 0.9,
    agreed: bool = True,
    first_shown: int = 1,
    dropped: DropReason | None = None,
    domain: Domain = "human",
    criterion: str = "",
) -> Scored:
    probabilities = [0.0, 0.0, 0.0, 0.0]
    probabilities[said - 1], probabilities[0 if said in (2, 4) else 1] = confidence, 1 - confidence
    one, two, three, four = probabilities
    verdict = Verdict(said, (one, two, three, four), 0.98, agreed, first_shown, dropped, domain, "1", "tiny@0")
    pair = LabelledPair(a=Path("a"), b=Path("b"), domain=domain, criterion=criterion, **answer(right))
    assert pair.right == right
    return Scored(pair, verdict)


def answer(right: tuple[int, ...]) -> dict[str, Any]:
    """A label, or the choice that both labels name."""
    return {"label": right[0]} if len(right) == 1 else {"choice": choice_of(right[0])}


def test_figures_worked_out_by_hand() -> None:
    found = score(
        [
            scored((1,), 1, criterion="melts"),
            scored((1,), 3, criterion="melts"),  # the right video for another reason
            scored((2,), 1, agreed=False, first_shown=2, dropped="disagreement", criterion="jumps"),
            scored((3,), 3, domain="general"),
            scored((2, 4), 4, domain="general"),  # people did not say why
        ]
    )
    assert found["pairs"] == 5
    assert (found["overall"]["by_label"]["count"], found["overall"]["by_label"]["of"]) == (2, 4)
    assert (found["overall"]["by_video"]["count"], found["overall"]["by_video"]["of"]) == (4, 5)
    assert found["by_domain"]["human"]["by_label"]["value"] == pytest.approx(1 / 3)
    assert found["by_domain"]["general"]["by_video"]["value"] == 1.0
    assert {name: part["by_label"]["of"] for name, part in found["by_kind"].items()} == {
        "human, distortion": 3,
        "general, motion": 1,
    }
    assert found["by_kind"]["human, distortion"]["by_label"]["value"] == pytest.approx(1 / 3)
    assert found["by_label"]["human/1"]["recall"]["value"] == 0.5
    assert found["by_label"]["human/1"]["precision"]["value"] == 0.5
    assert found["by_label"]["human/2"]["recall"]["value"] == 0.0
    assert found["by_label"]["human/2"]["precision"] is None
    assert found["by_criterion"]["melts"]["by_video"]["value"] == 1.0
    assert found["by_criterion"]["jumps"]["by_video"]["value"] == 0.0
    assert found["agreement"]["value"] == 0.8
    bias = found["position_bias"]
    assert {name: (each["count"], each["of"]) for name, each in bias.items()} == dict.fromkeys(
        ("all", "human", "human/1"), (1, 1)
    )
    assert found["dropped"] == {"disagreement": 1}
    assert found["kept"]["by_video"]["value"] == 1.0


def test_calibration_is_the_mean_gap_of_the_bins() -> None:
    # Four pairs at 0.95, three of them right; two at 0.55, one right: (4 * 0.2 + 2 * 0.05) / 6.
    found = calibration([0.95] * 4 + [0.55] * 2, [True, True, True, False, True, False])
    assert found["expected_error"] == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert [(each["right"], each["pairs"]) for each in found["bins"]] == [(0.5, 2), (0.75, 4)]
    assert calibration([1.0, 0.5], [True, False])["bins"][-1]["confidence"] == 1.0


def test_the_surest_are_scored_first() -> None:
    given = [scored((1,), 1 if sure > 0.6 else 2, confidence=sure) for sure in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)]
    given += [scored((1,), 2, confidence=sure) for sure in (0.6, 0.58, 0.55)]
    found = score(given)["by_confidence"]
    assert [row["right"] for row in found[6:]] == pytest.approx([1.0, 7 / 8, 7 / 9, 0.7])
    assert found[6]["least_confidence"] == pytest.approx(0.65)
    wrong = failures(given)
    assert [round(each.verdict.confidence, 2) for each in wrong] == [0.6, 0.58, 0.55]


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pair was scored"):
        score([])
    assert not math.isnan(score([scored((1,), 1)])["label_mass"]["mean"])
