#!/bin/sh
# One tokenizer.json, two libraries of one maker: the Precompiled normalizer that T5 and other
# SentencePiece models carry. The JavaScript package @huggingface/tokenizers 0.2.0 does not read the
# character map in the file; it has a fixed approximation. So an emoji joined by U+200D loses the
# joiner to a space there, and decomposed Hangul is composed, while the Rust library (Python package
# tokenizers 0.22.2) leaves both as they are. Plain text agrees.
# Consequence: other token ids, so other embeddings, for the same prompt in a browser.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install tokenizers==0.22.2 sentencepiece==0.2.3 protobuf==7.36.2
echo '{"private": true}' > package.json
npm install --silent --no-fund --no-audit @huggingface/tokenizers@0.2.0
venv/bin/python - <<'P'
import io
import json

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers

# The rules of T5's vocabulary: nmt_nfkc, as SentencePiece compiles it.
made = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a red circle and a blue square"] * 50), model_writer=made,
    vocab_size=30, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc", minloglevel=2,
)
model = sentencepiece_model_pb2.ModelProto()
model.ParseFromString(made.getvalue())
tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in model.pieces], unk_id=0))
tokenizer.normalizer = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
tokenizer.save("tokenizer.json")
texts = ["red circle", "\uff21\u2460\u3000\ufb01", "\U0001f469\u200d\U0001f469", "\u1100\u1161"]
json.dump([[t, tokenizer.normalizer.normalize_str(t)] for t in texts], open("texts.json", "w"))
P
cat > compare.mjs <<'P'
import { readFileSync } from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
const tokenizer = new Tokenizer(JSON.parse(readFileSync("tokenizer.json")), {});
const codes = (text) => [...text].map((c) => c.codePointAt(0).toString(16)).join(" ");
const seen = [];
for (const [text, rust] of JSON.parse(readFileSync("texts.json"))) {
  const js = tokenizer.normalizer(text);
  console.log(`${codes(text)}: Rust ${codes(rust)}, JavaScript ${codes(js)}`);
  seen.push(`${js === rust} ${codes(js)}`);
}
const expected = ["true 72 65 64 20 63 69 72 63 6c 65", "true 41 31 20 66 69",
                  "false 1f469 20 1f469", "false ac00"];
if (JSON.stringify(seen) !== JSON.stringify(expected)) process.exit(1);
P
node compare.mjs
