"""Prompts on which tokenizers differ: white space, joiners, controls, added tokens, ties."""

from __future__ import annotations

import random

PLAIN = [
    "", " ", "  ", "a red circle", " a red circle ", "a  red\tcircle\n", "!!!!!!",
    "a!!!!!!!!!", "\r\n",
    "\u2581a", "</s>", "</s> a", "a </s>red</s></s> circle", "<pad>", "x<unk>y", "<extra_id_0>",
    "a <extra_id_1> b", "  <extra_id_11>  b ", "<extra_id_1 >", "aaaaaaa", "a" * 10000, "!" * 10000,
    "a red circle " * 800, "e\u0301" * 3000, "\ufeffa", "a\u00a0red\u3000circle", "\uff41\uff42",
    "A\u030a\u0301", "\u2460\u0301", "\u0600e\u0301", "\r\u0301", "\u00ad\u0301", "\t\u0327",
    "\u200b", "\u200ba\u200b", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1eb\U0001f1f7",
    "\U0001f44d\U0001f3fd", "3\U0001f3fd", "\u4f60\u597d\u4e16\u754c", "\u1112\u1161\u11ab",
    "\ud55c",
    "\u0e01\u0e33", "\u0928\u093f", "\u338f", "\ufb01ne", "\u01c4", "\u00bd\u0338", "\x01\x7f\x1f",
    "\u2028a\u2029", "\u1680a", "\u0085a", "\ufffe", "\U0010ffff", "\u0300", "a\u0300\u0301\u0302",
]  # fmt: skip
ALPHABET = (
    "abcdefghij redcircle  !!??..,''\"\t\n\r\x01\x7f ABC0123456789<>/s_\u2581\u00e9e"
    "\u0301\u030a\u0327"
    "\u0323\u00f1\u4f60\u597d\u4e16\u754c\uff46\uff55\uff4c\u2460\u338f\ufb01\U0001f600\U0001f44d"
    "\U0001f3fd\U0001f468\u200d\u200b\u200c\u00a0\u3000\ufeff\u00ad\ud55c\u1112\u1161\u0e01"
    "\u0e33\u00e0"
    "\u0928\u093f\u1e9b\u2028\u0600\u06dd\u00b2\u00bd\u0344\u0385\ufdfa\u01c4"
    "\U000e0100\u0890\U000110bd\U000e0001\u20dd\U0001d165\u00a9\u2122"
)


def odd_prompts() -> list[str]:
    """PLAIN and as many random ones as make 2000."""
    source = random.Random(1)
    parts = [*ALPHABET, "</s>", "<extra_id_3>", "  ", "e\u0301", "a red ", "\r\n"]
    prompts = list(PLAIN)
    while len(prompts) < 2000:
        prompts.append("".join(source.choice(parts) for _ in range(source.randint(1, 40))))
    return prompts
