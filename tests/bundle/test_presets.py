"""Presets as tables, and that editing ones leave known pixels as they are."""

from __future__ import annotations

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.flavours import FLAVOURS
from minit2i_deploy.bundle.presets import INPAINT, INPAINT_FAST, default_preset, presets_of
from minit2i_deploy.editing.default_preset import edit_preset
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.repeats import Repeats
from tests.helpers.tiny_bundle import tiny_bundle


@pytest.mark.parametrize("name", [name for name in FLAVOURS if name != "mean-flow"])
def test_every_base_flavour_has_presets_for_editing(name: str) -> None:
    presets = presets_of(FLAVOURS[name])
    assert list(presets) == ["reference", "balanced", "fast", INPAINT, INPAINT_FAST]
    assert default_preset(presets) == "balanced"
    tables = {key: each.compile(FLAVOURS[name].a_min, {}) for key, each in presets.items()}
    assert len({table.name for table in tables.values()}) == len(tables)
    evaluations = {
        key: sum(len(row.weights) for row in table.steps(2.5)) for key, table in tables.items()
    }
    assert evaluations[INPAINT_FAST] <= 60 < evaluations[INPAINT]
    for key in (INPAINT, INPAINT_FAST):
        assert Repeats.of_meta(tables[key].meta).count > 1
        # They land on the estimate, so on the known pixels.
        assert tables[key].rows[-1, 1:4].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch", "fake"])
def test_known_bytes_stay_under_the_presets(engine: str) -> None:
    bundle = Bundle.open(tiny_bundle())
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    known = (pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)
    mask = np.zeros((32, 32), np.float32)
    mask[:, 16:] = 1
    assert edit_preset(bundle, inpaints=True) == INPAINT
    with open_runtime(bundle, engine) as runtime:
        for name in (None, INPAINT_FAST):
            table = None if name is None else bundle.preset(name)[0]
            result = generate(bundle, runtime, "red", known=known, mask=mask, table=table)
            image = np.asarray(result.images[0])
            np.testing.assert_array_equal(image[:, :16], pixels[:, :16])
            np.testing.assert_array_equal(result.x[0, :, :, :16], known[:, :, :16])
            assert (image[:, 16:] != pixels[:, 16:]).any()
            assert result.table == bundle.preset(name or INPAINT)[0].name
