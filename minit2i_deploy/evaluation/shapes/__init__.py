"""Shapes: drawn images with captions, and an exact detector that judges generated ones."""

from __future__ import annotations

from minit2i_deploy.evaluation.shapes.caption import is_held_out, vocabulary_corpus
from minit2i_deploy.evaluation.shapes.detect import Detection, Reading, detect
from minit2i_deploy.evaluation.shapes.draw import draw_scene
from minit2i_deploy.evaluation.shapes.random_scenes import held_out_captions, sample_scene
from minit2i_deploy.evaluation.shapes.scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    NOVEL_COLOURS,
    NOVEL_KINDS,
    SHAPES,
    Object,
    Requirement,
    Scene,
    Spec,
)
from minit2i_deploy.evaluation.shapes.score import ShapesScore, Verdict, judge, wilson_interval

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "KINDS",
    "NOVEL_COLOURS",
    "NOVEL_KINDS",
    "SHAPES",
    "Detection",
    "Object",
    "Reading",
    "Requirement",
    "Scene",
    "ShapesScore",
    "Spec",
    "Verdict",
    "detect",
    "draw_scene",
    "held_out_captions",
    "is_held_out",
    "judge",
    "sample_scene",
    "vocabulary_corpus",
    "wilson_interval",
]
