"""Prompts to calibrate on: the lines of a file, shapes captions, or a general list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.compare.prompt_cases import is_shapes_tokenizer
from minit2i_deploy.evaluation.shapes import KINDS, sample_scene
from minit2i_deploy.text.text_lines import read_prompt_lines

LEAST_PROMPTS: Final = 4
_SHAPES_PER_KIND: Final = 16
_SHAPES_SEED: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """Prompts with the name of where they come from."""

    name: str
    texts: tuple[str, ...]


def read_prompts(path: Path, bundle: Bundle) -> PromptSet:
    """The lines of a UTF-8 text file, without blank and repeated ones.

    Raises:
        UsageError: it cannot be read, a line is not text, there are fewer than LEAST_PROMPTS, or
            every one of them is longer than the model takes.
    """
    lines = dict.fromkeys(read_prompt_lines(path))
    prompts = PromptSet(name=path.name, texts=tuple(lines))
    _check(prompts, bundle, str(path))
    return prompts


def default_prompts(bundle: Bundle) -> PromptSet:
    """Captions of shapes for a model whose tokenizer was trained on them, else GENERAL.

    Only those that fit the model's prompt length, if LEAST_PROMPTS of them do.
    """
    tokenizer = bundle.tokenizer()
    if is_shapes_tokenizer(tokenizer):
        name, texts = "shapes", _captions()
    else:
        name, texts = "general", GENERAL
    fitting = [item.text for item in tokenizer.encode(texts) if not item.truncated]
    return PromptSet(name=name, texts=tuple(fitting) if len(fitting) >= LEAST_PROMPTS else texts)


def _captions() -> tuple[str, ...]:
    # Captions as in training, never those that the model is scored by.
    rng = np.random.default_rng(_SHAPES_SEED)
    captions = [sample_scene(rng, kind)[2] for kind in KINDS for _ in range(_SHAPES_PER_KIND)]
    return ("", *dict.fromkeys(captions))


def _check(prompts: PromptSet, bundle: Bundle, where: str) -> None:
    count = len(prompts.texts)
    if count < LEAST_PROMPTS:
        raise UsageError(
            f"{where}: {count} different prompts, but at least {LEAST_PROMPTS} are required for"
            " representative ranges; write one per line, or omit --prompts"
        )
    encoded = bundle.tokenizer().encode(list(prompts.texts))
    if all(item.truncated for item in encoded):
        raise UsageError(
            f"{where}: all {count} prompts are longer than the {bundle.config.prompt_length} tokens"
            " that the model takes; shorten them, or check that they are for this model"
        )


# Subjects, counts, colors, places, light, styles, lettering, people; long, short and empty.
GENERAL: Final[tuple[str, ...]] = (
    "",
    "a red apple on a white plate",
    "two dogs running along a beach at sunset",
    "a lighthouse on a rocky cliff during a storm",
    "an old man repairing a bicycle in a narrow street",
    "a bowl of ramen with a soft boiled egg, seen from above",
    "three yellow balloons floating over a green field",
    "a portrait of a woman with curly hair and round glasses",
    "a blue car parked in front of a brick house",
    "a cat asleep on a stack of books by the window",
    "a snowy mountain range under a clear night sky full of stars",
    "a wooden table with a vase of tulips, oil painting",
    "a robot watering plants in a greenhouse",
    "a shop sign that says OPEN in neon letters",
    "a close-up of a bee on a lavender flower",
    "an empty train platform in the fog, black and white photograph",
    "four children building a sandcastle",
    "a purple umbrella to the left of a brown suitcase",
    "a castle made of ice, digital art",
    "a farmer driving a tractor through a golden wheat field",
    "a plate of pancakes with syrup and blueberries",
    "an astronaut riding a horse across the desert",
    "a harbour full of small fishing boats in the morning",
    "a green parrot sitting on a branch in the rain forest",
    "a cup of coffee beside an open notebook and a pen",
    "a watercolour of a village with a stone bridge over a river",
    "a basketball player jumping towards the hoop",
    "a kitchen with white tiles, copper pans and morning light",
    "a fox in the snow looking at the camera",
    "a city skyline at night reflected in the water",
    "a child holding a paper lantern in the dark",
    "a pair of brown leather boots on a doorstep",
    "a wide desert road leading to distant red cliffs",
    "a bouquet of white roses wrapped in newspaper",
    "an isometric drawing of a small island with a windmill",
    "a violin lying on a velvet chair",
    "a street musician playing the saxophone in the rain",
    "a glass jar filled with colourful buttons",
    "a tiger walking through tall grass, pencil sketch",
    "a woman in a yellow coat crossing a busy street",
    "a minimalist poster of a sailing boat on a calm sea",
    "five green pears in a row on a grey background",
    "a steam locomotive crossing a viaduct",
    "a library with tall shelves and a spiral staircase",
    "a slice of chocolate cake with a single candle",
    "a hot air balloon above a valley of vineyards",
    "a clay teapot to the right of two small cups",
    "a diver swimming above a coral reef with bright fish",
    "an autumn forest path covered with orange leaves",
    "a grandmother knitting in an armchair next to a fireplace",
    "a macro photograph of water drops on a leaf",
    "a futuristic city with flying cars, concept art",
    "a bakery window full of bread and croissants",
    "a black horse galloping through shallow water",
    "a chess board in the middle of a game, shallow depth of field",
    "a mural of a whale on the side of a building",
    "a scientist looking into a microscope in a bright laboratory",
    "a white cup on top of a pile of three red books",
    "a tent lit from inside beside a mountain lake at dusk",
    "a pizza with tomatoes, basil and mozzarella on a wooden board",
    "an owl with orange eyes perched on a fence post",
    "a crowded market street with stalls of fruit, spices and hanging lamps, late afternoon",
    "a golden retriever wearing sunglasses and a straw hat, sitting in a convertible on a coast"
    " road with the sea behind it",
    "a detailed map of an imaginary continent with mountains, forests, rivers and small towns",
)
