"""What is served of a bundle, and what a request for its images comes to."""

from __future__ import annotations

import dataclasses
import functools
import math
import secrets
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.other_steps import with_steps
from minit2i_deploy.editing.default_preset import edit_preset
from minit2i_deploy.editing.edit import Edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.edit_images import NO_EDIT, SentEdit
from minit2i_deploy.solvers.table import Table

MAX_STEPS: Final = 1000
MAX_PROMPT_CHARACTERS: Final = 32_000
# Short enough to remember; seeds may have 64 bits.
_RANDOM_SEED_BITS: Final = 32
_SEEDS: Final = 2**64


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """What a client asks for; None leaves a setting to the bundle.

    Args:
        prompt: a text.
        negative: prompt in place of the unconditional branch; an empty one counts as none.
        num_images: with seeds that follow one another.
        seed: of the first image; None draws one.
        table: name of a table or preset of the bundle.
        solver: compiled with ``steps``, in place of a table.
        steps: of the solver, or of the default preset's solver.
        guidance: scale of classifier-free guidance.
        edit: images to begin with or to keep a part of.
    """

    prompt: str
    negative: str | None = None
    num_images: int = 1
    seed: int | None = None
    table: str | None = None
    solver: str | None = None
    steps: int | None = None
    guidance: float | None = None
    edit: SentEdit = NO_EDIT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlannedImages:
    """A request that can be run.

    Args:
        requests: one for each image.
        notices: what was not taken as it came, one line each.
        feather: pixels over which the border of a mask was softened.
    """

    requests: tuple[Request, ...]
    notices: tuple[str, ...]
    feather: float = 0.0

    @property
    def table(self) -> Table:
        """Of every image."""
        return self.requests[0].table

    @property
    def guidance(self) -> float:
        """Of every image."""
        return self.requests[0].guidance

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each image."""
        return tuple(request.seeds[0] for request in self.requests)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServedModel:
    """A bundle under the name that requests use."""

    name: str
    bundle: Bundle

    @property
    def size(self) -> str:
        """Width and height of its images, as OpenAI writes them."""
        return self.bundle.config.size_text

    def at_size(self, width: int, height: int) -> ServedModel:
        """The same model for images of another size, where the bundle's are free.

        Raises:
            UsageError: the bundle has no such size.
        """
        return _sized(self, width, height)

    @property
    def is_student(self) -> bool:
        """Whether it is a few-step student."""
        return self.bundle.config.student is not None

    def plan(self, settings: ImageSettings, *, strict: bool) -> PlannedImages:
        """Fill in the defaults.

        Args:
            settings: as they came.
            strict: refuse what has no effect, in place of a notice.

        Raises:
            UsageError: settings that do not fit together, or do not fit the bundle.
        """
        self._check(settings)
        notices: list[str] = []
        negative = settings.negative or None
        if negative is not None and self.is_student:
            notices.append(f"{self.name} is a few-step student and takes no negative prompt")
            negative = None
        scale = self.bundle.manifest.one_pass_guidance
        if negative is not None and scale is not None:
            notices.append(f"{self.name} has guidance in its weights and takes no negative prompt")
            negative = None
        table, guidance = self._table(settings)
        if scale is not None and guidance != scale:
            notices.append(f"guidance of {self.name} is {scale:g}, a part of its weights")
            guidance = scale
        if self.is_student and guidance is not None and guidance < 1:
            notices.append("guidance below 1 is 1 (none) for a few-step student")
            guidance = 1.0
        request = Request.of(
            self.bundle,
            settings.prompt,
            table=table,
            guidance=guidance,
            negative=negative,
            edit=Edit.of(self.bundle, 1, **settings.edit.images.arguments()),
        )
        notices += settings.edit.images.notes
        if negative is not None and not request.guided:
            notices.append(f"the negative prompt has no effect at guidance {request.guidance:g}")
        notices += self._truncations(settings.prompt, negative)
        if strict and notices:
            raise UsageError(notices[0])
        first = secrets.randbits(_RANDOM_SEED_BITS) if settings.seed is None else settings.seed
        seeds = [(first + index) % _SEEDS for index in range(settings.num_images)]
        return PlannedImages(
            requests=tuple(dataclasses.replace(request, seeds=(seed,)) for seed in seeds),
            notices=tuple(notices),
            feather=settings.edit.feather,
        )

    def _check(self, settings: ImageSettings) -> None:
        seed, guidance = settings.seed, settings.guidance
        if len(settings.prompt) > MAX_PROMPT_CHARACTERS:
            raise UsageError(
                f"prompt has {len(settings.prompt)} characters; at most {MAX_PROMPT_CHARACTERS} "
                "are taken"
            )
        if seed is not None and not 0 <= seed < _SEEDS:
            raise UsageError(f"seed must be 0 to 2**64 - 1, got {seed}")
        if guidance is not None and not math.isfinite(guidance):
            raise UsageError(f"guidance must be a finite number, got {guidance}")
        if settings.steps is not None and not 1 <= settings.steps <= MAX_STEPS:
            raise UsageError(f"steps must be 1 to {MAX_STEPS}, got {settings.steps}")

    def _table(self, settings: ImageSettings) -> tuple[Table, float | None]:
        name = settings.table
        if name is None and settings.solver is None and settings.steps is None:
            name = edit_preset(self.bundle, inpaints=settings.edit.images.known is not None)
        table, guidance = _compiled(self, name, settings.solver, settings.steps)
        return table, guidance if settings.guidance is None else settings.guidance

    def compile(
        self, name: str | None, solver: str | None, steps: int | None
    ) -> tuple[Table, float | None]:
        """The table of a request and the guidance scale that goes with it.

        Raises:
            UsageError: no such table or solver.
        """
        bundle = self.bundle
        if name is not None:
            if name in bundle.manifest.presets:
                return bundle.preset(name)
            table = bundle.table(name)
        elif solver is not None:
            if steps is None:
                raise UsageError(f"solver {solver!r} needs steps")
            table = bundle.compile_table(solver, steps)
        elif steps is None:
            return bundle.preset()
        else:
            try:
                table = with_steps(bundle, bundle.preset()[0], steps)
            except UsageError as error:
                raise UsageError(f"steps needs a solver here: {error}") from error
        guidance = table.student_guidance
        return table, bundle.preset()[1] if guidance is None else guidance

    def _truncations(self, prompt: str, negative: str | None) -> list[str]:
        texts = [prompt, *([] if negative is None else [negative])]
        notices = [item.notice for item in self.bundle.tokenizer().encode(texts)]
        return [notice for notice in notices if notice is not None]


@functools.lru_cache(maxsize=64)
def _sized(model: ServedModel, width: int, height: int) -> ServedModel:
    """Cached, because ``_compiled`` knows a model by its identity."""
    bundle = model.bundle.at_size((width, height))
    return model if bundle.size is None else dataclasses.replace(model, bundle=bundle)


@functools.lru_cache(maxsize=256)
def _compiled(
    model: ServedModel, name: str | None, solver: str | None, steps: int | None
) -> tuple[Table, float | None]:
    """Cached, because a table is a file to read or a solver to compile."""
    return model.compile(name, solver, steps)
