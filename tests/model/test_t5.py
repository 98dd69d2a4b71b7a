"""The T5 encoder in torch against golden outputs and against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minit2i_deploy.model.t5 import T5Config, T5Encoder, _bucket
from tests.helpers.checkpoint_forms import PUBLIC

DEMO = Path(__file__).resolve().parents[2] / "minit2i_deploy" / "demo" / "assets" / "text_encoder"
GOLDEN = PUBLIC / "t5" / "text_encoder"
# Measured 1.0e-6 on the golden encoder (values up to 3.8), 2.2e-6 on the demo one (up to 5.4).
MAX_ABS_ERROR = 1e-5


def open_encoder(folder: Path) -> T5Encoder:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = T5Config.__dataclass_fields__
    encoder = T5Encoder(T5Config(**{name: values[name] for name in names if name in values}))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("encoder.embed_tokens.weight", None)
    encoder.load_state_dict(tensors, strict=True)
    return encoder.eval().requires_grad_(False)


def padded(lengths: list[int], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids, the longest text first or not, zero with mask 0 behind each text's end."""
    rng = np.random.default_rng(sum(lengths))
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    ids = rng.integers(3, vocabulary, mask.shape) * mask
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def test_golden_outputs() -> None:
    with np.load(PUBLIC / "t5" / "t5_io.npz") as golden:
        ids, mask = (torch.from_numpy(golden[name]) for name in ("input_ids", "attention_mask"))
        hidden = open_encoder(GOLDEN)(ids, mask).numpy()
        real = golden["attention_mask"] > 0
        assert np.abs(hidden - golden["last_hidden_state"])[real].max() <= MAX_ABS_ERROR
        # Without the mask the padding is attended to, and real positions change.
        blind = open_encoder(GOLDEN)(ids, torch.ones_like(mask)).numpy()
        assert np.abs(blind - golden["last_hidden_state"])[real].max() > 1e-2


@pytest.mark.parametrize("lengths", [[1], [24, 3, 11], [200, 129, 1], [40, 300]])
def test_equals_transformers_on_the_demo_encoder(lengths: list[int]) -> None:
    from transformers import T5EncoderModel

    reference = T5EncoderModel.from_pretrained(DEMO).eval()
    ids, mask = padded(lengths, reference.config.vocab_size)
    with torch.inference_mode():
        expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    hidden = open_encoder(DEMO)(ids, mask).numpy()
    assert np.abs(hidden - expected)[mask.numpy() > 0].max() <= MAX_ABS_ERROR


def test_a_text_does_not_depend_on_its_padding() -> None:
    encoder = open_encoder(DEMO)
    ids, mask = padded([60, 20], 320)
    alone = encoder(ids[1:, :20], mask[1:, :20])
    # Measured 1.7e-6: another length is another order of summation.
    assert (encoder(ids, mask)[1:, :20] - alone).abs().max() <= MAX_ABS_ERROR


def test_buckets_follow_their_definition() -> None:
    config = T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_heads=2, num_layers=1)
    distance = torch.arange(-300, 301)
    actual = dict(zip(distance.tolist(), _bucket(distance, config).tolist(), strict=True))
    assert [actual[-d] for d in range(8)] == list(range(8))
    # 8 to 128 in eight steps of equal ratio, 2 ** 0.5; after that one bucket.
    edges = [8, 12, 16, 23, 32, 46, 64, 91]
    assert [actual[-edge] for edge in edges] == list(range(8, 16))
    assert [actual[-(edge - 1)] for edge in edges] == list(range(7, 15))
    assert actual[-300] == actual[-128] == 15
    assert all(actual[d] == actual[-d] + 16 for d in range(1, 301))
