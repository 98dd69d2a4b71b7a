"""The refitter of the fake TensorRT, which takes weights by their names in the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.fakes.fake_plan import initializers
from tests.helpers.fakes.fake_tensorrt_names import DataType, ILogger, Weights


class Refitter:
    """Of one engine."""

    module: Any

    def __init__(self, engine: Any, logger: ILogger) -> None:
        if not engine.refittable:
            logger.log(ILogger.ERROR, "the engine is not refittable")
            raise TypeError("no refitter")
        self._engine, self._logger = engine, logger
        self._given: dict[str, np.ndarray] = {}
        self._base = initializers(Path(engine.stored["onnx"]))

    def get_all_weights(self) -> list[str]:
        return [name for name in self._base if name not in self.module.hidden]

    def get_weights_prototype(self, name: str) -> Weights:
        if name not in self.get_all_weights():
            return Weights(DataType.FLOAT, 0, -1)
        array = self._base[name]
        kind = DataType.HALF if array.dtype == np.float16 else DataType.FLOAT
        return Weights(kind, 0, array.size)

    def set_named_weights(self, name: str, weights: Weights) -> bool:
        expected = self.get_weights_prototype(name)
        if (expected.dtype, expected.size) != (weights.dtype, weights.size):
            self._logger.log(ILogger.ERROR, f"{name}: other type or size")
            return False
        dtype = np.dtype(np.float16 if weights.dtype is DataType.HALF else np.float32)
        raw = np.ctypeslib.as_array(
            (np.ctypeslib.as_ctypes_type(np.uint8) * (weights.size * dtype.itemsize)).from_address(
                weights.address
            )
        )
        self._given[name] = raw.view(dtype).reshape(self._base[name].shape)
        return True

    def get_missing_weights(self) -> list[str]:
        return sorted(
            name
            for group in self.module.merged
            if group & set(self._given)
            for name in group - set(self._given)
        )

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            return False
        self._engine.weights |= {name: array.copy() for name, array in self._given.items()}
        self._engine.open_session()
        return True
