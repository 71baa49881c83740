"""What the judge is asked: one rubric per domain, four possible answers, one prompt (paper, appendix C).

The rubric is the system message, so that everything before the videos is the same for each pair of a domain and is
computed once (prefix caching); the videos follow with their vision ids, the question comes last. The text is ChatML as
every Qwen3-VL checkpoint's template renders it with `add_vision_id`; a test holds the two equal.
"""

from buffers.records import Domain

RUBRIC_VERSION = "2"
"""Changes whenever a word that the judge reads changes: verdicts of different rubrics must not be mixed unknowingly."""

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
"""One video's place in the prompt; the processor puts its timestamps and patches there."""

_HUMAN = (
    "You compare two videos of people, Video 1 and Video 2, shown one after the other, and decide which one is "
    "better.\n",
    "First look for visual distortion. Levels, worst first:\n"
    "(a) Severe: motion that breaks physical law, such as a car lifting off or things moving with nothing pushing "
    "them; abrupt unnatural cuts, black frames, or anything that pops up or is suddenly gone; badly broken anatomy, "
    "such as a severed limb or facial features out of place; visible blocks, mosaics or glitches.\n"
    "(b) Obvious: clothes or accessories that melt, shift or vanish, such as an earring that is lost; limbs that "
    "trade places, left turning into right; hands that are clearly wrong, with too many or fused fingers.\n"
    "(c) Minor: a hand with five fingers that bends oddly in a single frame; hair or cloth passing through something "
    "over less than a twentieth of the picture; a short-lived fault in the texture of the surroundings.\n"
    "(d) Acceptable: motion blur as a camera would give, and pixel faults that the naked eye does not see.\n",
    "Only where neither video is clearly more distorted, look at motion: prefer the larger movement and the livelier "
    "picture, and never prefer a video that is still or almost still.",
)
_GENERAL = (
    "You compare two videos of scenes or objects, Video 1 and Video 2, shown one after the other, and decide "
    "strictly which one is better.\n",
    "Look for these faults, gravest group first.\n"
    "(1) Severe anomalies; a single one makes that video the worse: things that move, tremble or float without a "
    "cause, against physical law; objects that twist, deform, merge or smear; mosaics or digital glitches; sudden "
    "jumps, slide-show fades or broken transitions; objects or textures that appear, disappear or flicker for no "
    "reason; proportions that change as the camera moves; objects, textures or patterns that split, repeat or "
    "overlap; text that is garbled or cannot be read.\n"
    "(2) Obvious faults: surface textures that float, warp or distort; blocks that suddenly show; materials that do "
    "not hold, such as leather or metal changing its look; edges too soft or too sharp; patterns, motifs or "
    "lettering that change without logic; shadows or light that defy physics; blur or ghosting, in part or "
    "everywhere.\n"
    "(3) Incoherence: paths of objects that break off; unnatural changes of scene; a camera that shakes or jitters.\n",
    "(4) Motion: change should be natural and smooth, and a video that hardly moves is not to be preferred. Where "
    "the visual quality is alike, prefer natural camera movement and visible change.\n"
    "Check each video for all of these, severe anomalies before everything else: the video that has one is the worse.",
)
_ANSWERS = (
    "Compare Video 1 and Video 2 and answer with one digit only:\n"
    "1 - Video 1 is less distorted.\n"
    "2 - Video 2 is less distorted.\n"
    "3 - Both are distorted alike, but Video 1 has {more}.\n"
    "4 - Both are distorted alike, but Video 2 has {more}."
)
_MORE = {
    "human": "the larger camera movement or the richer human action",
    "general": "the larger or the better camera movement and motion",
}
GIVEN_FRAME = (
    "Both videos begin with the same picture, which was given. What is in the picture is no fault of either video; how "
    "a video goes on from it is.\n"
)
"""Said of videos that were made from a picture."""
_RUBRICS: dict[Domain, tuple[str, ...]] = {"human": _HUMAN, "general": _GENERAL}

WHICH_DOMAIN = (
    "A video is made from a description. Which kind of video is it? Answer with one digit only:\n"
    "1 - People: how bodies, faces, hands and clothes look and move decides how good the video is.\n"
    "2 - Anything else: scenes, objects, animals, or people who are only small or in passing."
)
DOMAIN_LABELS: tuple[Domain, Domain] = ("human", "general")
"""What the labels 1 and 2 mean if `WHICH_DOMAIN` is asked."""


def question(domain: Domain) -> str:
    """The four answers, said after the videos."""
    return _ANSWERS.format(more=_MORE[domain])


def passages(domain: Domain) -> tuple[str, ...]:
    """The fixed text of a domain in the order it is read: the rubric's parts, then the question."""
    return (*_RUBRICS[domain], question(domain))


def prompt_text(domain: Domain, *, framed: bool = False) -> str:
    """The whole prompt of one pair, up to where the judge's one-token answer begins.

    framed: whether the videos begin with a picture that was given.
    """
    asked = GIVEN_FRAME * framed + question(domain)
    return _chat("".join(_RUBRICS[domain]), f"Video 1: {VIDEO}Video 2: {VIDEO}{asked}")


def domain_prompt(description: str) -> str:
    """The prompt that asks for a description's domain. What the description says is never read as a special token."""
    return _chat(WHICH_DOMAIN, description.replace("<|", "< |"))


def _chat(system: str, user: str) -> str:
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
